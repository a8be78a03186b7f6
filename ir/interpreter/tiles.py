"""Tiles: arrays with named axes; alignment by name, matrix products and reductions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ProgramError, ProgramLine
from ..evaluate import Array

REDUCTIONS: dict[str, Callable[..., Any]] = {"max": np.max, "sum": np.sum}


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """Values with one named axis per dimension; a scalar has none. Never changed once made."""

    values: Array
    axes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TileVariable:
    """The current tile of a tile variable: its number, and the tile and extent of its dimension."""

    number: int
    tile: int
    extent: int

    @property
    def start(self) -> int:
        """Index of the first row."""
        return self.number * self.tile

    def indices(self) -> Array:
        """Global indices of the rows, those past the ragged end included."""
        return np.arange(self.start, self.start + self.tile)


def scalar(value: object) -> Tile:
    """A tile without axes."""
    return Tile(np.asarray(value))


def union(axes: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """All axes: in the order of the operand that has them all, else in order of appearance."""
    parts = list(axes)
    names = tuple(dict.fromkeys(name for part in parts for name in part))
    return next((part for part in parts if len(part) == len(names)), names)


def align(tile: Tile, axes: tuple[str, ...]) -> Array:
    """The values with one dimension per name of `axes`, of size 1 where the tile lacks it."""
    if tile.axes == axes or not tile.axes:
        return tile.values
    present = [name for name in axes if name in tile.axes]
    values = tile.values.transpose([tile.axes.index(name) for name in present])
    sizes = iter(values.shape)
    return values.reshape([next(sizes) if name in tile.axes else 1 for name in axes])


def gemm(left: Tile, right: Tile, float_type: type[np.floating], line: ProgramLine) -> Tile:
    """left x right over the one axis they share. Raises ProgramError unless there is exactly one."""
    shared = [axis for axis in left.axes if axis in right.axes]
    if len(shared) != 1:
        reason = f"gemm operands have axes {list(left.axes)} and {list(right.axes)}; exactly one must be shared"
        raise ProgramError("types", reason, line)
    over = ([left.axes.index(shared[0])], [right.axes.index(shared[0])])
    a, b = (tile.values.astype(float_type, copy=False) for tile in (left, right))
    with np.errstate(all="ignore"):
        product = np.asarray(np.tensordot(a, b, axes=over))
    return Tile(product, tuple(axis for axis in (*left.axes, *right.axes) if axis != shared[0]))


def add(left: Tile, right: Tile) -> Tile:
    """Sum, on the axes of the right tile, which has all of the left's."""
    with np.errstate(all="ignore"):
        return Tile(align(left, right.axes) + right.values, right.axes)


def reduce(op: str, tile: Tile, axis: str) -> Tile:
    """Max or sum along an axis."""
    with np.errstate(all="ignore"):
        values = REDUCTIONS[op](tile.values, axis=tile.axes.index(axis))
    return Tile(np.asarray(values, tile.values.dtype), tuple(name for name in tile.axes if name != axis))
