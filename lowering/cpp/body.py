"""C++ text of a grid's body: one walker over statements, one table of what each becomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ...ir.dtypes import Kind
from ...ir.errors import LoweringError
from ...ir.expr import Expr, const
from ...ir.printer import print_statement
from ...ir.program import (
    All,
    Fill,
    Gemm,
    If,
    Let,
    Load,
    Program,
    RangeLoop,
    Reduce,
    ReduceAdd,
    Ref,
    ScatterAdd,
    Statement,
    Store,
    TileAt,
    TileAxis,
    TileLoop,
    Tiles,
    statements,
)  # fmt: skip
from .affine import block_number, is_scattered
from .expressions import SCALAR, Lanes, Term, emit, identifier
from .loops import LoopWriter, domain_of, is_run_time
from .places import PlaceWriter
from .prepare import asks_whole, whole_of
from .products import Upcoming, product, upcoming
from .reductions import reduce_add
from .rows import Run, split_body
from .scatters import scatter_add, whole_sum
from .stages import split_stages
from .storage import C_TYPE, LANES, is_packing, round_up
from .sweeps import Frame, RunWriter


@dataclass(slots=True)
class BodyWriter:
    """Writes the statements of one grid. `declared`: buffers that already have memory."""

    program: Program
    frame: Frame
    scalars: dict[str, Term]
    lines: list[str] = field(default_factory=list)
    depth: int = 1
    ragged: frozenset[str] = frozenset()
    declared: set[str] = field(default_factory=set)
    deferred: dict[str, Load] = field(default_factory=dict)  # loads that a packing store carries out
    upcoming: dict[str, Upcoming] = field(default_factory=dict)  # what is read after a streamed right operand

    def body(self, statements: tuple[Statement, ...]) -> None:
        """Every statement, runs fused."""
        for item in split_body(statements, self.frame.shapes):
            if isinstance(item, Run):
                writer = RunWriter(self.frame, self.scalars, self.ragged, self._indent())
                self.lines += writer.write(item)
                continue
            write = _WRITERS.get(type(item))
            if write is None:
                raise LoweringError(
                    f"{print_statement(item)}: the cpu target has no form for this statement; "
                    "it runs grids, loops, loads, stores and tile arithmetic"
                )
            write(self, item)

    def declare_buffers(self, names: list[str]) -> None:
        """Memory for tiles, one line each."""
        for name in names:
            axes, storage = self.frame.shapes.names[name].axes, self.frame.storage
            size = str(storage.rows(name)) + (f" * {storage.stride(name)}" if len(axes) > 1 else "")
            clear = " = {}" if storage.is_padded(name) else ""
            self.add(f"alignas(64) {storage.c_type(name)} {identifier(name)}[{size}]{clear};")

    def add(self, text: str) -> None:
        """A line at the current depth."""
        self.lines.append(self._indent() + text)

    def _indent(self) -> str:
        return "    " * self.depth

    def scalar(self, value: Expr) -> str:
        """C++ text of a scalar expression."""
        return emit(value, Lanes(self.scalars), self._indent(), self.lines, self.frame.names).text

    def position(self, tile: str) -> str:
        """C++ text of the first index of a tile variable's current tile."""
        return f"{identifier(tile)}0"

    @property
    def places(self) -> PlaceWriter:
        """Writes addresses at the current line."""
        return PlaceWriter(self.frame, self.scalars, self.lines, self._indent())

    def at(self, ref: Ref) -> str:
        """C++ text of the address of a reference's first element."""
        return self.places.at(ref)

    def stride(self, ref: Ref, axis: str) -> str:
        """C++ text of the stride along one axis of a reference."""
        return self.places.stride(ref, axis)

    def rows_of(self, load: Load) -> tuple[str, str, str]:
        """(Rows<…> or Places<…> of a load of rows x columns, its valid rows, its valid columns)."""
        ref, places = load.source, self.places
        axes = self.frame.shapes.ref_axes(ref)
        if len(axes) != 2:
            raise LoweringError(f"{ref.name}: the cpu target loads tiles of rows x columns, not of axes {list(axes)}")
        dtype = C_TYPE[self.frame.shapes.dtype(ref.name)]
        rows, columns = self.valid(axes[0]), self.valid(axes[1])
        steps = self.block_steps(ref)
        if steps is not None:
            kind = f"const operand<{dtype}>"
            return f"Rows<{kind}>{{{self.block(ref)}, {steps[0]}, {steps[1]}}}", rows, columns
        if is_scattered(ref, load.where, self.frame.shapes):
            found = places.addresses(ref, load.where, axes[0], dtype)
            return f"Places<const {dtype}>{{{found}, {places.stride(ref, axes[1])}}}", rows, columns
        piece = f"Rows<const {dtype}>{{{self.at(ref)}, {self.stride(ref, axes[0])}, {self.stride(ref, axes[1])}}}"
        return piece, rows, columns

    def block_steps(self, ref: Ref) -> tuple[int, int] | None:
        """Elements from row to row and from column to column in a block of tiled or upended memory; None elsewhere."""
        storage = self.frame.storage
        if ref.name in storage.upended:
            return 1, storage.upended[ref.name]
        if ref.name in storage.tiled:
            return self.frame.shapes.extent(self.frame.shapes.dims(ref.name)[-1]), 1
        return None

    def block(self, ref: Ref) -> str:
        """C++ text of the block of tiled or upended memory that a tile is."""
        axes, storage = self.frame.shapes.ref_axes(ref), self.frame.storage
        block = {**storage.upended, **storage.tiled}[ref.name]
        is_whole = len(axes) == 2 and ref.indices[-2:] == (TileAxis(axes[0]), All())
        if not is_whole or self.frame.shapes.extent(axes[0]) != block:
            raise LoweringError(f"{ref.name}: its memory holds whole tiles of {block} rows; it is used in other pieces")
        indices = [index for index in ref.indices[:-1] if not isinstance(index, All)]
        items = [identifier(i.name) if isinstance(i, TileAxis) else self.scalar(i) for i in indices]
        return f"a.{identifier(ref.name)}.block({', '.join(items)})"

    def valid(self, axis: str) -> str:
        """C++ text of how many elements along an axis exist."""
        return f"{identifier(axis)}_rows" if axis in self.frame.extents else str(self.frame.shapes.extent(axis))

    def bind_extent(self, name: str, tiles: Tiles) -> None:
        """A name for an extent that only the grid knows."""
        if is_run_time(tiles.extent, self.program):
            self.add(f"const int {self.frame.extents[name]} = {self.scalar(tiles.extent)};")

    def bind_tile(self, name: str) -> None:
        """Names for the first row and the number of rows of a tile variable's current tile."""
        n, tile = identifier(name), self.frame.shapes.tiles[name].tile
        self.add(f"const int {n}0 = {n} * {tile}, {n}_rows = std::min({tile}, {self.frame.extents[name]} - {n}0);")
        self.add(f"(void){n}0, (void){n}_rows;")
        self.scalars[name] = Term(n, Kind.INT)


