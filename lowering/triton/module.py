"""A program as one Triton file: kernels, the functions they call, the launcher, put together by a template."""

from __future__ import annotations

import functools
import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path as FilePath

import jinja2

from ...ir.errors import LoweringError
from ...ir.program import Alloc, Grid, Program
from .arrivals import are_joined, joined, merge_arguments
from .context import Context, new_context
from .functions import FUNCTIONS
from .kernel import Kernel, KernelWriter
from .launcher import write_launcher
from .layout import wrapped
from .tuning import ARCHES, Rows, configurations
from .turns import MOST_SPINS, REPORT, TICKETS

ALIGNED = 16  # Triton asks whether an integer argument is divisible by this
BACKWARD_PRODUCTS = 3  # a forward kernel has two


@dataclass(frozen=True, slots=True)
class KernelText:
    """A kernel as the template shows it."""

    name: str
    tuning: str
    parameters: list[str]
    unspecialised: list[str]
    body: tuple[str, ...]
    merge: FunctionText | None


@dataclass(frozen=True, slots=True)
class FunctionText:
    """A function that only kernels call, as the template shows it."""

    name: str
    parameters: list[str]
    body: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Module:
    """A generated file: its text, and its kernels as compile reports need them."""

    source: str
    kernels: tuple[Kernel, ...]
    context: Context
    configs: dict[str, Rows]


def write_module(program: Program, arch: str) -> Module:
    """The file of a program. Raises LoweringError for a line that Triton cannot express or an unknown `arch`."""
    if arch not in ARCHES:
        raise LoweringError(f"target triton: unknown architecture {arch!r}; wanted one of {', '.join(ARCHES)}")
    context = new_context(program)
    _check_tiles(context)
    kernels = _kernels(context)
    launcher = write_launcher(context, kernels)
    configs = _configs(context, kernels)
    called = [context.region_functions[name] for name in context.region_functions if _is_called(name, context, kernels)]
    text = _template().render(
        name=context.names(program.name),
        digest=hashlib.sha256(str(program).encode()).hexdigest(),
        arch=arch,
        call=f"{context.names(program.name)}({launcher.signature})",
        constants=_constants(context),
        configs=[(key, ", ".join(map(str, rows))) for key, rows in configs.items()],
        functions=[*(FUNCTIONS[name] for name in FUNCTIONS if name in context.functions), *called],
        kernels=[_kernel_text(context, kernel) for kernel in kernels],
        host_functions=context.host_functions.values(),
        has_counters=bool(context.counters),
        has_turns=bool(context.turns),
        has_summaries=bool(context.summaries),
        has_gathers=bool(context.gathered),
        has_aligned=bool(context.aligned),
        launcher=launcher,
    )
    return Module(text, tuple(kernels), context, configs)


