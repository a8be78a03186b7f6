"""Warps and stages to try for each architecture; tile sizes are the program's own."""

from __future__ import annotations

from ...ir.program import Grid
from .kernel import Kernel

ARCHES = ("sm_80", "sm_90", "sm_100", "sm_120")
DEFAULT_ARCH = "sm_90"

# (warps, stages), the usual best first. The first row is what runs untuned.
NARROW = {  # rows of up to 64 elements of 16 bits
    "sm_80": ((4, 3), (4, 4), (8, 3)),
    "sm_90": ((4, 3), (8, 3), (4, 2)),
    "sm_100": ((4, 3), (8, 3), (4, 2)),
    "sm_120": ((4, 3), (4, 2), (8, 2)),
}
WIDE = {  # longer rows
    "sm_80": ((8, 2), (8, 3), (4, 2)),
    "sm_90": ((8, 2), (8, 3), (4, 2)),
    "sm_100": ((8, 2), (8, 3), (4, 2)),
    "sm_120": ((8, 2), (4, 2), (8, 1)),
}
NARROW_BYTES = 128


def configurations(kernel: Kernel, row_bytes: int) -> dict[str, tuple[tuple[int, int], ...]]:
    """Rows of (warps, stages) per architecture; what the program's text fixes is the same in all of them."""
    table = NARROW if row_bytes <= NARROW_BYTES else WIDE
    return {arch: _fixed(table[arch], kernel.grid, kernel.stages) for arch in ARCHES}


def _fixed(rows: tuple[tuple[int, int], ...], grid: Grid, stages: int | None) -> tuple[tuple[int, int], ...]:
    return tuple(dict.fromkeys((grid.warps or w, stages or s) for w, s in rows))