def _load(w: BodyWriter, s: Load) -> None:
    storage, name = w.frame.storage, identifier(s.name)
    if s.source.name in storage.packed:
        _alias(w, s)
    elif s.name in storage.plain:
        w.add(f"const auto* {name} = {w.block(s.source)};")
    elif s.name in storage.streamed:
        w.add(f"const auto {name} = {w.rows_of(s)[0]};")
    elif s.name in storage.right:
        _pack_here(w, s)
    elif s.name not in storage.operand and s.name not in storage.others:
        w.deferred[s.name] = s
    elif not w.frame.shapes.ref_axes(s.source):
        _load_number(w, s)
    elif len(w.frame.shapes.ref_axes(s.source)) == 1:
        _load_column(w, s)
    else:
        piece, rows, columns = w.rows_of(s)
        if s.name in storage.turned:
            piece, rows, columns = f"turned({piece})", columns, rows
        size = f"{storage.rows(s.name)}, {storage.stride(s.name)}"
        w.add(f"load_rows<{size}>({piece}, {rows}, {columns}, {name}, round_up({rows}, {LANES}));")


def _load_number(w: BodyWriter, s: Load) -> None:
    """One element."""
    name, kind = identifier(s.name), w.frame.shapes.names[s.name].dtype.kind
    declared = "" if s.name in w.declared else f"{SCALAR[kind]} "
    w.declared.add(s.name)
    w.add(f"{declared}{name} = value_of(*{w.at(s.source)});")
    w.scalars[s.name] = Term(name, kind)


def _load_column(w: BodyWriter, s: Load) -> None:
    """A tile of one element per row."""
    row = w.frame.shapes.ref_axes(s.source)[0]
    if is_scattered(s.source, s.where, w.frame.shapes):
        _gather_column(w, s, row)
        return
    valid, stride = w.valid(row), w.stride(s.source, row)
    w.add(f"for (int r = 0; r < {valid}; r += W)")
    w.add(f"    store({identifier(s.name)} + r, lanes({w.at(s.source)} + r * {stride}, {stride}, {valid} - r));")


