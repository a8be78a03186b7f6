"""The table of statements: how each becomes lines of a Triton kernel, or why it cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...ir.dtypes import DType, Kind
from ...ir.expr import Op, var
from ...ir.printer import Path
from ...ir.program import (
    Alloc,
    Arrive,
    Barriers,
    Commit,
    Copy,
    Fill,
    Gemm,
    Grid,
    If,
    Let,
    Load,
    Operand,
    RangeLoop,
    Reduce,
    ReduceAdd,
    Role,
    ScatterAdd,
    Store,
    Sync,
    TileAt,
    TileLoop,
    Wait,
    WaitGroup,
)  # fmt: skip
from ...ir.shapes import TileType
from .bound import bound_names
from .context import padded_size
from .expressions import TRITON_TYPES, folded, widening
from .layout import statement_lines
from .loops import count_elements, counted_range, stages_text, tiles_counted, write_tile_loop
from .memory import atomic_add_lines, load_lines, store_lines, tile_place
from .turns import write_ordered_add

if TYPE_CHECKING:
    from .kernel import KernelWriter

MIN_CONTRACTED = 16
PRODUCT_TYPES = (DType.F32, DType.BF16, DType.F16)
COMES_LATER = "the cuda target, which has it, comes later; write the program without it"
TRITON_PLACES = "Triton places tiles itself: use load, and alloc global buffers outside the grids"
TRITON_COPIES = "use load and store: Triton makes copies asynchronous by itself (stages=)"


def _load(writer: KernelWriter, s: Load, path: Path) -> None:
    writer.forget({s.name})
    name = writer.context.names(s.name)
    known = writer.loaded(name, s.source, s.where) or name
    if known == name:
        writer.line(*load_lines(name, tile_place(writer, s.source, path, s.where)))
    else:
        writer.line(f"{name} = {known}")


def _store(writer: KernelWriter, s: Store, path: Path) -> None:
    place = tile_place(writer, s.target, path, s.where)
    writer.line(*store_lines(place, writer.text(s.value, place.axes, path)))


def _reduce_add(writer: KernelWriter, s: ReduceAdd, path: Path) -> None:
    if s.after is not None:
        write_ordered_add(writer, s, path)
        return
    place = tile_place(writer, s.target, path)
    writer.line(*atomic_add_lines(place, writer.text(s.value, place.axes, path)))


def _shape(writer: KernelWriter, axes: tuple[str, ...]) -> str:
    return f"[{', '.join(writer.context.tile(axis) for axis in axes)}]"


def _fill(writer: KernelWriter, s: Fill, path: Path) -> None:
    value = writer.text(s.value, (), path)
    shape, dtype = _shape(writer, writer.oriented(s.axes)), TRITON_TYPES[s.dtype]
    writer.forget({s.name})
    name = writer.context.names(s.name)
    if value in ("0", "0.0"):
        writer.line(f"{name} = tl.zeros({shape}, dtype={dtype})")
    else:
        writer.line(f"{name} = tl.full({shape}, {value}, dtype={dtype})")


def _let(writer: KernelWriter, s: Let, path: Path) -> None:
    writer.forget({s.name})
    if s.value.op is Op.INDEX:
        writer.define_index(s.name, str(s.value.attr))
        return
    if writer.is_element(s.name, s.value, path):
        return
    ready = writer.prepare(s.value, path)
    axes = writer.shapes.names[s.name].axes
    text = writer.expressions.text(writer.share(ready), axes)
    if set(writer.expressions.axes(ready)) != set(axes):
        text = f"tl.broadcast_to({text}, {_shape(writer, axes)})"
    if ready.kind is Kind.INT:
        if writer.is_wide(ready):
            writer.wide.add(s.name)
        if not writer.expressions.is_nonnegative(ready):
            writer.expressions.may_be_negative.add(s.name)
    writer.line(*statement_lines(f"{writer.context.names(s.name)} = ", text))


def _gemm(writer: KernelWriter, s: Gemm, path: Path) -> None:
    if s.is_async:
        raise writer.context.refuse(path, "gemm_async", "write gemm; Triton overlaps products by itself")
    left, right = _operand(writer, s.left, "left", path), _operand(writer, s.right, "right", path)
    left_type, right_type = writer.shapes.operand(s.left), writer.shapes.operand(s.right)
    shared = next(axis for axis in left_type.axes if axis in right_type.axes)
    _check_product(writer, (left_type, right_type), shared, path)
    if left_type.dtype is not right_type.dtype:
        left, right = (f"{t}.to(tl.float32)" for t in (left, right))
    result = writer.shapes.names[s.name].axes
    if result[0] in right_type.axes:  # the product the other way round
        left, right, left_type, right_type = right, left, right_type, left_type
    left = f"tl.trans({left})" if left_type.axes[0] == shared else left
    right = f"tl.trans({right})" if right_type.axes[1] == shared else right
    arguments = [left, right]
    if s.into is not None:
        arguments.append(writer.text(s.into, result, path))
    if DType.F32 in (left_type.dtype, right_type.dtype):
        arguments.append(f"input_precision={writer.context.precision()}")
    writer.forget({s.name})
    writer.line(*statement_lines(f"{writer.context.names(s.name)} = ", f"tl.dot({', '.join(arguments)})"))


def _operand(writer: KernelWriter, operand: Operand, side: str, path: Path) -> str:
    if isinstance(operand, str):
        return writer.context.names(operand)
    name = writer.context.names.fresh(f"{side}_{operand.name}")
    writer.line(*load_lines(name, tile_place(writer, operand, path)))
    return name


def _check_product(writer: KernelWriter, operands: tuple[TileType, TileType], shared: str, path: Path) -> None:
    for operand in operands:
        if operand.dtype not in PRODUCT_TYPES:
            remedy = f"cast the operand to one of {', '.join(t.value for t in PRODUCT_TYPES)}"
            raise writer.context.refuse(path, f"a product of {operand.dtype.value} tiles", remedy)
        if len(operand.axes) != 2:
            raise writer.context.refuse(
                path, f"a product of a tile with {len(operand.axes)} axes", "use tiles of 2 axes"
            )
    if writer.shapes.extent(shared) < MIN_CONTRACTED and shared in writer.shapes.tiles:
        reason = f"a product over {writer.shapes.extent(shared)} elements of {shared}"
        raise writer.context.refuse(path, reason, f"make the tile at least {MIN_CONTRACTED}")


def _reduce(writer: KernelWriter, s: Reduce, path: Path) -> None:
    source = writer.shapes.names[s.source]
    position = source.axes.index(s.axis)
    text = writer.expressions.text(var(s.source, source.dtype.kind), source.axes)
    size = writer.shapes.sizes.get(s.axis)
    if s.axis not in writer.shapes.tiles and size is not None and padded_size(size) != size:
        wide = widening(source.axes, (s.axis,))
        neutral = "0" if s.op == "sum" else 'float("-inf")'
        text = f"tl.where(({writer.span(s.axis)} < {writer.use_size(s.axis)})[{wide}], {text}, {neutral})"
    writer.forget({s.name})
    writer.line(f"{writer.context.names(s.name)} = tl.{s.op}({text}, {position})")


def _tile_at(writer: KernelWriter, s: TileAt, path: Path) -> None:
    name = writer.context.names(s.name)
    first, tile = writer.counted.get(str(s.number.attr), (None, 0)) if s.number.op is Op.VAR else (None, 0)
    if tile == s.tiles.tile and first is not None:
        writer.define_extent(s.name, path)
        writer.bind_tile(s.name, False, writer.grid.body, first)
        return
    if not writer.is_element(name, s.number, path):
        writer.line(f"{name} = {writer.short_text(s.number, path)}")
    writer.define_extent(s.name, path)
    writer.bind_tile(s.name, False, writer.grid.body)


def _range_loop(writer: KernelWriter, s: RangeLoop, path: Path) -> None:
    bound = {s.name, *bound_names(s.body)}
    tiles = tiles_counted(s)
    start, stop = counted_range(s.start, s.stop, tiles.tiles.tile) if tiles else (s.start, s.stop)
    limits = ", ".join(writer.short_text(folded(limit, writer.shapes.sizes), path) for limit in (start, stop))
    writer.hoist(s.body, (), bound, path)
    if tiles is None:
        with writer.block(f"for {writer.context.names(s.name)} in tl.range({limits}{stages_text(s.stages)}):"):
            writer.body(s.body, path)
        return
    with count_elements(writer, (s.name, tiles.name), tiles.name, limits, s.stages) as first:
        writer.counted[s.name] = first, tiles.tiles.tile
        writer.body(s.body, path)


def _if(writer: KernelWriter, s: If, path: Path) -> None:
    condition = writer.text(s.condition, (), path)
    with writer.block(*statement_lines("if ", condition, ":")):
        writer.body(s.body, path)
    writer.forget(bound_names(s.body))


def _refused(what: str, remedy: str = COMES_LATER) -> Callable[[KernelWriter, Any, Path], None]:
    def refuse(writer: KernelWriter, statement: Any, path: Path) -> None:
        raise writer.context.refuse(path, what, remedy)

    return refuse


WRITERS: dict[type, Callable[[KernelWriter, Any, Path], None]] = {
    Load: _load,
    Store: _store,
    ReduceAdd: _reduce_add,
    Fill: _fill,
    Let: _let,
    Gemm: _gemm,
    Reduce: _reduce,
    TileAt: _tile_at,
    TileLoop: write_tile_loop,
    RangeLoop: _range_loop,
    If: _if,
    Alloc: _refused("alloc inside a grid", TRITON_PLACES),
    Copy: _refused("copy between memories", TRITON_COPIES),
    Barriers: _refused("barriers"),
    Arrive: _refused("arrive"),
    Wait: _refused("wait"),
    Commit: _refused("commit"),
    WaitGroup: _refused("wait_group"),
    Sync: _refused("sync"),
    Role: _refused("roles"),
    ScatterAdd: _refused("scatter_add", "add tiles at plain places with reduce_add, or lower to another target"),
    Grid: _refused("a grid inside a grid", "put all its variables in one grid"),
}
