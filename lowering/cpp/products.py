"""C++ text of matrix products: operands packed, where they lie in memory, or tiles that this grid has computed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from ...ir.errors import LoweringError
from ...ir.expr import Op
from ...ir.printer import print_statement
from ...ir.program import Gemm, Load, TileLoop
from .affine import is_scattered
from .expressions import identifier
from .loops import LoopWriter
from .storage import C_TYPE, LANES, round_up

if TYPE_CHECKING:
    from .body import BodyWriter


@dataclass(frozen=True, slots=True)
class Upcoming:
    """A load whose rows will be read next: from row `skip` of the current tile on, C++ text of how many."""

    load: Load
    skip: int
    rows: str


def product(w: BodyWriter, s: Gemm) -> None:
    """left x right (+ into) of one tile."""
    if s.name not in w.frame.storage.summed:
        write_product(w, s, identifier(s.name))


def write_product(w: BodyWriter, s: Gemm, target: str, start: str | None = None) -> None:
    """The product into `target`, which begins with what `into` says, or with `start`."""
    shapes, storage = w.frame.shapes, w.frame.storage
    assert isinstance(s.left, str)
    assert isinstance(s.right, str)
    rows, columns = shapes.names[s.name].axes
    depth = next(axis for axis in shapes.names[s.left].axes if axis not in (rows, columns))
    dtype = C_TYPE[storage.operand[s.left]]
    tall, wide = round_up(shapes.extent(rows), LANES), round_up(shapes.extent(columns), LANES)
    size = f"{tall}, {wide}, padded_depth<{dtype}>({shapes.extent(depth)})"
    left, right = identifier(s.left), identifier(s.right)
    if s.right in storage.left and s.right not in storage.plain:
        right = _from_the_right(w, s.right)
    start = start or ("FROM_ZERO" if s.into is None else "SCALED" if s.into.op is Op.MUL else "ADDED")
    scale = "nullptr"
    if s.into is not None and s.into.op is Op.MUL:
        scale = identifier(next(str(arg.attr) for arg in s.into.args if arg.attr != s.name))
    is_across = depth != storage.axes(s.left)[-1]
    if is_across:
        w.add(f"clear_rows<{size.rpartition(', ')[2]}>({left}, {w.valid(depth)}, {storage.stride(s.left)});")
    if s.right in storage.streamed:
        _multiply(w, s, f"ones<{tall}>()" if scale == "nullptr" else scale)
    elif is_across or s.right in storage.plain:
        steps = ", ".join(storage.step_of(s.left, axis) for axis in (rows, depth))
        lie = f"Lie<{steps}, {storage.plain.get(s.right, 'PANEL')}>"
        how = "plain" if s.right in storage.plain else "packed"
        w.add(f"gemm_{how}<{size}, {start}, {lie}>({left}, {right}, {scale}, {target}, {w.valid(rows)});")
    elif start == "FROM_ZERO":
        w.add(f"gemm<{size}>({left}, {right}, {target}, {w.valid(rows)});")
    elif start == "ADDED":
        w.add(f"gemm_add<{size}>({left}, {right}, {target}, {w.valid(rows)});")
    else:
        w.add(f"gemm_into<{size}>({left}, {right}, {scale}, {target}, {w.valid(rows)});")


def _from_the_right(w: BodyWriter, name: str) -> str:
    """A tile that products read from the left, packed for one that reads it from the right; its name there."""
    shapes, storage = w.frame.shapes, w.frame.storage
    rows, columns = shapes.names[name].axes
    if storage.right[name] != "rows" or name in storage.turned:
        raise LoweringError(f"{name} is a left operand too; load it under two names")
    dtype = C_TYPE[storage.operand[name]]
    tall, wide = (round_up(shapes.extent(axis), LANES) for axis in (rows, columns))
    deep = f"padded_depth<{dtype}>({tall})"
    spare, packed = w.frame.names.fresh(f"{name}_spare"), w.frame.names.fresh(f"{name}_rows")
    form = f"{deep}, {wide}, {storage.stride(name)}"
    w.add(f"alignas(64) operand<{dtype}> {spare}[right_operand_size<operand<{dtype}>, {form}>()];")
    w.add(f"const auto* {packed} = right_operand<{form}>({identifier(name)}, {w.valid(rows)}, {spare});")
    return packed


def _multiply(w: BodyWriter, s: Gemm, scale: str) -> None:
    """A product whose right operand is read where it lies."""
    shapes, storage = w.frame.shapes, w.frame.storage
    assert isinstance(s.left, str)
    assert isinstance(s.right, str)
    row, along = shapes.names[s.name].axes[0], shapes.names[s.right].axes
    tall, deep = (round_up(shapes.extent(axis), LANES) for axis in (row, along[0]))
    size = f"{tall}, {deep}, {shapes.extent(along[1])}"
    have, rows = w.valid(along[0]), w.valid(row)
    left, right, name = identifier(s.left), identifier(s.right), identifier(s.name)
    dtype = C_TYPE[storage.operand[s.left]]
    after = _after(w, s.right)
    if storage.right[s.right] == "rows":
        into = "false" if s.into is None else "true"
        w.add(f"multiply_rows<{size}, {dtype}, {into}>({left}, {right}, {have}, {scale}, {name}, {rows}{after});")
    elif s.into is None:
        w.add(f"multiply_columns<{size}, {dtype}>({left}, {right}, {have}, {name}, {rows}{after});")
    else:
        raise LoweringError(f"{print_statement(s)}: the cpu target adds a product of columns in memory to nothing")


def _after(w: BodyWriter, right: str) -> str:
    """The argument that names what is read after a streamed operand; nothing where that is not known."""
    found = w.upcoming.get(right)
    if found is None:
        return ""
    width = w.frame.shapes.extent(w.frame.shapes.ref_axes(found.load.source)[1])
    return f", upcoming<{width}>({w.rows_of(found.load)[0]}, {found.skip}, {found.rows})"


def upcoming(w: BodyWriter, s: TileLoop, loop: LoopWriter) -> dict[str, Upcoming]:
    """Of a loop's streamed operands each is followed by the next one of its tile, the last by the next tile's first."""
    loads = [x for x in s.body if isinstance(x, Load) and x.name in w.frame.storage.streamed]
    loads = [load for load in loads if w.frame.shapes.ref_axes(load.source)[0] == s.name]
    loads = [load for load in loads if not is_scattered(load.source, load.where, w.frame.shapes)]
    if not loads or s.order == "descending":
        return {}
    n = identifier(s.name)
    last = Upcoming(loads[0], s.tiles.tile, f"{n} + 1 < {loop.end} ? {s.tiles.tile} : 0")
    return {this.name: Upcoming(load, 0, f"{n}_rows") for this, load in pairwise(loads)} | {loads[-1].name: last}
