"""Geometry of the report: bars of a case and lines of time over length. Numbers in, coordinates out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .rows import PEAK, VECTOR_PEAK, Row

__all__ = ["Bar", "Chart", "Line", "Tick", "bars", "chart"]

BAR_WIDTH = 250.0
LABEL_HEIGHT = 15.0
Key = tuple[str, str]  # implementation, variant
LEFT, TOP, WIDTH, HEIGHT = 64.0, 12.0, 520.0, 300.0


@dataclass(frozen=True, slots=True)
class Bar:
    """An implementation's bar in a case: longer is faster."""

    impl: str
    width: float
    label: str


@dataclass(frozen=True, slots=True)
class Tick:
    """A grid line and its label."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Line:
    """One implementation on one variant over growing lengths; label_y keeps its name clear of the others'."""

    name: str
    impl: str
    points: tuple[tuple[float, float], ...]
    label_y: float

    @property
    def path(self) -> str:
        """As the `points` of an SVG polyline."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines on logarithmic axes with their grid, in a frame of width by height."""

    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    left: float = LEFT
    top: float = TOP
    right: float = LEFT + WIDTH
    bottom: float = TOP + HEIGHT


def bars(rows: Sequence[Row]) -> list[Bar]:
    """Bars of the rows of one case, peaks left out, as long as their speed."""
    timed = [(row, row.median_ms) for row in rows if row.median_ms and row.impl not in (PEAK, VECTOR_PEAK)]
    fastest = min((ms for _, ms in timed), default=1.0)
    return [Bar(row.impl, BAR_WIDTH * fastest / ms, _label(row)) for row, ms in timed]


def _label(row: Row) -> str:
    parts = [f"{row.median_ms:.3g} ms"]
    if row.gflops is not None:
        parts.append(f"{row.gflops:.0f} GFLOP/s")
    if row.fraction_of_peak is not None:
        parts.append(f"{100 * row.fraction_of_peak:.0f} % of peak")
    return ", ".join(parts)


def chart(rows: Iterable[Row]) -> Chart | None:
    """Median time over N, a line per implementation and sort of case; None where nothing has two lengths."""
    series: dict[Key, dict[int, float]] = {}
    for row in rows:
        if row.median_ms and row.shape and row.impl not in (PEAK, VECTOR_PEAK):
            series.setdefault((row.impl, _sort(row)), {})[row.shape[4]] = row.median_ms
    series = {key: points for key, points in series.items() if len(points) > 1}
    lengths = sorted({n for points in series.values() for n in points})
    if len(lengths) < 2:
        return None
    times = [ms for points in series.values() for ms in points.values()]
    low, high = math.floor(math.log10(min(times))), math.ceil(math.log10(max(times)))
    high = max(high, low + 1)

    def x(n: int) -> float:
        return LEFT + WIDTH * math.log(n / lengths[0]) / math.log(lengths[-1] / lengths[0])

    def y(ms: float) -> float:
        return TOP + HEIGHT * (high - math.log10(ms)) / (high - low)

    drawn = {key: tuple((x(n), y(ms)) for n, ms in sorted(points.items())) for key, points in series.items()}
    labels = _spread({key: points[-1][1] for key, points in drawn.items()})
    lines = tuple(Line(", ".join(key), key[0], points, labels[key]) for key, points in drawn.items())
    x_ticks = tuple(Tick(x(n), str(n)) for n in lengths)
    y_ticks = tuple(Tick(y(10.0**power), f"{10.0**power:g} ms") for power in range(low, high + 1))
    return Chart(lines, x_ticks, y_ticks)


def _sort(row: Row) -> str:
    """A case's name without its batch and its number of keys, which the axis shows."""
    return re.sub(r"^B\d+-|-N\d+(?=-)", "", re.sub(r"-N(\d+)x\d+(?=-)", r"-M\1", row.case))


def _spread(heights: Mapping[Key, float]) -> dict[Key, float]:
    """Heights moved down where two would be less than a label apart."""
    placed: dict[Key, float] = {}
    lowest = -math.inf
    for key, height in sorted(heights.items(), key=lambda item: item[1]):
        lowest = placed[key] = max(height, lowest + LABEL_HEIGHT)
    return placed