def _gather_column(w: BodyWriter, s: Load, row: str) -> None:
    dtype = C_TYPE[w.frame.shapes.dtype(s.source.name)]
    found, name = w.places.addresses(s.source, s.where, row, dtype), identifier(s.name)
    value = f"value_of(*{found}[r])" if s.where is None else f"{found}[r] ? value_of(*{found}[r]) : 0"
    w.add(f"for (int r = 0; r < {w.valid(row)}; ++r) {name}[r] = {value};")


def _alias(w: BodyWriter, s: Load) -> None:
    storage = w.frame.storage
    layout = storage.packed[s.source.name]
    if storage.right.get(s.name) != layout.order or s.name in storage.others:
        raise LoweringError(
            f"{print_statement(s)}: memory packed by {layout.order} is only read by products along its {layout.order}"
        )
    if any(store.where is not s.where for store in _stores_to(w.program, s.source.name)):
        raise LoweringError(f"{print_statement(s)}: packed with another where= than it is read with")
    w.add(f"const auto* {identifier(s.name)} = a.{identifier(s.source.name)}.block({_block_index(w, s, s.source)});")


def _stores_to(program: Program, name: str) -> list[Store]:
    return [s for s in statements(program.body) if isinstance(s, Store) and s.target.name == name]


def _block_index(w: BodyWriter, s: Load | Store, ref: Ref) -> str:
    """C++ text of the indices of the block that a tile of packed memory is."""
    block, rows = w.frame.storage.packed[ref.name].block, w.frame.shapes.ref_axes(ref)[0]
    items = []
    for position, item in enumerate(ref.indices[:-1]):
        is_row = position == len(ref.indices) - 2
        if is_row and rows in w.frame.extents and w.frame.shapes.extent(rows) == block:
            first = const(0) if isinstance(item, TileAxis) else block_number(item, rows, block)  # type: ignore[arg-type]
            if first is not None:
                items.append(identifier(rows) if first is const(0) else f"{w.scalar(first)} + {identifier(rows)}")
                continue
        if is_row or not isinstance(item, Expr) or rows in w.frame.shapes.axes(item):
            raise LoweringError(f"{print_statement(s)}: packed in blocks of {block} rows, used in other pieces")
        items.append(w.scalar(item))
    return ", ".join(items)


def packing(w: BodyWriter, load: Load, order: str, target: str) -> str:
    """The call that packs a piece of memory for a product."""
    piece, rows, columns = w.rows_of(load)
    shapes = w.frame.shapes
    row, column = shapes.ref_axes(load.source)
    dtype = C_TYPE[shapes.dtype(load.source.name)]
    tile, width = round_up(shapes.extent(row), LANES), shapes.extent(column)
    if order == "columns":
        return f"pack_columns<{tile}, padded_depth<{dtype}>({width})>({piece}, {rows}, {columns}, {target});"
    depth = f"padded_depth<{dtype}>({tile})"
    return f"pack_rows<{depth}, {round_up(width, LANES)}>({piece}, {rows}, {columns}, {target});"


def _pack_here(w: BodyWriter, s: Load) -> None:
    storage = w.frame.storage
    if s.name in storage.others:
        raise LoweringError(f"{print_statement(s)}: a right operand is not read elementwise on the cpu; load it twice")
    w.add(packing(w, s, storage.right[s.name], identifier(s.name)))


def _store(w: BodyWriter, s: Store) -> None:
    if is_packing(s, w.frame.storage):
        _packing_store(w, s)
        return
    axes = w.frame.shapes.ref_axes(s.target)
    if w.block_steps(s.target) is not None:
        _fill_block(w, s)
        return
    if w.frame.shapes.axes(s.value) == axes[::-1]:
        axes = axes[::-1]  # in the order in which the tile lies
    scattered = bool(axes) and is_scattered(s.target, s.where, w.frame.shapes)
    if not axes:
        dtype = C_TYPE[w.frame.shapes.dtype(s.target.name)]
        w.add(f"*{w.at(s.target)} = {dtype}({w.scalar(s.value)});")
    elif len(axes) == 1:
        (_scatter_rows if scattered else _store_rows)(w, s, axes[0])
    else:
        _store_tile(w, s, (axes[0], axes[1]), scattered)


def _fill_block(w: BodyWriter, s: Store) -> None:
    """One number in a whole tile of upended memory."""
    if s.where is not None or w.frame.shapes.axes(s.value):
        raise LoweringError(f"{print_statement(s)}: memory in tiles is added to, read, and set to one number")
    height, width = (w.frame.shapes.extent(axis) for axis in w.frame.shapes.ref_axes(s.target))
    size = height * width
    w.add(f"std::fill_n({w.block(s.target)}, {size}, {w.scalar(s.value)});")


