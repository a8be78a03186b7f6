"""Tile summaries: the least and greatest element of a captured tensor over each tile of rows or columns.

They stand for loads whose index is a row or column, so that documents, padding and captured masks are
decided per tile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..dtypes import Kind
from ..expr import Expr, Op, apply, var

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Summary:
    """A derived table `name`: the `op` ("min" or "max") of `tensor` over tiles of some of its dimensions.

    Dimension `positions[k]` of the tensor is cut into tiles of `tiles[k]` and shrinks from size to
    ceil(size / tile); the other dimensions stay. For truth values min means all and max means any.
    """

    name: str
    tensor: str
    op: str
    positions: tuple[int, ...]
    tiles: tuple[int, ...]
    kind: Kind


def summary_pair(node: Expr, spans: Mapping[int, int]) -> tuple[Summary, Summary]:
    """The min and max tables of a LOAD, over `spans[p]` elements of dimension p, named like `documents_min_1x128`."""
    where = "_".join(f"{position}x{span}" for position, span in spans.items())
    tensor = str(node.attr)
    least, greatest = (
        Summary(f"{tensor}_{op}_{where}", tensor, op, tuple(spans), tuple(spans.values()), node.kind)
        for op in ("min", "max")
    )
    return least, greatest


def indexed_by(node: Expr, tiles: Mapping[Expr, int]) -> dict[int, tuple[Expr, int]]:
    """The dimensions of a LOAD that a tile of rows or columns reads in one run: the variable, the run's length.

    The index is the variable, or its block (i // 16 where tiles of i have a multiple of 16).
    """
    found = {}
    for n, arg in enumerate(node.args):
        axis, size = _block(arg)
        if axis in tiles and tiles[axis] % size == 0:
            found[n] = axis, tiles[axis] // size
    return found


def block_of(index: Expr, tiles: Mapping[Expr, int]) -> Expr:
    """An index that is one for the whole tile (i // 128 for tiles of 64) by the tile's first element; else itself."""
    axis, size = _block(index)
    if axis not in tiles or size == 1 or size % tiles[axis] != 0:
        return index
    return apply(Op.FLOORDIV, var(f"{axis.attr}_lo"), size)


def _block(index: Expr) -> tuple[Expr, int]:
    """(i, 16) for i // 16; (index, 1) for anything else."""
    if index.op is Op.FLOORDIV and index.args[1].op is Op.CONST and (size := int(str(index.args[1].attr))) > 0:
        return index.args[0], size
    return index, 1


def summarise(tensor: Array, summary: Summary) -> Array:
    """The table of a summary. A ragged last tile covers the elements it has; a NaN makes its tile NaN."""
    reduce = {"min": np.minimum, "max": np.maximum}[summary.op]
    table = np.asarray(tensor)
    for position, tile in zip(summary.positions, summary.tiles, strict=True):
        starts = np.arange(0, table.shape[position], tile)
        table = reduce.reduceat(table, starts, axis=position)
    return table
