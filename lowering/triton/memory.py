"""References as Triton pointers and masks: which addresses a tile covers, and which of them exist.

An address is the tensor's base, then scalar offsets in 64 bits (batch, head), then offsets of the tile's rows: their
numbers in 64 bits times the stride, so that no distance between rows is kept in registers through a loop. Where a
stride is known they are the first row's offset, a scalar, and distances from it in 32 bits, which cost nothing there.
Rows at computed places that follow each other are addressed alike; where they do not, every row has an offset of 64
bits. Elements gathered in expressions have 32 bits in all; the launcher checks that this is enough for their tensor.
Rows past the end or that do not exist, and the padding of an axis whose size is no power of two, are masked out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...ir.domain.linear import Linear, literal
from ...ir.dtypes import DType, Kind
from ...ir.edit import resolved
from ...ir.expr import Expr, Op, apply, cast, index, transform, var, walk
from ...ir.printer import ATOM, COMPARE, TERM, Path
from ...ir.program import All, Alloc, Ref, TileAxis
from .context import padded_size
from .expressions import folded, widening
from .layout import call_lines, sum_lines

if TYPE_CHECKING:
    from .kernel import KernelWriter


@dataclass(frozen=True, slots=True)
class Place:
    """Addresses of a tile: terms to add up, conditions that must all hold, axes in order.

    `is_fresh`: what lies there was written by other instances of this kernel, so it is not looked for in the cache of
    one processor.
    """

    terms: tuple[str, ...]
    conditions: tuple[str, ...]
    axes: tuple[str, ...]
    is_fresh: bool = False


def tile_place(writer: KernelWriter, ref: Ref, path: Path, where: Expr | None = None) -> Place:
    """The addresses of a reference; `where` says which of its rows exist."""
    axes = writer.shapes.ref_axes(ref)
    dims = writer.shapes.dims(ref.name)
    strides = writer.use_tensor(ref.name)
    scalars, tiles = _computed_rows(writer, ref, path, where is None)
    conditions = _existing_rows(writer, ref, path, where)
    for item, dim, stride in zip(ref.indices, dims, strides, strict=True):
        if isinstance(item, TileAxis):
            wide = widening(axes, (item.name,))
            first, rows = _rows(writer, item.name, stride, wide)
            scalars += first
            tiles += rows
            if writer.is_ragged(item.name, dim) and not _ends_at(writer, where, item.name, var(dim)):
                row, end = writer.exists(item.name, dim)
                conditions.append(f"{widened(row, wide)} < {end}")
        elif isinstance(item, All):
            wide = widening(axes, (dim,))
            tiles.append(times(f"{widened(writer.span(dim), wide)}", stride))
            if padded_size(writer.shapes.sizes[dim]) != writer.shapes.sizes[dim]:
                conditions.append(widened(f"{writer.span(dim)} < {writer.use_size(dim)}", wide))
        elif not writer.shapes.axes(item):
            scalars += scalar_offset(writer, writer.prepare(item, path), stride)
    is_fresh = writer.is_merge and isinstance(writer.shapes.tensors[ref.name], Alloc)
    return Place((writer.context.names(ref.name), *scalars, *tiles), tuple(dict.fromkeys(conditions)), axes, is_fresh)


def _rows(writer: KernelWriter, tile: str, stride: str, wide: str) -> tuple[list[str], list[str]]:
    """Terms of a tile's rows: scalars, and offsets inside the tile."""
    if stride.isidentifier() and stride not in writer.context.constants:
        return [], [times(widened(writer.rows(tile), wide), stride)]
    return [times(writer.start(tile), stride)], [times(widened(writer.span(tile), wide), stride)]