def _packing_store(w: BodyWriter, s: Store) -> None:
    name = str(s.value.attr)
    load = w.deferred.get(name)
    if load is None or load.source.name in w.frame.storage.packed:
        raise LoweringError(f"{print_statement(s)}: packed memory takes tiles as they are loaded")
    if load.where is not s.where:
        raise LoweringError(f"{print_statement(s)}: stored with another where= than it was loaded with")
    if s.target.name in w.frame.storage.tiled:
        piece, rows, columns = w.rows_of(load)
        size = ", ".join(str(w.frame.shapes.extent(axis)) for axis in w.frame.shapes.ref_axes(s.target))
        w.add(f"load_rows<{size}>({piece}, {rows}, {columns}, {w.block(s.target)});")
        return
    layout = w.frame.storage.packed[s.target.name]
    target = f"a.{identifier(s.target.name)}.block({_block_index(w, s, s.target)})"
    w.add(packing(w, load, layout.order, target))


def _store_rows(w: BodyWriter, s: Store, row: str) -> None:
    writer = RunWriter(w.frame, w.scalars, w.ragged, w._indent())
    valid = w.valid(row)
    head = f"for (int r = 0; r < {valid}; r += W) {{"
    term = writer.down(row, s.value, 1)
    stride = w.stride(s.target, row)
    w.add(head)
    w.lines += writer.lines
    w.add(f"    store_lanes({w.at(s.target)} + r * {stride}, {stride}, {term.text}, {valid} - r);")
    w.add("}")


def _scatter_rows(w: BodyWriter, s: Store, row: str) -> None:
    """One element per row, each at a place of its own."""
    writer = RunWriter(w.frame, w.scalars, w.ragged, w._indent())
    dtype, valid = C_TYPE[w.frame.shapes.dtype(s.target.name)], w.valid(row)
    term = writer.down(row, s.value, 1)
    w.add(f"for (int r = 0; r < {valid}; r += W) {{")
    w.lines += writer.lines
    w.depth += 1
    w.add("alignas(64) float row_values[W];")
    w.add(f"store(row_values, {term.text});")
    w.add(f"for (int u = 0; u < std::min(W, {valid} - r); ++u) {{")
    w.depth += 1
    _unless_missing(w, s, row, "r + u")
    w.add(f"*{w.places.row_at(s.target, row, 'r + u')} = from_float<{dtype}>(row_values[u]);")
    w.depth -= 1
    w.add("}")
    w.depth -= 1
    w.add("}")


def _unless_missing(w: BodyWriter, s: Store, row: str, r: str) -> None:
    exists = w.places.exists(s.where, row, r)
    if exists is not None:
        w.add(f"if (!({exists})) continue;")


def _store_tile(w: BodyWriter, s: Store, axes: tuple[str, str], scattered: bool) -> None:
    row, axis = axes
    writer = RunWriter(w.frame, w.scalars, w.ragged, w._indent())
    lanes = writer.across_lanes(row, axis, s.value, {}, "r")
    inner: list[str] = []
    term = emit(s.value, lanes, w._indent() + "        ", inner, w.frame.names)
    stride = w.stride(s.target, axis)
    w.add(f"for (int r = 0; r < {w.valid(row)}; ++r) {{")
    if scattered:
        w.depth += 1
        _unless_missing(w, s, row, "r")
        w.add(f"auto* out = {w.places.row_at(s.target, row, 'r')};")
        w.depth -= 1
    else:
        w.add(f"    auto* out = {w.at(s.target)} + r * {w.stride(s.target, row)};")
    w.add(f"    for (int c = 0; c * W < {w.valid(axis)}; ++c) {{")
    w.lines += inner
    w.add(f"        store_lanes(out + c * W * {stride}, {stride}, {term.text}, {w.valid(axis)} - c * W);")
    w.add("    }")
    w.add("}")


def _fill(w: BodyWriter, s: Fill) -> None:
    if s.axes and s.name in w.frame.buffers:
        name = identifier(s.name)
        row = s.axes[0]
        stride = f" * {w.frame.storage.stride(s.name)}" if len(s.axes) > 1 else ""
        rows = f"round_up({w.valid(row)}, {LANES})" if row in w.frame.extents else str(w.frame.storage.rows(s.name))
        w.add(f"std::fill({name}, {name} + {rows}{stride}, {w.scalar(s.value)});")
    elif not s.axes:
        w.scalars[s.name] = Term(_scalar_name(w, s.name, s.value), s.value.kind)


def _let(w: BodyWriter, s: Let) -> None:
    w.scalars[s.name] = Term(_scalar_name(w, s.name, s.value), s.value.kind)