@functools.cache
def _template() -> jinja2.Template:
    text = (FilePath(__file__).parent / "module.py.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    return environment.from_string(text)


def _check_tiles(context: Context) -> None:
    for name, tiles in context.shapes.tiles.items():
        if tiles.tile & (tiles.tile - 1):
            lower = 1 << (tiles.tile.bit_length() - 1)
            raise LoweringError(
                f"target triton: tile variable {name} of {context.program.name} has tiles of {tiles.tile}; Triton's "
                f"tiles are powers of two: write {lower} or {2 * lower}"
            )


def _kernels(context: Context) -> list[Kernel]:
    body = context.program.body
    grids = {position: statement for position, statement in enumerate(body) if isinstance(statement, Grid)}
    last = {at: then for at, then in itertools.pairwise(grids) if are_joined(context, grids[at], grids[then])}
    kernels: list[Kernel] = []
    for position, statement in enumerate(body):
        if position in last.values():
            continue
        if isinstance(statement, Grid):
            number = "" if len(grids) - len(last) == 1 else f"_{len(kernels) + 1}"
            name = context.names.fresh(f"{context.program.name}_kernel{number}")
            writer = KernelWriter(context, statement, (position,))
            kernel = writer.kernel(name)
            then = last.get(position)
            kernels.append(kernel if then is None else joined(context, writer, kernel, grids[then], then))
        elif not isinstance(statement, Alloc) or statement.space != "global":
            reason = "a statement outside every grid that is no global alloc"
            raise context.refuse((position,), reason, "move it into a grid")
    return kernels


def parts(kernel: Kernel) -> tuple[Kernel, ...]:
    """The kernel, and the function at its end."""
    return (kernel,) if kernel.merge is None else (kernel, kernel.merge)


def _is_called(region: str, context: Context, kernels: list[Kernel]) -> bool:
    call = f"{context.names(region)}("
    return any(call in line for kernel in kernels for part in parts(kernel) for line in part.body)


def _configs(context: Context, kernels: list[Kernel]) -> dict[str, Rows]:
    """The file's tuning table; none when no kernel is tuned."""
    if not any(_tuning(context, kernel) for kernel in kernels):
        return {}
    element = max((param.dtype.bytes for param in context.program.params[:1]), default=4)
    has_wide_loads = any(kernel.has_wide_loads for kernel in kernels)
    kind = "split" if any(kernel.merge is not None for kernel in kernels) else "dense"
    backward = [kernel for kernel in kernels if kernel.products >= BACKWARD_PRODUCTS]
    if backward:
        kind = "backward" if len(backward) == 1 else "recompute"
    sizes = context.shapes.sizes
    width = max((sizes.get(str(dim), 0) for param in context.program.params for dim in param.dims[-1:]), default=64)
    return configurations(element, width, has_wide_loads, kind)


def _tuning(context: Context, kernel: Kernel) -> str:
    """Arguments of the kernel's autotune decorator; none for one without products or fixed warps."""
    if not kernel.products and kernel.grid.warps is None:
        return ""
    stages = kernel.stages if kernel.products else 1
    options = {"warps": kernel.grid.warps, "stages": stages}
    chosen = ", ".join(f"{name}={value}" for name, value in options.items() if value is not None)
    names = ", ".join(f'"{context.names(name)}"' for name in kernel.restores)
    restores = f", restore_value=[{names}]" if names else ""
    return f'configs=configs({chosen}), key=["size_class"]{restores}'


def _kernel_text(context: Context, kernel: Kernel) -> KernelText:
    groups = [[context.names(name) for name in kernel.tensors]]
    groups += [list(context.stride_parameters(name)) for name in kernel.tensors]
    groups.append([*kernel.sizes, "size_class"])
    if kernel.turns:
        groups.append([*kernel.turns, TICKETS, REPORT, f"{MOST_SPINS}: tl.constexpr"])
    variable = [name for tensor in kernel.tensors for name in unspecialised_strides(context, tensor)]
    return KernelText(
        name=kernel.name,
        tuning=_tuning(context, kernel),
        parameters=[line for group in groups for line in wrapped(group)],
        unspecialised=wrapped([f'"{name}"' for name in (*variable, *kernel.sizes, "size_class")]),
        body=kernel.body,
        merge=None if kernel.merge is None else _function_text(context, kernel.merge),
    )


def _function_text(context: Context, merge: Kernel) -> FunctionText:
    return FunctionText(merge.name, wrapped(merge_arguments(context, merge)), merge.body)


def unspecialised_strides(context: Context, tensor: str) -> tuple[str, ...]:
    """Strides that change with run-time lengths in ways Triton would compile anew for.

    Rows of a fixed length divisible by 16 make every outer stride of a dense tensor divisible by 16, whatever the
    other sizes are; rows that the launcher aligns do so too. Elsewhere divisibility is left out of the kernel's type.
    The last stride (usually 1) always is part of it.
    """
    if tensor in context.aligned:
        return ()
    last = context.shapes.dims(tensor)[-1:]
    size = context.shapes.sizes.get(last[0], int(last[0]) if last[0].isdigit() else 1) if last else 1
    names = context.stride_parameters(tensor)
    if len(names) < len(context.shapes.dims(tensor)):
        return () if size % ALIGNED == 0 else names
    return () if size % ALIGNED == 0 else names[:-1]


def _constants(context: Context) -> list[tuple[str, str]]:
    """Module constants: fixed sizes in the header's order, then tiles, then the rest."""
    order = {name: number for number, name in enumerate(context.shapes.sizes)}
    return sorted(context.constants.items(), key=lambda item: order.get(item[0], len(order)))
