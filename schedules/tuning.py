"""Default orchestration per target, architecture, element type and head size: tables of measured choices."""

from __future__ import annotations

from ..ir.dtypes import DType
from ..ir.spec import AttentionSpec
from ..ir.transfer import Orchestration

# Rows x columns of a CPU tile by widest head dimension (up to and including), first fit.
CPU_TILES = {
    DType.F32: ((64, (96, 64)), (128, (96, 64)), (256, (48, 64)), (1 << 30, (32, 64))),
    DType.BF16: ((64, (96, 64)), (128, (96, 64)), (256, (64, 64)), (1 << 30, (32, 64))),
}
# Rows, columns, warps, stages of a GPU block.
GPU_TILES = ((64, (128, 64, 4, 3)), (128, (128, 64, 8, 2)), (256, (64, 32, 4, 2)), (1 << 30, (32, 32, 4, 1)))


def choose(spec: AttentionSpec, target: str, arch: str) -> Orchestration:
    """The orchestration that transfer starts from on this target."""
    width = max(spec.head_dim, spec.value_dim)
    if target == "cpu":
        table = CPU_TILES.get(spec.dtype, CPU_TILES[DType.F32])
        rows, columns = next(tiles for limit, tiles in table if width <= limit)
        return Orchestration((("m", rows), ("n", columns)), is_packed=True)
    rows, columns, warps, stages = next(tiles for limit, tiles in GPU_TILES if width <= limit)
    return Orchestration((("m", rows), ("n", columns)), warps, stages)