def _scalar_name(w: BodyWriter, name: str, value: Expr) -> str:
    kind = {Kind.FLOAT: "float", Kind.INT: "int", Kind.BOOL: "bool"}[value.kind]
    local = identifier(name)
    text = w.scalar(value)
    if name in w.declared:
        w.add(f"{local} = {text};")
    else:
        w.declared.add(name)
        w.add(f"{kind} {local} = {text};")
    return local


def _tile_loop(w: BodyWriter, s: TileLoop) -> None:
    if s.tiles.tile % LANES:
        raise LoweringError(f"{print_statement(s)}: on the cpu the tile of a loop is a multiple of {LANES}")
    domain = domain_of(s, w.program, w.frame.shapes)
    w.scalars[s.name] = Term(identifier(s.name), Kind.INT)
    loop = LoopWriter(dict(w.scalars), w.frame.names, w._indent(), w.lines, s, domain, w.frame.extents[s.name])
    before = w.ragged, set(w.declared)
    w.ragged = w.ragged | {s.name} if s.part != "full" or domain is None else w.ragged - {s.name}
    loop.bounds()
    w.upcoming |= upcoming(w, s, loop)
    w.depth += 1
    if s.stages > 1:
        _pipelined(w, s, loop)
    else:
        loop.each()
        _tile_body(w, s, loop, s.body)
        w.add("}")
    w.depth -= 1
    w.ragged, w.declared = before
    w.add("}")


def _tile_body(w: BodyWriter, s: TileLoop, loop: LoopWriter, body: tuple[Statement, ...]) -> None:
    w.depth += 1
    _bind_visit(w, s, loop, body)
    w.body(body)
    w.depth -= 1


def _bind_visit(w: BodyWriter, s: TileLoop, loop: LoopWriter, body: tuple[Statement, ...]) -> None:
    """What `bind_tile` names, and whether the tile is whole where that is asked."""
    w.bind_tile(s.name)
    if asks_whole(s.name, body):
        name = w.frame.names.fresh(f"{identifier(s.name)}_is_whole")
        w.scalars[str(whole_of(s.name).attr)] = Term(name, Kind.BOOL)
        loop.tell_whole(name, nested=2)


def _pipelined(w: BodyWriter, s: TileLoop, loop: LoopWriter) -> None:
    """stages > 1: the next tile's first product runs before this tile's last one, so that what one stores has
    settled when the other reads it."""
    head, middle, tail = split_stages(s)
    n, at, after = identifier(s.name), w.frame.names.fresh(f"{s.name}_at"), w.frame.names.fresh(f"{s.name}_next")
    first, exists, follower = loop.walk()

    def ahead(tile: str) -> None:
        w.add(f"if ({exists.format(tile)}) {{")
        w.add(f"    const int {n} = {tile};")
        _tile_body(w, s, loop, head)
        w.add("}")

    w.add(f"int {at} = {first};")
    ahead(at)
    w.add(f"while ({exists.format(at)}) {{")
    w.depth += 1
    w.add(f"const int {n} = {at}, {after} = {follower.format(n)};")
    _bind_visit(w, s, loop, s.body)
    w.body(middle)
    ahead(after)
    w.body(tail)
    w.add(f"{at} = {after};")
    w.depth -= 1
    w.add("}")


def _range_loop(w: BodyWriter, s: RangeLoop) -> None:
    name = identifier(s.name)
    w.scalars[s.name] = Term(name, Kind.INT)
    w.add(f"for (int {name} = {w.scalar(s.start)}; {name} < {w.scalar(s.stop)}; ++{name}) {{")
    _nested(w, s.body)


def _if(w: BodyWriter, s: If) -> None:
    w.add(f"if ({w.scalar(s.condition)}) {{")
    _nested(w, s.body)


def _nested(w: BodyWriter, body: tuple[Statement, ...]) -> None:
    declared = set(w.declared)
    w.depth += 1
    w.body(body)
    w.depth -= 1
    w.declared = declared
    w.add("}")


def _tile_at(w: BodyWriter, s: TileAt) -> None:
    w.add(f"const int {identifier(s.name)} = {w.scalar(s.number)};")
    w.bind_extent(s.name, s.tiles)
    w.bind_tile(s.name)


_WRITERS: dict[type, Callable[[BodyWriter, Any], None]] = {
    Load: _load, Store: _store, ReduceAdd: reduce_add, Fill: _fill, Let: _let, Gemm: product, TileLoop: _tile_loop,
    RangeLoop: _range_loop, If: _if, TileAt: _tile_at, ScatterAdd: scatter_add, Reduce: whole_sum,
}  # fmt: skip
