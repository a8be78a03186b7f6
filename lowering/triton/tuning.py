"""Warps and stages to try for each architecture; tile sizes are the program's own."""

from __future__ import annotations

from .kernel import Kernel

ARCHES = ("sm_80", "sm_90", "sm_100", "sm_120")
DEFAULT_ARCH = "sm_90"

Rows = tuple[tuple[int, int], ...]
Tables = tuple[tuple[int, int, dict[str, Rows]], ...]

# (warps, stages), the usual best first; it spills no registers with the tiles of schedules/tuning.py and is what runs
# untuned. By bytes an element (up to and including), then by the widest row, in elements: first fit.
TABLES: Tables = (
    (2, 64, {
        "sm_80": ((8, 3), (4, 3), (4, 4)),
        "sm_90": ((4, 3), (8, 3), (4, 2)),
        "sm_100": ((8, 3), (4, 3), (8, 2)),
        "sm_120": ((8, 3), (4, 2), (8, 2)),
    }),
    (2, 128, {
        "sm_80": ((8, 2), (8, 3), (4, 2)),
        "sm_90": ((8, 3), (8, 2), (4, 2)),
        "sm_100": ((8, 3), (8, 2), (8, 1)),
        "sm_120": ((8, 2), (4, 2), (8, 3)),
    }),
    (2, 1 << 30, dict.fromkeys(ARCHES, ((8, 2), (4, 2), (8, 1)))),
    (8, 64, dict.fromkeys(ARCHES, ((8, 2), (8, 1), (4, 2)))),
    (8, 1 << 30, dict.fromkeys(ARCHES, ((8, 1), (8, 2), (4, 1)))),
)  # fmt: skip


# The same for kernels that split the keys: few rows, so few warps, and many bytes on their way.
SPLIT_TABLES: Tables = (
    (2, 128, dict.fromkeys(ARCHES, ((4, 3), (4, 4), (8, 3)))),
    (2, 256, dict.fromkeys(ARCHES, ((8, 3), (8, 2), (8, 4)))),
    (8, 64, dict.fromkeys(ARCHES, ((4, 3), (8, 3), (8, 2)))),
    (8, 1 << 30, dict.fromkeys(ARCHES, ((8, 2), (8, 1)))),
)

# Backward kernels, with the tiles of schedules/backward_tuning.py. One row: nothing is timed, so that a gradient has
# the same bits whatever else the GPU did when it was first computed. Tiles come through tables of jobs and visits,
# which takes stages of its own: with five, rows of Q and dO are on their way for a whole visit.
BACKWARD_TABLES: Tables = (
    (2, 64, {"sm_80": ((4, 3),), "sm_90": ((4, 5),), "sm_100": ((8, 5),), "sm_120": ((8, 3),)}),
    (2, 1 << 30, dict.fromkeys(ARCHES, ((8, 3),))),
    (8, 1 << 30, dict.fromkeys(ARCHES, ((8, 1),))),
)
BACKWARD_WIDE_TABLES: Tables = (
    (2, 1 << 30, dict.fromkeys(ARCHES, ((8, 3),))),
    *BACKWARD_TABLES[-1:],
)
# The same where dK and dV, and dQ, have kernels of their own: no tables, no sums of several instances.
RECOMPUTE_TABLES: Tables = (
    (2, 64, {"sm_80": ((4, 3),), "sm_90": ((8, 3),), "sm_100": ((8, 3),), "sm_120": ((4, 3),)}),
    *BACKWARD_TABLES[1:],
)
KINDS: dict[str, Tables] = {
    "dense": TABLES, "split": SPLIT_TABLES, "backward": BACKWARD_TABLES, "backward, wide": BACKWARD_WIDE_TABLES,
    "recompute": RECOMPUTE_TABLES, "recompute, wide": BACKWARD_WIDE_TABLES,
}  # fmt: skip


def configurations(
    element_bytes: int, width: int, has_wide_loads: bool = False, kind: str = "dense"
) -> dict[str, Rows]:
    """Rows of (warps, stages) per architecture, for kernels whose widest input row has `width` elements.

    Kernels that load biases or masks as whole tiles need the registers of many warps first, and fewer stages. `kind`:
    a key of KINDS.
    """
    tables = KINDS[f"{kind}, wide" if has_wide_loads and f"{kind}, wide" in KINDS else kind]
    table = next(table for size, limit, table in tables if element_bytes <= size and width <= limit)
    if not has_wide_loads:
        return table
    return {arch: tuple(sorted(rows, key=lambda row: (-row[0], row[1]))) for arch, rows in table.items()}


def fixed(kernel: Kernel, rows: Rows) -> Rows:
    """The rows with what the program's text fixes, each once."""
    return tuple(dict.fromkeys((kernel.grid.warps or warps, kernel.stages or stages) for warps, stages in rows))