def _computed_rows(writer: KernelWriter, ref: Ref, path: Path, is_whole: bool) -> tuple[list[str], list[str]]:
    """Terms of the indices that are computed row by row: scalars, and offsets inside the tile.

    Indices that go up by one along the rows are a scalar and the tile's rows; the others become one line of offsets.
    """
    axis = writer.shapes.rows_axis(ref)
    scalars: list[str] = []
    tiles: list[str] = []
    offsets: list[str] = []
    if axis is None:
        return scalars, tiles
    wide = widening(writer.shapes.ref_axes(ref), (axis,))
    for item, stride in zip(ref.indices, writer.context.strides(ref.name), strict=True):
        if not isinstance(item, Expr) or not writer.shapes.axes(item):
            continue
        start, step = rows_from(writer, item, axis, is_whole)
        if start is None:
            index = long_products(writer, writer.prepare(item, path))
            wider = "" if writer.is_wide(index) else ".to(tl.int64)"
            text = writer.expressions.text(index, (axis,), ATOM if wider else TERM)
            offsets.append(times(f"{text}{wider}", stride))
            continue
        if step == 0:
            scalars += scalar_offset(writer, writer.prepare(start, path), stride)
            continue
        ready = writer.share(long_products(writer, writer.prepare(start, path)))
        first, rows = _rows(writer, axis, stride, wide)
        scalars += [*scalar_offset(writer, ready, stride), *first]
        tiles += rows
    if offsets:
        name = writer.given(("rows", ref), f"{writer.context.names(ref.name)}_rows")
        writer.line(*sum_lines(f"{name} = ", offsets))
        tiles.insert(0, widened(name, wide))
    return scalars, tiles


def rows_from(writer: KernelWriter, item: Expr, axis: str, is_whole: bool) -> tuple[Expr | None, int]:
    """`start` and `step` of an index that is start + step * index(axis), step 0 or 1; None for others.

    With `is_whole`, i // 64 and i % 64 of i = index(axis) in tiles of 32 are one block and a place in it.
    """
    known = writer.context.definitions
    plain = folded(writer.context.inline(resolved(item, known)), writer.shapes.sizes)
    if is_whole:
        tile = writer.shapes.tiles[axis].tile
        plain = folded(transform(plain, lambda node: _by_block(node, axis, tile)), {})
    form = Linear.of(plain)
    start, step = form.without(index(axis)).expr(), form.coefficient(index(axis))
    is_uniform = all(node.op is not Op.INDEX for node in walk(start)) and not writer.shapes.axes(start)
    return (start, step) if is_uniform and step in (0, 1) else (None, 0)


def _by_block(node: Expr, axis: str, tile: int) -> Expr | None:
    """i // 64 -> axis * 32 // 64 and i % 64 -> i - axis * 32 // 64 * 64, for i = index(axis) in tiles of 32."""
    if node.op not in (Op.FLOORDIV, Op.MOD) or node.args[0] is not index(axis):
        return None
    size = literal(node.args[1])
    if size is None or size <= 0 or size % tile:
        return None
    block = apply(Op.FLOORDIV, var(axis) * tile, size)
    return block if node.op is Op.FLOORDIV else node.args[0] - block * size


def _existing_rows(writer: KernelWriter, ref: Ref, path: Path, where: Expr | None) -> list[str]:
    """Conditions under which rows of a reference exist, for those at computed places and with `where`."""
    axes = writer.shapes.ref_axes(ref)
    axis = writer.shapes.rows_axis(ref)
    if axis is None and where is None:
        return []
    axis = axis or next(item.name for item in ref.indices if isinstance(item, TileAxis))
    wide = widening(axes, (axis,))
    conditions = []
    if writer.is_past_end(axis) and not _ends_at(writer, where, axis, writer.extent(axis)):
        end = writer.text(writer.extent(axis), (), path, COMPARE + 1)
        conditions.append(f"{widened(writer.index(axis), wide)} < {end}")
    if where is not None:
        ready = writer.prepare(where, path)
        over = writer.expressions.axes(ready)
        text = writer.expressions.text(ready, over)
        conditions.append(widened(text, wide) if over else text)
    return conditions


def _ends_at(writer: KernelWriter, where: Expr | None, tile: str, end: Expr) -> bool:
    """Whether rows exist only before `end`: a part of `where` is index(tile) < end, or < min(end, …)."""
    if where is None:
        return False
    known, sizes = writer.context.definitions, writer.shapes.sizes
    parts = _parts(Op.AND, folded(writer.context.inline(resolved(where, known)), sizes))
    ends = [part.args[1] for part in parts if part.op is Op.LT and part.args[0] is index(tile)]
    return any(folded(end, sizes) in _parts(Op.MIN, found) for found in ends)


def _parts(op: Op, expr: Expr) -> list[Expr]:
    """The operands of an operation, of those that are the same operation too."""
    return [part for arg in expr.args for part in _parts(op, arg)] if expr.op is op else [expr]


