"""Tile summaries: the least and greatest element of a captured tensor over each tile of rows or columns.

They stand for loads whose index is a row or column, so that documents, padding and captured masks are
decided per tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..dtypes import Kind
from ..expr import Expr, Op, load, var

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


def summary_pair(node: Expr, positions: tuple[int, ...], tiles: tuple[int, ...]) -> tuple[Summary, Summary]:
    """The min and max tables of a LOAD over tiles of `positions`, named like `documents_min_1x128`."""
    where = "_".join(f"{position}x{tile}" for position, tile in zip(positions, tiles, strict=True))
    tensor = str(node.attr)
    least, greatest = (
        Summary(f"{tensor}_{op}_{where}", tensor, op, positions, tiles, node.kind) for op in ("min", "max")
    )
    return least, greatest


def summary_load(summary: Summary, node: Expr) -> Expr:
    """The summary's element for the LOAD `node`: row i becomes tile number i_tile, other indices stay."""
    indices = tuple(var(f"{arg.attr}_tile") if n in summary.positions else arg for n, arg in enumerate(node.args))
    return load(summary.name, indices, summary.kind)


def indexed_by(node: Expr, variables: tuple[Expr, ...]) -> dict[int, Expr]:
    """The dimensions of a LOAD whose index is exactly one of `variables`, with that variable."""
    return {n: arg for n, arg in enumerate(node.args) if arg.op is Op.VAR and arg in variables}


def summarise(tensor: Array, summary: Summary) -> Array:
    """The table of a summary. A ragged last tile covers the elements it has; a NaN makes its tile NaN."""
    reduce = {"min": np.minimum, "max": np.maximum}[summary.op]
    table = np.asarray(tensor)
    for position, tile in zip(summary.positions, summary.tiles, strict=True):
        starts = np.arange(0, table.shape[position], tile)
        table = reduce.reduceat(table, starts, axis=position)
    return table
