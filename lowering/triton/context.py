"""What the kernels of one generated file share: names, constants, regions as functions, tile summaries."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...ir.domain import Summary
from ...ir.edit import definitions, expressions, name_bound
from ...ir.errors import LoweringError
from ...ir.expr import Expr, Op, free_vars, loads, substitute, transform, var
from ...ir.printer import Path
from ...ir.program import Alloc, Program, Region, Tiles, statements
from ...ir.shapes import COMPUTED, Shapes, TileType, infer, program_line
from ...ir.sharing import shared_parts
from ...ir.spec import SIZES
from .expressions import ExpressionWriter, folded
from .functions import FUNCTIONS

if TYPE_CHECKING:
    from .turns import Turns

# What the file uses beside the program's names: modules, builtins, its own functions.
CLASHES = (
    "tl", "triton", "torch", "range", "float", "configs", "CONFIGS", "size_class", "check", "check_extent", "strides",
    "align_rows", "tile_summary", "programs", "tickets", "ticket", "report", "workers", "least_workers", "most_spins",
    "counters", "resident_programs", "check_workers", "check_turns", "OutOfTurn", "TooFewWorkers", *FUNCTIONS,
)  # fmt: skip


class Names:
    """Names of the generated file; ours give way to the program's."""

    def __init__(self, taken: set[str]) -> None:
        self._taken = {*taken, *CLASHES}
        self._renamed: dict[str, str] = {}

    def __call__(self, name: str) -> str:
        """The text of a name of the program: itself, unless the generated file means something else by it."""
        if name in CLASHES and name not in self._renamed:
            self._renamed[name] = self.fresh(name)
        return self._renamed.get(name, name)

    def rename(self, name: str, text: str) -> None:
        """Write a name of the program as `text`, a fresh name."""
        self._renamed[name] = text

    def numbered(self, name: str) -> str:
        """A name nobody has yet: `name` and the first free number."""
        number = 1
        while f"{name}{number}" in self._taken:
            number += 1
        return self.fresh(f"{name}{number}")

    def fresh(self, name: str) -> str:
        """A name nobody has yet: `name`, or with underscores after it."""
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


@dataclass(slots=True)
class Context:
    """State of one lowering.

    `call_parameters` and `region_functions`: of regions that became functions, what they take and their text.
    `functions`: those of functions.py in use. `gathered`: tensors whose offsets have 32 bits in all. `aligned`: inputs
    whose rows the launcher aligns. `definitions`: what names stand for that are bound to one expression.
    `counters`: tensors that count arrivals, one for each instance of a grid of these extents. `turns`: counters of the
    additions in order to a tensor, by its name. `host_functions`: regions that the launcher calls, by the names they
    have there.
    """

    program: Program
    shapes: Shapes
    names: Names
    sizes: tuple[str, ...]
    inlined: dict[str, Region] = field(default_factory=dict)
    region_functions: dict[str, str] = field(default_factory=dict)
    call_parameters: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = field(default_factory=dict)
    functions: set[str] = field(default_factory=set)
    constants: dict[str, str] = field(default_factory=dict)
    constant_names: dict[str, str] = field(default_factory=dict)
    summaries: dict[str, Summary] = field(default_factory=dict)
    gathered: set[str] = field(default_factory=set)
    aligned: set[str] = field(default_factory=set)
    stride_names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    definitions: dict[str, Expr] = field(default_factory=dict)
    counters: dict[str, tuple[Expr | Tiles, ...]] = field(default_factory=dict)
    turns: dict[str, Turns] = field(default_factory=dict)
    host_functions: dict[str, str] = field(default_factory=dict)

    def refuse(self, path: Path, reason: str, remedy: str) -> LoweringError:
        """The error for a line that this target cannot express."""
        return LoweringError(f"target triton: {reason}\n    {program_line(self.program, path)}\n  hint: {remedy}")

    def inline(self, expr: Expr) -> Expr:
        """The expression with every call of a region replaced by the region's body."""
        return transform(expr, lambda node: self.body(node) if node.op is Op.CALL else None)

    def body(self, node: Expr) -> Expr:
        """The body of a called region with the call's arguments in it."""
        region = self.inlined[str(node.attr)]
        return substitute(region.body, {p.name: arg for p, arg in zip(region.params, node.args, strict=True)})

    def tile(self, axis: str) -> str:
        """Name of the constant for the elements along an axis, padded to a power of two; declares it."""
        if axis in self.shapes.tiles:
            return self._constant(f"TILE_{axis.upper()}", str(self.shapes.tiles[axis].tile))
        size = self.shapes.sizes[axis]
        name = self._constant(axis, str(size))
        padded = padded_size(size)
        return name if padded == size else self._constant(f"{axis}_PADDED", str(padded))

    def size(self, dim: str) -> str:
        """Text of a dimension: a constant, a literal or a kernel argument."""
        return self._constant(dim, str(self.shapes.sizes[dim])) if dim in self.shapes.sizes else dim

    def precision(self) -> str:
        """Name of the constant for the input precision of float32 products."""
        return self._constant("PRECISION", '"ieee"')

    def _constant(self, name: str, value: str) -> str:
        if name not in self.constant_names:
            self.constant_names[name] = name if name in self.shapes.sizes else self.names.fresh(name)
            self.constants[self.constant_names[name]] = value
        return self.constant_names[name]

    def strides(self, tensor: str) -> tuple[str, ...]:
        """A tensor's strides as text: names of arguments, but products of sizes where they are those of a buffer."""
        named = self.stride_parameters(tensor)
        return (*named, *self._fixed_strides(tensor)[len(named) :])

    def stride_parameters(self, tensor: str) -> tuple[str, ...]:
        """Names of a tensor's strides that kernels are told, outermost first."""
        return self._stride_names(tensor)[: sum(not text for text in self._fixed_strides(tensor))]

    def _fixed_strides(self, tensor: str) -> list[str]:
        """Strides of a buffer that sizes decide, as text, after "" for each of the others."""
        dims = self.shapes.dims(tensor)
        if tensor not in {s.name for s in self.program.body if isinstance(s, Alloc)}:
            return [""] * len(dims)
        inner = [*itertools.takewhile(lambda dim: dim.isalnum(), reversed(dims[1:]))]
        found = [" * ".join(map(self.size, reversed(inner[:count]))) or "1" for count in range(len(inner) + 1)]
        return [*[""] * (len(dims) - len(found)), *reversed(found[: len(dims)])]

    def _stride_names(self, tensor: str) -> tuple[str, ...]:
        if tensor not in self.stride_names:
            dims = self.shapes.dims(tensor)
            is_named = len(set(dims)) == len(dims) and all(dim.isidentifier() for dim in dims)
            tags = [dim.lower() if is_named else str(n) for n, dim in enumerate(dims)]
            if len(set(tags)) < len(tags):
                tags = [str(n) for n in range(len(dims))]
            self.stride_names[tensor] = tuple(self.names.fresh(f"stride_{self.names(tensor)}_{tag}") for tag in tags)
        return self.stride_names[tensor]

    def add_summary(self, summary: Summary) -> None:
        """Make a tile summary known as a tensor of the kernels."""
        if summary.name in self.summaries:
            return
        self.summaries[summary.name] = summary
        self.names.rename(summary.name, self.names.fresh(summary.name))
        dims = [var(dim) for dim in self.shapes.dims(summary.tensor)]
        for position, tile in zip(summary.positions, summary.tiles, strict=True):
            dims[position] = var(f"{dims[position]} // {tile}")
        self.shapes.tensors[summary.name] = Alloc(summary.name, self.shapes.dtype(summary.tensor), tuple(dims))


