"""Tiles of backward kernels on GPUs, per architecture, element type and head size: a table of what fits in registers.

A block keeps dK and dV of its columns in registers, beside the scores, their gradients and a part of dQ. The tiles are
the largest for which no architecture's compiler spills registers in the loop, with the warps of the target's table.
"""

from __future__ import annotations

from ..ir.dtypes import DType

Tiles = tuple[tuple[int, tuple[int, int]], ...]  # by widest head dimension, up to and including: rows x columns

BACKWARD_TILES: dict[str, Tiles] = {
    "sm_80": ((64, (64, 64)), (128, (32, 128)), (1 << 30, (16, 32))),
    "sm_90": ((64, (64, 64)), (128, (64, 64)), (1 << 30, (32, 32))),
    "sm_100": ((64, (64, 64)), (128, (32, 64)), (1 << 30, (32, 32))),
    "sm_120": ((64, (64, 64)), (128, (32, 64)), (1 << 30, (16, 32))),
}
# The same for flash_backward_split, which has kernels of their own for dK and dV, and for dQ.
RECOMPUTE_TILES: dict[str, Tiles] = {
    "sm_80": ((64, (32, 64)), (128, (32, 64)), (1 << 30, (16, 32))),
    "sm_90": ((64, (64, 64)), (128, (32, 64)), (1 << 30, (32, 32))),
    "sm_100": ((64, (64, 64)), (128, (32, 32)), (1 << 30, (32, 32))),
    "sm_120": ((64, (32, 64)), (128, (32, 64)), (1 << 30, (16, 32))),
}
# The same for a score that reads an element of a tensor for every pair: its addresses live in registers as well.
PAIRED_TILES: dict[str, Tiles] = {arch: ((64, (32, 32)), *BACKWARD_TILES[arch][1:]) for arch in ("sm_80", "sm_120")}
FLOAT32_TILES: Tiles = ((64, (32, 32)), (128, (16, 16)), (1 << 30, (16, 16)))
RECOMPUTE = "flash_backward_split"


def backward_tiles(
    dtype: DType, width: int, arch: str, form: str = "flash_backward", *, reads_pairs: bool = False
) -> tuple[int, int]:
    """Query rows and keys of a tile on a GPU; `width` is the wider of the two head dimensions.

    reads_pairs: whether the score reads an element of a tensor for every pair of a row and a column.
    """
    tables = RECOMPUTE_TILES if form == RECOMPUTE else BACKWARD_TILES
    if reads_pairs and form != RECOMPUTE:
        tables = tables | PAIRED_TILES
    table = FLOAT32_TILES if dtype is DType.F32 else tables.get(arch, tables["sm_80"])
    return next(tiles for limit, tiles in table if width <= limit)
