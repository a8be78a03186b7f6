"""The HTML report of a run: one file with its plots inside, opened from disk without a network."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from .plot import bars, chart
from .rows import Row
from .speedups import overview
from .targets import verdicts

__all__ = ["render", "write_report"]


def write_report(path: Path, rows: Sequence[Row]) -> None:
    """Write the report, making the folder if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(rows), encoding="utf-8")


def render(rows: Sequence[Row]) -> str:
    """The report as HTML: goals, speed-ups of each suite, growth with length, a plot of every case, and all rows."""
    names = dict.fromkeys(row.suite for row in rows)
    suites = [_suite(name, [row for row in rows if row.suite == name]) for name in names]
    first = rows[0] if rows else None
    origin = {"command": first.command, "revision": first.revision} if first else {}
    machine = first.machine if first else {}
    return _template().render(suites=suites, verdicts=verdicts(rows), machine=machine, origin=origin, rows=rows)


def _suite(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    names = dict.fromkeys(row.case for row in rows)
    plots = {case: bars([row for row in rows if row.case == case]) for case in names}
    errors = [row for row in rows if row.error]
    plotted = {case: plot for case, plot in plots.items() if plot}
    parts = {"errors": errors, "speedups": overview(rows), "growth": chart(rows)}
    return {"name": name, "cases": plotted, **parts}


@functools.cache
def _template() -> Template:
    loader = PackageLoader("tilewright.bench", ".")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html.j2")
