"""The Python function of a generated file: checks, allocates outputs, computes tile summaries, launches the grids."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.domain import Summary
from ...ir.dtypes import DType
from ...ir.errors import LoweringError
from ...ir.expr import Expr, Op, call, free_vars, transform
from ...ir.printer import print_expr
from ...ir.program import Alloc, Param, TileAt, TileLoop, Tiles, statements
from .context import Context
from .expressions import folded
from .kernel import Kernel
from .layout import wrapped
from .turns import MOST_SPINS, REPORT, TICKETS

TORCH_TYPES = {
    DType.F64: "torch.float64", DType.F32: "torch.float32", DType.BF16: "torch.bfloat16", DType.F16: "torch.float16",
    DType.I64: "torch.int64", DType.I32: "torch.int32", DType.I16: "torch.int16", DType.I8: "torch.int8",
    DType.U8: "torch.uint8", DType.BOOL: "torch.bool",
}  # fmt: skip
# What may be given where additions have an order, and what the docstring says of it.
OPTIONS = ("workers=None", "least_workers=1", "most_spins=0")
OPTION_LINES = (
    "workers: programs to launch, by default as many as run at once; the bits do not depend on it",
    "least_workers: how many must run at once for no wait to last forever; TooFewWorkers where they cannot",
    "most_spins: looks after which a wait gives up and raises OutOfTurn, which stops the queue; 0 waits forever",
)


@dataclass(frozen=True, slots=True)
class Launcher:
    """The function's parameters, its docstring's lines on tensors, its body."""

    signature: str
    tensors: tuple[str, ...]
    lines: tuple[str, ...]


def write_launcher(context: Context, kernels: list[Kernel]) -> Launcher:
    """The launcher of all kernels of a program, in order."""
    params = context.program.params
    inputs = [p for p in params if not p.is_output]
    outputs = [p for p in params if p.is_output]
    if not inputs:
        raise LoweringError(f"target triton: {context.program.name} has no input, so no sizes and no device; add one")
    names = [context.names(p.name) for p in outputs]
    asked = asked_sizes(context)
    optional = [*(OPTIONS if context.turns else ()), *(f"{name}=None" for name in names)]
    signature = ", ".join([*(context.names(p.name) for p in inputs), "*", *asked, *optional])
    tensors = [f"{context.names(p.name)}: {p.dtype.value} [{', '.join(map(str, p.dims))}]" for p in params]
    tensors += [f"{', '.join(asked)}: sizes that no input has"] if asked else []
    tensors += [line for line in OPTION_LINES if context.turns]
    lines = [*_sizes(context, inputs), *_outputs(context, inputs, outputs), *_checks(context, params)]
    aligned = [context.names(p.name) for p in inputs if p.name in context.aligned]
    lines += [f"{name} = align_rows({name})" for name in aligned]
    gathered = [p.name for p in inputs if p.name in context.gathered]
    lines += [f'check_extent("{name}", {context.names(name)})' for name in gathered]
    lines += [_buffer(context, inputs, alloc) for alloc in context.program.body if isinstance(alloc, Alloc)]
    lines += [_summary(context, table) for table in context.summaries.values()]
    device = f"{context.names(inputs[0].name)}.device"
    for name, extents in context.counters.items():
        counts = " * ".join(_count(context, extent) for extent in extents)
        lines.append(f"{name} = arrival_counts({counts}, {device})")
    lines.append(f"with torch.cuda.device_of({context.names(inputs[0].name)}):")
    for kernel in kernels:
        launch = _launch_in_order if kernel.turns else _launch
        lines += [f"    {line}" for line in launch(context, kernel)]
    lines.append(f"return {', '.join(names)}")
    return Launcher(signature, tuple(tensors), tuple(lines))


def _sizes(context: Context, inputs: list[Param]) -> list[str]:
    """Bind every run-time size from the first input that has it."""
    known: set[str] = set()
    lines = []
    for param in inputs:
        new = [dim for dim in param.dims if dim in context.sizes and dim not in known]
        if new:
            parts = [str(dim) if dim in new else "_" for dim in param.dims]
            lines.append(f"{', '.join(parts)}{',' if len(parts) == 1 else ''} = {context.names(param.name)}.shape")
            known.update(str(dim) for dim in new)
    return lines


def asked_sizes(context: Context) -> tuple[str, ...]:
    """Sizes that are no dimension of an input, so that the caller gives them."""
    dims = {dim for param in context.program.params if not param.is_output for dim in param.dims}
    return tuple(size for size in context.sizes if size not in dims)


def _shape(context: Context, dims: tuple[str | int, ...]) -> str:
    parts = [str(context.shapes.sizes.get(str(dim), dim)) for dim in dims]
    return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"


def _outputs(context: Context, inputs: list[Param], outputs: list[Param]) -> list[str]:
    lines = []
    device = f"{context.names(inputs[0].name)}.device"
    for param in outputs:
        name = context.names(param.name)
        lines.append(f"if {name} is None:")
        made = f"torch.empty({_shape(context, param.dims)}, dtype={TORCH_TYPES[param.dtype]}, device={device})"
        lines.append(f"    {name} = {made}")
    return lines


def _checks(context: Context, params: tuple[Param, ...]) -> list[str]:
    rows = [f'("{p.name}", {context.names(p.name)}, {TORCH_TYPES[p.dtype]}, {_shape(context, p.dims)})' for p in params]
    return ["check(", *(f"    {row}," for row in rows), ")"]


def _buffer(context: Context, inputs: list[Param], alloc: Alloc) -> str:
    dims = [host_text(context, dim) for dim in alloc.dims]
    shape = f"({', '.join(dims)}{',' if len(dims) == 1 else ''})"
    device = f"{context.names(inputs[0].name)}.device"
    return f"{context.names(alloc.name)} = torch.empty({shape}, dtype={TORCH_TYPES[alloc.dtype]}, device={device})"


def _summary(context: Context, summary: Summary) -> str:
    tiles = ", ".join(f"{dim}: {tile}" for dim, tile in zip(summary.positions, summary.tiles, strict=True))
    reduce = "torch.amin" if summary.op == "min" else "torch.amax"
    return f"{context.names(summary.name)} = tile_summary({context.names(summary.tensor)}, {reduce}, {{{tiles}}})"


def _launch(context: Context, kernel: Kernel) -> list[str]:
    counts = [_count(context, extent) for extent in kernel.grid.extents]
    return [
        f"programs = {' * '.join(counts)}",
        "if programs > 0:",
        f"    {kernel.name}[(programs,)](",
        *(f"        {line}" for line in _arguments(context, kernel)),
        "    )",
    ]


def _arguments(context: Context, kernel: Kernel) -> list[str]:
    """What every kernel is launched with, as lines."""
    tensors = [context.names(name) for name in kernel.tensors]
    size_class = f"size_class({', '.join(tiled_sizes(context, kernel))})"
    return [
        f"{', '.join(tensors)},",
        *wrapped([text for name in kernel.tensors if (text := _strides(context, name))]),
        f"{', '.join([*kernel.sizes, size_class])},",
    ]


def _strides(context: Context, tensor: str) -> str:
    """The strides that kernels are told."""
    told, dims = len(context.stride_parameters(tensor)), len(context.shapes.dims(tensor))
    part = f"[:{told}]" if told < dims else ""
    return f"*strides({context.names(tensor)}){part}" if told else ""


def _launch_in_order(context: Context, kernel: Kernel) -> list[str]:
    """Launch programs that take instances in order; where asked, look whether a wait gave up."""
    counts = [_count(context, extent) for extent in kernel.grid.extents]
    targets = [name for name, turns in context.turns.items() if turns.name in kernel.turns]
    sizes = {name: [_count(context, count) for count in context.turns[name].counts] for name in targets}
    totals = [" * ".join(part for part in sizes[name] if part != "1") or "1" for name in targets]
    shown = [f'("{name}", [{", ".join(sizes[name])}])' for name in targets]
    device = f"{context.names(context.program.params[0].name)}.device"
    return [
        f"programs = {' * '.join(counts)}",
        "if programs > 0:",
        f"    {', '.join([TICKETS, REPORT, *kernel.turns])} = counters({device}, 1, 6, {', '.join(totals)})",
        f"    if {device}.type != \"cuda\" and {MOST_SPINS} == 0:",
        f"        {MOST_SPINS} = 1  # programs are interpreted one after the other: a wait does not help",
        "    arguments = (",
        *(f"        {line}" for line in _arguments(context, kernel)),
        f"        {', '.join([*kernel.turns, TICKETS, REPORT, MOST_SPINS])},",
        "    )",
        f"    programs = check_workers({kernel.name}, arguments, {device}, programs, workers, least_workers)",
        f"    {kernel.name}[(programs,)](*arguments)",
        f"    check_turns({REPORT}, {MOST_SPINS}, {', '.join(shown)})",
    ]


def _count(context: Context, extent: Expr | Tiles) -> str:
    if isinstance(extent, Tiles):
        return f"triton.cdiv({host_text(context, extent.most or extent.extent)}, {extent.tile})"
    text = host_text(context, extent)
    return text if extent.op in (Op.VAR, Op.CALL) or text.isdigit() else f"({text})"


def host_text(context: Context, expr: Expr) -> str:
    """A size as Python text; regions that it calls become functions of the file."""
    return print_expr(folded(transform(expr, lambda node: _on_host(context, node)), context.shapes.sizes))


def _on_host(context: Context, node: Expr) -> Expr | None:
    if node.op is not Op.CALL:
        return None
    region = context.program.region(str(node.attr))
    name = f"{region.name}_on_host"
    if name not in context.host_functions:
        body = host_text(context, region.body)
        names = ", ".join(param.name for param in region.params)
        context.host_functions[name] = f"def {name}({names}):\n    return {body}\n"
    return call(name, node.args, node.kind)


def tiled_sizes(context: Context, kernel: Kernel) -> list[str]:
    """Run-time sizes that the kernel cuts into tiles: what its time depends on."""
    loops = [s.tiles for s in statements(kernel.grid.body) if isinstance(s, (TileLoop, TileAt))]
    tiles = [extent for extent in kernel.grid.extents if isinstance(extent, Tiles)]
    used = set().union(*(free_vars(t.most or t.extent) for t in (*tiles, *loops)))
    return [size for size in context.sizes if size in used]
