"""Tile classes: a loop plan carried out with NumPy for every row tile at once, one small integer per tile."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ScheduleError
from ..evaluate import evaluate
from ..expr import Expr, const, substitute
from .plan import LoopPlan, plan
from .summaries import summarise

Classes = npt.NDArray[np.int8]


class TileClass(IntEnum):
    """What a mask leaves of a tile. PARTIAL is also the answer where the analysis could not decide."""

    EMPTY = 0
    PARTIAL = 1
    FULL = 2


PARTS = {
    "full": (TileClass.FULL,),
    "partial": (TileClass.PARTIAL,),
    "any": (TileClass.PARTIAL, TileClass.FULL),
}


def classify(
    predicate: Expr,
    *,
    shape: tuple[int, int],
    tile: tuple[int, int],
    scalars: Mapping[str, int],
    tensors: Mapping[str, npt.NDArray[Any]],
) -> Classes:
    """The class of every tile, [row tiles, column tiles], as the loops of a program would visit them.

    `shape` is (rows, columns) and `tile` (row tile, column tile); `predicate` is over VARs i and j,
    `scalars` (b, h and sizes) and loads from `tensors`. Memory and time grow with the number of tiles, not
    of elements.
    """
    below_zero = {name: const(value) for name, value in scalars.items() if value < 0}  # a plan's variables are not
    loop = plan(substitute(predicate, below_zero), *tile, extent=const(shape[1]))
    tables = {s.name: summarise(tensors[s.tensor], s) for s in loop.summaries}
    return _classes(loop, shape, tile, scalars, {**tensors, **tables})


def _classes(
    loop: LoopPlan,
    shape: tuple[int, int],
    tile: tuple[int, int],
    scalars: Mapping[str, int],
    tensors: Mapping[str, npt.NDArray[Any]],
) -> Classes:
    rows, columns = (np.arange(-(-size // step)) for size, step in zip(shape, tile, strict=True))
    env: dict[str, Any] = {**scalars, **_box("i", rows[:, None], tile[0], shape[0])}
    lo, hi, full_lo, full_hi = (evaluate(e, env, tensors) for e in (loop.lo, loop.hi, loop.full_lo, loop.full_hi))
    env |= _box("j", columns[None, :], tile[1], shape[1])
    may, must = (evaluate(rest, env, tensors) for rest in (loop.may_rest, loop.must_rest))
    is_full = (full_lo <= columns) & (columns < full_hi) & must
    is_visited = (lo <= columns) & (columns < hi) & may
    classes = np.where(is_full, TileClass.FULL, np.where(is_visited, TileClass.PARTIAL, TileClass.EMPTY))
    return np.broadcast_to(classes, (rows.size, columns.size)).astype(np.int8)


def _box(name: str, number: npt.NDArray[Any], tile: int, size: int) -> dict[str, npt.NDArray[Any]]:
    low = number * tile
    return {f"{name}_lo": low, f"{name}_hi": np.minimum(low + tile, size) - 1, f"{name}_tile": number}


def visited(classes: Classes, part: str = "any", order: str = "ascending") -> list[npt.NDArray[np.int64]]:
    """Column tiles that a tile loop over `part` visits, in its order, for every row tile.

    Raises ScheduleError for a part other than full, partial, any, or an order other than ascending,
    descending.
    """
    if part not in PARTS:
        raise ScheduleError(f"visited: part {part!r} does not exist; take one of {', '.join(PARTS)}")
    if order not in ("ascending", "descending"):
        raise ScheduleError(f"visited: order {order!r} does not exist; take ascending or descending")
    step = 1 if order == "ascending" else -1
    return [np.flatnonzero(np.isin(row, PARTS[part]))[::step] for row in classes]
