"""Statements that are done at once: declarations, loads and stores, arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from ..errors import OutOfBounds, ProgramError
from ..evaluate import Array
from ..printer import print_expr
from ..program import (
    Alloc,
    Barriers,
    Copy,
    Fill,
    Gemm,
    Let,
    Load,
    Operand,
    Reduce,
    ScatterAdd,
    Store,
    TileAt,
    Tiles,
)  # fmt: skip
from .barriers import Barrier
from .expressions import scalar_of, value_of
from .machine import Worker
from .memory import Memory, rounded, storage
from .places import fitted, read, touch, writable
from .races import History, Mode
from .scatters import scatter_add
from .tiles import Tile, TileVariable, add, gemm, reduce


def _alloc(worker: Worker, s: Alloc) -> None:
    shape = tuple(scalar_of(worker, dim) for dim in s.dims)
    if min(shape, default=0) < 0:
        reason = f"out of bounds: line {worker.line.number} allocates {s.name} of shape {list(shape)}"
        raise OutOfBounds(f"{reason}; no dimension may be negative", worker.line)
    worker.machine.meter.hold(prod(shape), f"buffer {s.name}", worker.line)
    worker.memories[s.name] = Memory(
        s.name, s.dtype, tuple(print_expr(dim) for dim in s.dims),
        storage(shape, s.dtype, worker.machine.float_type), worker.line, s.space,
        np.zeros(shape, np.bool_), History(s.name, len(shape)),
    )  # fmt: skip


def _barriers(worker: Worker, s: Barriers) -> None:
    worker.machine.meter.count(s.count, f"barriers {s.name}", worker.line)
    worker.barriers[s.name] = tuple(Barrier(f"{s.name}[{n}]", s.arrivals) for n in range(s.count))


def _load(worker: Worker, s: Load) -> None:
    worker.bind(s.name, read(worker, s.source, s.where))


def _store(worker: Worker, s: Store) -> None:
    value = value_of(worker, s.value)
    place = writable(worker, s.target, s.where)
    touch(worker, place, Mode.WRITE)
    place.write(fitted(worker, value, place), worker.machine.is_exact)


def _copy(worker: Worker, s: Copy) -> None:
    tile = read(worker, s.source)
    place = writable(worker, s.target)
    touch(worker, place, Mode.WRITE)
    place.write(fitted(worker, tile, place), worker.machine.is_exact)


def _fill(worker: Worker, s: Fill) -> None:
    shape = tuple(extent(worker, axis) for axis in s.axes)
    value = value_of(worker, s.value)
    if value.axes:
        raise ProgramError("types", f"a fill needs a single number, got axes {list(value.axes)}", worker.line)
    worker.bind(s.name, Tile(_held(worker, np.broadcast_to(value.values, shape), s), s.axes))


def _held(worker: Worker, values: Array, s: Fill) -> Array:
    stored = storage((), s.dtype, worker.machine.float_type).dtype
    return rounded(values, s.dtype, stored, worker.machine.is_exact)


def extent(worker: Worker, axis: str) -> int:
    """Elements along an axis: a tile variable's tile, or a size. Raises ProgramError for neither."""
    if axis in worker.tiles:
        return worker.tiles[axis].tile
    if axis in worker.machine.sizes:
        return worker.machine.sizes[axis]
    raise ProgramError("types", f"axis {axis!r} is neither a tile variable nor a size", worker.line)


def _let(worker: Worker, s: Let) -> None:
    worker.bind(s.name, value_of(worker, s.value))


def operand(worker: Worker, item: Operand) -> Tile:
    """A product's operand: a register, or a tile read from memory."""
    return worker.lookup(item) if isinstance(item, str) else read(worker, item)


def _gemm(worker: Worker, s: Gemm) -> None:
    product = gemm(operand(worker, s.left), operand(worker, s.right), worker.machine.float_type, worker.line)
    worker.bind(s.name, product if s.into is None else accumulated(worker, value_of(worker, s.into), product))


def accumulated(worker: Worker, into: Tile, product: Tile) -> Tile:
    """into + product. Raises ProgramError when `into` has an axis that the product lacks."""
    if not set(into.axes) <= set(product.axes):
        reason = f"into= has axes {list(into.axes)}, the product {list(product.axes)}"
        raise ProgramError("types", reason, worker.line)
    return add(into, product)


def _reduce(worker: Worker, s: Reduce) -> None:
    tile = worker.lookup(s.source)
    if s.axis not in tile.axes:
        raise ProgramError("types", f"{s.source!r} has axes {list(tile.axes)}, none of them {s.axis!r}", worker.line)
    worker.bind(s.name, reduce(s.op, tile, s.axis))


def _tile_at(worker: Worker, s: TileAt) -> None:
    worker.tiles[s.name] = tile_variable(worker, s.tiles, scalar_of(worker, s.number))


def tile_variable(worker: Worker, tiles: Tiles, number: int) -> TileVariable:
    """The tile variable that stands for one tile of a dimension."""
    return TileVariable(number, tiles.tile, extent_of(worker, tiles))


def extent_of(worker: Worker, tiles: Tiles) -> int:
    """The elements of a dimension that is cut into tiles. Raises OutOfBounds when there are more than it says."""
    found = scalar_of(worker, tiles.extent)
    most = found if tiles.most is None else scalar_of(worker, tiles.most)
    if found > most:
        reason = f"{print_expr(tiles.extent)} is {found}, more than most={print_expr(tiles.most or tiles.extent)}"
        raise OutOfBounds(f"out of bounds: line {worker.line.number}: {reason}, which is {most}", worker.line)
    return found


AT_ONCE: dict[type, Callable[[Worker, Any], None]] = {
    Alloc: _alloc, Barriers: _barriers, Load: _load, Store: _store, Copy: _copy, Fill: _fill, Let: _let,
    Gemm: _gemm, Reduce: _reduce, TileAt: _tile_at, ScatterAdd: scatter_add,
}  # fmt: skip
