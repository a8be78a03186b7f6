"""What `tilewright bench` prints: a line per row, then the goals that the run measured."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from .rows import Row
from .targets import verdicts

__all__ = ["print_summary"]

SHOWN = (
    "block_mask_ms", "resident_mb", "over_sdpa_us", "spills", "registers",
    "runs", "equal_runs", "equal_threads", "equal_places", "equal_paddings",  # the other extras are in the files
)  # fmt: skip


def print_summary(rows: Sequence[Row], console: Console | None = None) -> None:
    """Print rows and verdicts; an implementation that was not timed shows why."""
    console = console or Console()
    console.print(_rows(rows))
    for row in rows:
        if row.error:
            console.print(f"{row.case}, {row.impl}: not timed: {row.error}", style="red", markup=False)
    goals = _goals(rows)
    if goals.row_count:
        console.print(goals)


def _rows(rows: Sequence[Row]) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 1))
    for name in ("case", "median ms", "GFLOP/s", "of peak", ""):
        table.add_column(name, justify="left" if name in ("case", "") else "right", no_wrap=name != "")
    for suite, case in dict.fromkeys((row.suite, row.case) for row in rows):
        table.add_row(f"[bold]{case}[/bold]")
        for row in rows:
            if (row.suite, row.case) == (suite, case):
                table.add_row(*_cells(row))
    return table


def _cells(row: Row) -> tuple[str, ...]:
    numbers = (_number(row.median_ms, "{:.3f}"), _number(row.gflops, "{:.0f}"))
    extra = ", ".join(f"{name} {row.extra[name]:.3g}" for name in SHOWN if name in row.extra)
    return (f"  {row.impl}", *numbers, _number(row.fraction_of_peak, "{:.0%}"), extra)


def _goals(rows: Sequence[Row]) -> Table:
    table = Table(title="Goals", box=box.SIMPLE, padding=(0, 1))
    for name in ("goal", "wanted", "measured", ""):
        table.add_column(name, justify="right" if name in ("wanted", "measured") else "left", no_wrap=True)
    for verdict in verdicts(rows):
        goal = verdict.goal
        wanted = f"{'>=' if goal.is_floor else '<='} {goal.wanted:.3g} {goal.unit}"
        state = "[green]reached[/green]" if verdict.is_reached else "[red]not yet[/red]"
        table.add_row(goal.name, wanted.strip(), f"{verdict.measured:.3g} {goal.unit}".strip(), state)
    return table


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
