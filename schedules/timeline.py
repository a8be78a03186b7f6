"""Timelines: a row per worker, computing in the colour of the head, sums dark, waits red, idle time empty."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from .plan import Plan
from .simulate import Trace
from .work import Floats

__all__ = ["MAX_DRAWN", "Panel", "html_page", "svg", "terminal"]

PALETTE = ("#7aa6d8", "#f0b35f", "#86c28b", "#c9a0dc", "#e5989b", "#8ecfc9", "#cdbb78", "#a9b4c2")
DARK, WAIT, FRAME = "#33475b", "#d7263d", "#b8c0c8"
LEFT, WIDTH, TITLE, GAP = 46.0, 900.0, 34.0, 16.0
ROW, SMALL_ROW, FEW_ROWS = 16.0, 6.0, 24
MAX_DRAWN = 40_000  # visits in a file
BAR, MAX_ROWS = 96, 16  # characters a row, rows in the terminal
BLOCK, WAITING = "█", "░"


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """An order carried out; note: what to say beside its name."""

    name: str
    note: str
    plan: Plan
    trace: Trace
    reduce: float

    def spans(self) -> dict[str, tuple[NDArray[np.intp], Floats, Floats]]:
        """(worker, from, to) of computing by head, of sums and of waits, by colour."""
        trace = self.trace
        counts = np.diff(trace.offset)
        worker, head = np.repeat(trace.worker, counts), np.repeat(self.plan.jobs[:, 0], counts)
        found = {}
        for index, colour in enumerate(PALETTE):
            mine = head % len(PALETTE) == index
            found[colour] = worker[mine], trace.begin[mine], trace.done[mine]
        found[WAIT] = worker, trace.done, trace.reduce
        found[DARK] = worker, trace.reduce, trace.reduce + self.reduce
        return found


def svg(panels: Sequence[Panel]) -> str:
    """One drawing with a panel per order, on one scale of time, so that lengths can be compared."""
    longest = max((panel.trace.makespan for panel in panels), default=0.0) or 1.0
    bodies, top = [], 0.0
    for panel in panels:
        body, height = _panel(panel, WIDTH / longest)
        bodies.append(f'<g transform="translate(0 {top:g})">{body}</g>')
        top += height
    size = f'viewBox="0 0 {LEFT + WIDTH + GAP:g} {top:g}"'
    style = 'font-family="system-ui,sans-serif" font-size="12" shape-rendering="crispEdges"'
    ground = '<rect width="100%" height="100%" fill="#fff"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n{ground}\n' + "\n".join(bodies) + "\n</svg>\n"


def _panel(panel: Panel, scale: float) -> tuple[str, float]:
    workers = panel.trace.workers
    row = ROW if workers <= FEW_ROWS else SMALL_ROW
    title = f'<text x="{LEFT:g}" y="{TITLE - 12:g}"><tspan font-weight="600">{escape(panel.name)}</tspan>'
    parts = [f'{title}<tspan fill="#667" dx="8">{escape(panel.note)}</tspan></text>']
    parts += [
        f'<text x="{LEFT - 6:g}" y="{TITLE + row * (index + 0.5) + 3:g}" text-anchor="end" font-size="9" '
        f'fill="#667">{index}</text>'
        for index in range(0, workers, 1 if row == ROW else 8)
    ]
    end = LEFT + panel.trace.makespan * scale
    parts.append(
        f'<rect x="{LEFT:g}" y="{TITLE:g}" width="{end - LEFT:.2f}" height="{workers * row:g}" fill="#f4f5f7" '
        f'stroke="{FRAME}" stroke-width="0.5"/>'
    )
    for colour, (worker, start, stop) in panel.spans().items():
        path = "".join(_boxes(worker, start * scale, stop * scale, row))
        parts += [f'<path d="{path}" fill="{colour}"/>'] if path else []
    parts.append(f'<text x="{end:.1f}" y="{TITLE - 12:g}" text-anchor="end">{panel.trace.makespan:g}</text>')
    return "\n".join(parts), TITLE + workers * row + GAP


def _boxes(worker: NDArray[np.intp], start: Floats, stop: Floats, row: float) -> Iterator[str]:
    """Rectangles as pieces of a path; a hair of space between rows."""
    for index, left, right in zip(worker.tolist(), start.tolist(), stop.tolist(), strict=True):
        if right - left > 0.01:
            top = TITLE + index * row + 0.5
            yield f"M{LEFT + left:.2f} {top:g}h{right - left:.2f}v{row - 1:g}h-{right - left:.2f}z"


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1000px; padding: 0 1rem; color: #223;
        background: #fff }}
table {{ border-collapse: collapse }}
td, th {{ padding: .2rem .8rem; border-bottom: 1px solid #dde; text-align: right }}
td:first-child, th:first-child {{ text-align: left }}
svg {{ width: 100% }}
i {{ display: inline-block; width: 1em; height: 1em }}
</style>
<h1>{title}</h1>
<table><tr><th>order</th><th>makespan</th><th>of the bound</th><th>waits</th><th>resident workers</th></tr>
{rows}</table>
<p>A row is a worker. Computing has the colour of its head, <i style="background:{dark}"></i> is a sum into dQ,
<i style="background:{wait}"></i> a wait for its turn; grey is idle.</p>
{svg}
{skipped}</html>
"""


def html_page(title: str, panels: Sequence[Panel], bound: float, skipped: dict[str, str]) -> str:
    """A page that needs nothing else: numbers and drawings."""
    rows = "".join(
        f"<tr><td>{escape(panel.name)}</td><td>{panel.trace.makespan:g}</td>"
        f"<td>{panel.trace.makespan / bound if bound else 1:.3f}×</td><td>{panel.trace.stall:g}</td>"
        f"<td>{panel.plan.min_resident}</td></tr>\n"
        for panel in panels
    )
    left_out = "".join(f"<p>No {escape(name)}: {escape(reason)}.</p>\n" for name, reason in skipped.items())
    return PAGE.format(title=escape(title), rows=rows, svg=svg(panels), skipped=left_out, dark=DARK, wait=WAIT)


def terminal(panel: Panel, longest: float) -> list[str]:
    """Rows of rich markup: of each column's time, what most of it went to. At most a few workers, evenly chosen."""
    workers = panel.trace.workers
    shown = np.unique(np.linspace(0, workers - 1, min(workers, MAX_ROWS)).astype(int)).tolist()
    edges = np.linspace(0.0, longest or 1.0, BAR + 1)
    spans = panel.spans()
    layers = [(colour, _shares(span, shown, edges)) for colour, span in spans.items() if colour != DARK]
    lines = []
    for place, worker in enumerate(shown):
        cells = []
        for column in range(BAR):
            share, colour = max((layer[1][place, column], layer[0]) for layer in layers)
            mark = WAITING if colour == WAIT else BLOCK
            cells.append(f"[{colour}]{mark}[/]" if share > 0 else " ")
        lines.append(f"[dim]{worker:>5}[/] " + "".join(cells))
    return lines


def _shares(span: tuple[NDArray[np.intp], Floats, Floats], shown: list[int], edges: Floats) -> Floats:
    """[shown worker, column]: time of the column that the span covers."""
    worker, start, stop = span
    found = np.zeros((len(shown), len(edges) - 1))
    for place, index in enumerate(shown):
        mine = worker == index
        begin, end = start[mine, None], stop[mine, None]
        found[place] = np.clip(np.minimum(end, edges[1:]) - np.maximum(begin, edges[:-1]), 0, None).sum(axis=0)
    return found
