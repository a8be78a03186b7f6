"""Geometry of a suite's overview: for each case a bar per peer, how many times as fast Tilewright is, on one axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .implementations import TILEWRIGHT
from .plot import Tick
from .rows import PEAK, VECTOR_PEAK, Row

__all__ = ["Overview", "Speedup", "overview"]

LEFT, WIDTH, TOP = 330.0, 520.0, 8.0
BAR_HEIGHT, GAP = 14.0, 8.0


@dataclass(frozen=True, slots=True)
class Speedup:
    """A bar from 1x to the ratio of a peer's median time to ours; it points left where the peer is faster."""

    peer: str
    ratio: float
    x: float
    y: float
    width: float

    @property
    def label(self) -> str:
        """The peer and the ratio."""
        return f"{self.ratio:.2g}x {self.peer}"


@dataclass(frozen=True, slots=True)
class Overview:
    """Bars by case, each case with the height of its name, in a frame of right by bottom; `one` is where 1x lies."""

    cases: tuple[tuple[str, float, tuple[Speedup, ...]], ...]
    ticks: tuple[Tick, ...]
    one: float
    top: float
    bottom: float
    left: float = LEFT
    right: float = LEFT + WIDTH


def overview(rows: Sequence[Row]) -> Overview | None:
    """The overview of one suite's rows; None where no case has a peer."""
    ratios = {case: _ratios([row for row in rows if row.case == case]) for case in dict.fromkeys(r.case for r in rows)}
    ratios = {case: found for case, found in ratios.items() if found}
    if not ratios:
        return None
    values = [ratio for found in ratios.values() for ratio in found.values()]
    low = min(0, math.floor(math.log2(min(values))))
    high = max(1, math.ceil(math.log2(max(values))))

    def x(ratio: float) -> float:
        return LEFT + WIDTH * (math.log2(ratio) - low) / (high - low)

    cases, y = [], TOP
    for case, found in ratios.items():
        bars = tuple(
            Speedup(peer, ratio, min(x(ratio), x(1)), y + n * BAR_HEIGHT, abs(x(ratio) - x(1)))
            for n, (peer, ratio) in enumerate(found.items())
        )
        cases.append((case, y + BAR_HEIGHT * len(bars) / 2, bars))
        y += BAR_HEIGHT * len(bars) + GAP
    ticks = tuple(Tick(x(2.0**power), f"{2.0**power:g}x") for power in range(low, high + 1))
    return Overview(tuple(cases), ticks, x(1), TOP, y)


def _ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Of one case: a peer's median over ours, by peer."""
    times = {row.impl: row.median_ms for row in rows if row.median_ms and row.impl not in (PEAK, VECTOR_PEAK)}
    own = times.pop(TILEWRIGHT, None)
    return {peer: ms / own for peer, ms in times.items()} if own else {}