def scalar_offset(writer: KernelWriter, item: Expr, stride: str) -> list[str]:
    """The term of a scalar index, in 64 bits; none for index 0."""
    if item.op is Op.CONST:
        number = f"tl.cast({item.attr}, tl.int64)" if " " in stride else str(item.attr)
        return [] if item.attr == 0 else [times(number, stride)]
    item = long_products(writer, item)
    if writer.is_wide(item):
        return [times(f"{writer.expressions.text(item, (), TERM)}", stride)]
    return [times(f"tl.cast({writer.expressions.text(item, ())}, tl.int64)", stride)]


def long_products(writer: KernelWriter, item: Expr) -> Expr:
    """An index with its products of scalars in 64 bits: places in a tensor of one dimension may need them."""

    def long(node: Expr) -> Expr | None:
        is_product = node.op is Op.MUL and node.kind is Kind.INT and not writer.expressions.axes(node)
        if not is_product or any(arg.op is Op.CONST or writer.is_wide(arg) for arg in node.args):
            return None
        return cast(node.args[0], DType.I64) * node.args[1]

    return transform(item, long)


def element_place(writer: KernelWriter, node: Expr, path: Path) -> Place:
    """The addresses of a LOAD in an expression: one element for each element of its indices."""
    tensor = str(node.attr)
    axes = writer.oriented(writer.expressions.axes(node))
    strides = writer.use_tensor(tensor)
    scalars: list[str] = []
    tiles: list[str] = []
    conditions: list[str] = []
    for position, (item, dim) in enumerate(zip(node.args, writer.shapes.dims(tensor), strict=True)):
        own = writer.expressions.axes(item)
        tile = writer.tile_of(item)
        wide = widening(axes, own)
        if not own:
            scalars += scalar_offset(writer, item, strides[position])
        elif tile is not None:
            first, rows = _rows(writer, tile, strides[position], wide)
            scalars += first
            tiles += rows
            if writer.is_ragged(tile, dim):
                conditions.append(widened(f"{writer.index(tile)} < {writer.use_size(dim)}", wide))
        else:
            text = _index_text(writer, node, position, tuple(axis for axis in axes if axis in own))
            writer.context.gathered.add(tensor)
            tiles.append(times(f"{widened(text, wide)}", strides[position]))
            if not writer.expressions.is_nonnegative(item):
                conditions.append(widened(f"{text} >= 0", wide))
            conditions.append(widened(f"{text} < {writer.use_size(dim)}", wide))
    if len(axes) > 1:
        writer.note_wide_load(tensor, writer.tile_of(node.args[-1]) is not None)
    return Place((writer.context.names(tensor), *scalars, *tiles), tuple(conditions), axes)


def _index_text(writer: KernelWriter, node: Expr, position: int, order: tuple[str, ...]) -> str:
    """An index as a name: its own, or one for a line written here."""
    item = node.args[position]
    text = writer.expressions.text(item, order, ATOM)
    if item.op in (Op.VAR, Op.INDEX):
        return text
    name = writer.given(("index", node, position), f"{writer.context.names(str(node.attr))}_at_{position}")
    writer.line(f"{name} = {writer.expressions.text(item, order)}")
    return name


def times(text: str, stride: str) -> str:
    """A product with a stride."""
    return text if stride == "1" else f"{text} * {stride}"


def widened(text: str, wide: str) -> str:
    if "None" not in wide:
        return text
    is_atom = all(char.isalnum() or char in "_." for char in text)
    return f"{text}[{wide}]" if is_atom else f"({text})[{wide}]"


def load_lines(name: str, place: Place) -> list[str]:
    """`name = tl.load(…)`."""
    other = ["other=0"] if place.conditions else []
    cache = ['cache_modifier=".cg"'] if place.is_fresh else []
    return call_lines(f"{name} = tl.load", place.terms, (*_mask(place), *other, *cache))


def store_lines(place: Place, value: str) -> list[str]:
    """`tl.store(…)`."""
    return call_lines("tl.store", place.terms, (value, *_mask(place)))


def atomic_add_lines(place: Place, value: str) -> list[str]:
    """`tl.atomic_add(…)`; what is added is looked at by later grids only."""
    return call_lines("tl.atomic_add", place.terms, (value, *_mask(place), 'sem="relaxed"'))


def _mask(place: Place) -> list[str]:
    conditions = place.conditions
    if len(conditions) < 2:
        return [f"mask={text}" for text in conditions]
    return ["mask=" + " & ".join(text if text.endswith("]") else f"({text})" for text in conditions)]
