"""Warps and stages to try for each architecture; tile sizes are the program's own."""

from __future__ import annotations

from .kernel import Kernel

ARCHES = ("sm_80", "sm_90", "sm_100", "sm_120")
DEFAULT_ARCH = "sm_90"

Rows = tuple[tuple[int, int], ...]

# (warps, stages), the usual best first; it spills no registers with the tiles of schedules/tuning.py and is what runs
# untuned. Widest row of the inputs, in bytes, that a table is for: first fit.
TABLES: tuple[tuple[int, dict[str, Rows]], ...] = (
    (128, {
        "sm_80": ((8, 3), (4, 3), (4, 4)),
        "sm_90": ((4, 3), (8, 3), (4, 2)),
        "sm_100": ((8, 3), (4, 3), (8, 2)),
        "sm_120": ((8, 3), (4, 2), (8, 2)),
    }),
    (256, {
        "sm_80": ((8, 2), (8, 3), (4, 2)),
        "sm_90": ((8, 3), (8, 2), (4, 2)),
        "sm_100": ((8, 3), (8, 2), (4, 2)),
        "sm_120": ((8, 2), (4, 2), (8, 3)),
    }),
    (1 << 30, {
        "sm_80": ((8, 2), (4, 2), (8, 1)),
        "sm_90": ((8, 2), (4, 2), (8, 1)),
        "sm_100": ((8, 2), (4, 2), (8, 1)),
        "sm_120": ((8, 2), (4, 2), (8, 1)),
    }),
)  # fmt: skip


def configurations(row_bytes: int) -> dict[str, Rows]:
    """Rows of (warps, stages) per architecture, for kernels whose widest input row has `row_bytes`."""
    return next(table for limit, table in TABLES if row_bytes <= limit)


def fixed(kernel: Kernel, rows: Rows) -> Rows:
    """The rows with what the program's text fixes, each once."""
    return tuple(dict.fromkeys((kernel.grid.warps or warps, kernel.stages or stages) for warps, stages in rows))