def padded_size(size: int) -> int:
    """The least power of two, at least 16, that holds `size`: what a product on tensor cores can take."""
    return max(16, 1 << (size - 1).bit_length())


def new_context(program: Program) -> Context:
    """The context of a program, with its regions prepared.

    Raises ProgramError when its types do not fit, LoweringError for a size whose name the file needs.
    """
    shapes = infer(program)
    sizes = run_sizes(program)
    clash = sorted({*sizes, *shapes.sizes} & {*CLASHES})
    if clash:
        raise LoweringError(
            f"target triton: {program.name} has a size named {clash[0]!r}, which the generated file needs; rename it"
        )
    context = Context(program, shapes, Names(_names_of(program, shapes)), sizes, definitions=settled(program))
    for region in program.regions:
        _add_region(context, region)
    return context


def settled(program: Program) -> dict[str, Expr]:
    """What names stand for that are bound to one expression, of nothing that is bound anew."""
    known = definitions(program)
    changing = {name_bound(s) for s in statements(program.body)} - set(known)
    while True:
        kept = {name: value for name, value in known.items() if not free_vars(value) & changing}
        if len(kept) == len(known):
            return known
        changing |= set(known) - set(kept)
        known = kept


def run_sizes(program: Program) -> tuple[str, ...]:
    """Sizes known at run time: dimensions, and further ones that an expression reads."""
    dims = [dim for param in program.params for dim in param.dims if isinstance(dim, str)]
    read = {name for s in statements(program.body) for e in expressions(s) for name in free_vars(e)}
    for region in program.regions:
        read |= free_vars(region.body) - {param.name for param in region.params}
    further = [name for name in (*SIZES, *program.free_sizes) if name in read]
    order = dict.fromkeys((*SIZES, *program.free_sizes, *dims))
    return tuple(name for name in order if name in (*dims, *further) and name not in program.fixed)


def _names_of(program: Program, shapes: Shapes) -> set[str]:
    regions = {region.name for region in program.regions}
    parameters = {param.name for region in program.regions for param in region.params}
    return {program.name, *shapes.sizes, *shapes.tensors, *shapes.names, *shapes.tiles, *regions, *parameters}


def _add_region(context: Context, region: Region) -> None:
    """Take a region in: as a function if it computes something from its arguments alone, else only to be inlined."""
    body = folded(context.inline(region.body), context.shapes.sizes)
    region = Region(region.name, region.params, body)
    context.inlined[region.name] = region
    if body.op in (Op.VAR, Op.CONST) or loads(body):
        return
    used = free_vars(body)
    positions = tuple(n for n, param in enumerate(region.params) if param.name in used)
    parameters = [region.params[n] for n in positions]
    sizes = tuple(size for size in context.sizes if size in used and size not in {p.name for p in region.params})
    context.call_parameters[region.name] = (positions, sizes)
    local = Shapes(context.shapes.sizes, names={p.name: TileType(COMPUTED[p.kind]) for p in region.params})
    writer = ExpressionWriter(local, context.names, str, {}, context.functions)
    arguments = ", ".join(context.names(name) for name in (*(p.name for p in parameters), *sizes))
    bindings, result = shared_parts(body, lambda: context.names.numbered("part"))
    for name, value in bindings:
        local.names[name] = TileType(COMPUTED[value.kind])
        if not writer.is_nonnegative(value):
            writer.may_be_negative.add(name)
    lines = [*(f"{name} = {writer.text(value, ())}" for name, value in bindings), f"return {writer.text(result, ())}"]
    text = "".join(f"    {line}\n" for line in lines)
    context.region_functions[region.name] = f"@triton.jit\ndef {context.names(region.name)}({arguments}):\n{text}"
