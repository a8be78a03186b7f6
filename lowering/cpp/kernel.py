"""A whole C++ kernel from a program: arguments, one function per grid, and the entry points."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cache

import jinja2

from ...ir.dtypes import DType, Kind
from ...ir.errors import LoweringError
from ...ir.expr import Expr, Op, as_expr, var, walk
from ...ir.printer import print_expr, print_statement
from ...ir.program import (
    Alloc,
    Grid,
    Load,
    Param,
    Program,
    Statement,
    TileAt,
    TileLoop,
    Tiles,
    statements,
)
from ...ir.shapes import Shapes, infer
from ...ir.spec import SIZES
from .body import BodyWriter
from .expressions import Lanes, Names, Term, emit, identifier
from .loops import domain_of, is_run_time, summaries_of
from .prepare import asks_whole, prepare
from .reductions import is_ordered, reduced, turn_dims, turns_of
from .reuse import in_place
from .rows import escaping
from .scatters import needs_scatter
from .storage import C_TYPE, FLOATS, LANES, Storage, plan_storage, round_up
from .sweeps import Frame

STACK_LIMIT_BYTES = 4 << 20
STARTED = "started"


@dataclass(slots=True)
class GridText:
    """One grid as C++: its function and its launch."""

    name: str
    header: str
    names: list[str]
    lines: list[str]
    launch: list[str]


@dataclass(slots=True)
class KernelText:
    """Everything the template needs."""

    program: Program
    shapes: Shapes
    storage: Storage
    sizes: tuple[str, ...]
    scalars: dict[str, Term] = field(default_factory=dict)


def size_names(program: Program) -> tuple[str, ...]:
    """The sizes that a kernel takes as arguments, in order."""
    names = dict.fromkeys([*SIZES, *program.free_sizes])
    names |= dict.fromkeys(d for p in program.params for d in p.dims if isinstance(d, str))
    return tuple(name for name in names if name not in program.fixed)


def render(program: Program, floats: tuple[DType, ...] = FLOATS) -> str:
    """The C++ source of a program. Raises LoweringError naming what the CPU cannot express.

    floats: what the instruction set multiplies as float32.
    """
    prepared = prepare(program)
    shapes = infer(prepared)
    text = KernelText(prepared, shapes, plan_storage(prepared, shapes, floats), size_names(program))
    text.scalars = {name: Term(f"a.{identifier(name)}", Kind.INT) for name in text.sizes}
    text.scalars |= {name: Term(name, Kind.INT) for name in program.fixed}
    grids = [_grid(text, number, grid) for number, grid in enumerate(_grids(prepared))]
    fields, reads = _arguments(text)
    ranks = sum(1 + 2 * len(p.dims) for p in program.params)
    return str(
        _template().render(
            program=program, program_text=str(program), digest=hashlib.sha256(str(program).encode()).hexdigest(),
            fields=fields, reads=reads, grids=grids, sizes=text.sizes, workspace_position=ranks + len(text.sizes),
            has_turns=bool(reduced(program)), has_scatters=needs_scatter(prepared, shapes),
            has_bf16_products=DType.BF16 in text.storage.operand.values(),
            launches=[*_summary_launches(text), *_resets(text), *(line for grid in grids for line in grid.launch)],
        )
    )  # fmt: skip


@cache
def _template() -> jinja2.Template:
    loader = jinja2.PackageLoader("tilewright.lowering.cpp", ".")
    environment = jinja2.Environment(
        loader=loader, undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    return environment.get_template("kernel.cpp.j2")


def _grids(program: Program) -> list[Grid]:
    found = []
    for statement in program.body:
        if isinstance(statement, Grid):
            found.append(statement)
        elif not isinstance(statement, Alloc):
            raise LoweringError(f"{print_statement(statement)}: outside of grids the cpu target knows only alloc")
    return found


# Arguments


def _arguments(text: KernelText) -> tuple[list[str], list[str]]:
    fields, reads = [], []
    for param in text.program.params:
        name, kind = identifier(param.name), _tensor_type(param)
        fields.append(f"{kind} {name};")
        reads.append(f"a.{name} = reader.tensor<{_element_type(param)}, {len(param.dims)}>();")
    if text.sizes:
        fields.append(f"int {', '.join(map(identifier, text.sizes))};")
    reads += [f"a.{identifier(size)} = reader.size();" for size in text.sizes]
    for alloc in (s for s in text.program.body if isinstance(s, Alloc)):
        kind, make = _buffer(text, alloc)
        fields.append(f"{kind} {identifier(alloc.name)};")
        reads.append(f"a.{identifier(alloc.name)} = {make};")
    for name, kind, make in (*_summary_tables(text), *_turn_tables(text)):
        fields.append(f"{kind} {name};")
        reads.append(f"a.{name} = {make};")
    return fields, reads


def _element_type(param: Param) -> str:
    return C_TYPE[param.dtype] if param.is_output else f"const {C_TYPE[param.dtype]}"


def _tensor_type(param: Param) -> str:
    return f"Tensor<{_element_type(param)}, {len(param.dims)}>"


def _buffer(text: KernelText, alloc: Alloc) -> tuple[str, str]:
    dims = [_scalar(text, dim) for dim in alloc.dims]
    rank = len(dims)
    layout = text.storage.packed.get(alloc.name)
    blocks = {**text.storage.upended, **text.storage.tiled}
    if alloc.name in blocks:
        block, width = blocks[alloc.name], text.shapes.extent(print_expr(alloc.dims[-1]))
        kind = f"operand<{C_TYPE[alloc.dtype]}>, {block * width}, {rank - 1}"
        counts = ", ".join([*dims[:-2], f"ceil_div({dims[-2]}, {block})"])
        return f"Blocks<{kind}>", f"packed<{kind}>(arena, {{{counts}}})"
    if layout is None:
        kind = C_TYPE[alloc.dtype]
        return f"Tensor<{kind}, {rank}>", f"plain<{kind}, {rank}>(arena, {{{', '.join(dims)}}})"
    width = text.shapes.extent(print_expr(alloc.dims[-1]))
    block, stored = round_up(layout.block, LANES), C_TYPE[alloc.dtype]
    deep = width if layout.order == "columns" else block
    wide = block if layout.order == "columns" else round_up(width, LANES)
    size = f"padded_depth<{stored}>({deep}) * {wide}"
    counts = ", ".join([*dims[:-2], f"ceil_div({dims[-2]}, {layout.block})"])
    kind = f"operand<{stored}>, {size}, {rank - 1}"
    return f"Blocks<{kind}>", f"packed<{kind}>(arena, {{{counts}}})"


def _scalar(text: KernelText, value: Expr) -> str:
    return emit(value, Lanes(text.scalars), "", [], Names()).text


def _summary_tables(text: KernelText) -> list[tuple[str, str, str]]:
    tables = []
    held = {Kind.FLOAT: "float", Kind.INT: "std::int32_t", Kind.BOOL: "bool"}
    for name, summary in summaries_of(text.program, text.shapes).items():
        dims = _dims(text, summary.tensor)
        counts = [f"std::int64_t({d})" for d in dims]
        for position, tile in zip(summary.positions, summary.tiles, strict=True):
            counts[position] = f"ceil_div({dims[position]}, {tile})"
        kind = f"{held[summary.kind]}, {len(dims)}"
        tables.append((identifier(name), f"Tensor<{kind}>", f"plain<{kind}>(arena, {{{', '.join(counts)}}})"))
    return tables


def _turn_tables(text: KernelText) -> list[tuple[str, str, str]]:
    """Counters of those who have added to a tile, and of the instances of an ordered grid that have been started."""
    tables = []
    for tensor in reduced(text.program):
        pairs = turn_dims(text.program, text.shapes, tensor)
        sizes = [_scalar(text, var(dim) if isinstance(dim, str) else as_expr(dim)) for dim, _ in pairs]
        counts = [f"ceil_div({s}, {tile})" if tile > 1 else s for s, (_, tile) in zip(sizes, pairs, strict=True)]
        kind = f"Turn, {len(counts)}"
        tables.append((turns_of(tensor), f"Tensor<{kind}>", f"plain<{kind}>(arena, {{{', '.join(counts)}}})"))
    if any(is_ordered(grid) for grid in _grids(text.program)):
        count = len(_grids(text.program))
        tables.append((STARTED, "Tensor<Turn, 1>", f"plain<Turn, 1>(arena, {{{count}}})"))
    return tables


def _dims(text: KernelText, tensor: str) -> list[str]:
    known = text.scalars
    return [known[dim].text if dim in known else dim for dim in text.shapes.dims(tensor)]


def _summary_launches(text: KernelText) -> list[str]:
    lines = []
    for name, summary in summaries_of(text.program, text.shapes).items():
        dims = _dims(text, summary.tensor)
        steps = ["1"] * len(dims)
        for position, tile in zip(summary.positions, summary.tiles, strict=True):
            steps[position] = str(tile)
        greatest = "true" if summary.op == "max" else "false"
        lines.append(
            f"summarise(a.{identifier(summary.tensor)}, {{{', '.join(dims)}}}, {{{', '.join(steps)}}}, {greatest}, "
            f"a.{identifier(name)});"
        )
    return lines


def _resets(text: KernelText) -> list[str]:
    return [f"reset(a.{name});" for name, _, _ in _turn_tables(text)]


# Grids


def _grid(text: KernelText, number: int, grid: Grid) -> GridText:
    name = f"grid_{number}"
    taken = {*text.sizes, *text.program.fixed, *map(identifier, text.shapes.names), "a", "r", "u", "c", "out"}
    names = Names(taken)
    inside = set(_bound(grid.body))
    tiles = {n for n, kind in text.shapes.names.items() if kind.axes}
    buffers = frozenset(escaping(text.program, text.shapes) & tiles)
    extents = {name: _extent(text, name, cut) for name, cut in text.shapes.tiles.items()}
    frame = Frame(text.storage, buffers, extents, names, _has_whole_tiles(grid))
    writer = BodyWriter(text.program, frame, dict(text.scalars))
    for variable, extent in zip(grid.names, grid.extents, strict=True):
        writer.scalars[variable] = Term(identifier(variable), Kind.INT)
        if isinstance(extent, Tiles):
            writer.bind_extent(variable, extent)
            if extent.most is not None:
                writer.add(f"if ({identifier(variable)} * {extent.tile} >= {extents[variable]}) return;")
            writer.bind_tile(variable)
    memory = [n for n in sorted(buffers & inside) if not _is_alias(text, grid, n)]
    moved = in_place(grid, text.storage, frozenset(memory))
    memory = [n for n in memory if n not in moved]
    _check_stack(text, grid, memory)
    writer.declare_buffers(memory)
    for new, old in moved.items():
        writer.add(f"float* const {identifier(new)} = {identifier(old)};")
    writer.body(grid.body)
    return GridText(name, print_statement(grid).removesuffix(":"), [identifier(n) for n in grid.names],
                    writer.lines, _launch(text, name, grid))  # fmt: skip


def _has_whole_tiles(grid: Grid) -> bool:
    """Whether some loop leaves masks out in whole tiles, by a loop of their own or by asking tile by tile."""
    loops = [s for s in statements(grid.body) if isinstance(s, TileLoop)]
    return any(loop.part == "full" or asks_whole(loop.name, loop.body) for loop in loops)


def _extent(text: KernelText, name: str, tiles: Tiles) -> str:
    """C++ text of an extent: an expression of sizes, or the name that the grid gives it."""
    return f"{identifier(name)}_extent" if is_run_time(tiles.extent, text.program) else _scalar(text, tiles.extent)


def _bound(body: tuple[Statement, ...]) -> list[str]:
    return [s.name for s in statements(body) if hasattr(s, "name") and not isinstance(s, (TileLoop, TileAt))]


def _is_alias(text: KernelText, grid: Grid, name: str) -> bool:
    """Tiles that are only another name for memory elsewhere, or that a packing store reads directly."""
    if name in text.storage.plain or name in text.storage.summed:
        return True
    for statement in statements(grid.body):
        if isinstance(statement, Load) and statement.name == name:
            is_read = name in text.storage.operand or name in text.storage.others
            is_elsewhere = statement.source.name in text.storage.packed or name in text.storage.streamed
            return is_elsewhere or not is_read
    return False


def _check_stack(text: KernelText, grid: Grid, names: list[str]) -> None:
    total = 0
    for name in names:
        axes = text.shapes.names[name].axes
        extents = [round_up(text.shapes.extent(axis), LANES) for axis in axes]
        total += 4 * extents[0] * (extents[1] if len(extents) > 1 else 1)
    if total > STACK_LIMIT_BYTES:
        raise LoweringError(
            f"{print_statement(grid)}: its tiles take {total >> 10} KiB, more than the {STACK_LIMIT_BYTES >> 10} KiB "
            "that a thread's stack safely holds; use smaller tiles"
        )


def _launch(text: KernelText, name: str, grid: Grid) -> list[str]:
    extents, args = [], []
    for position, extent in enumerate(grid.extents):
        if isinstance(extent, Tiles):
            count = f"ceil_div({_scalar(text, extent.most or extent.extent)}, {extent.tile})"
            is_reversed = grid.order == "descending" or (grid.order == "longest_first" and _grows(text, grid))
            args.append(f"{count} - 1 - at[{position}]" if is_reversed else f"at[{position}]")
            extents.append(count)
        else:
            extents.append(_scalar(text, extent))
            args.append(f"at[{position}]")
    rank = len(extents)
    call = f"{name}({', '.join(['a', *args])});"
    body = f"[&](const int (&at)[{rank}]) {{ {call} }}"
    if is_ordered(grid):
        turn = f"*a.{STARTED}.at({name.removeprefix('grid_')})"
        return [f"for_each_in_order<{rank}>({{{', '.join(extents)}}}, {turn}, {body});"]
    return [f"for_each<{rank}>({{{', '.join(extents)}}}, {body});"]


def _grows(text: KernelText, grid: Grid) -> bool:
    """Whether later row tiles visit more column tiles: the upper bound of a loop depends on the row tile."""
    for loop in (s for s in statements(grid.body) if isinstance(s, TileLoop)):
        domain = domain_of(loop, text.program, text.shapes)
        if domain is None:
            continue
        names = {str(e.attr) for e in walk(domain.plan.hi) if e.op is Op.VAR}
        if names & {f"{domain.row_name}_lo", f"{domain.row_name}_hi", f"{domain.row_name}_tile"}:
            return True
    return False

