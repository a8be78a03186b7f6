"""`tilewright schedule`: orders of a backward pass compared. Options in, JSON and text out."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..ir.errors import ScheduleError
from .bound import lower_bound
from .masks import parse_mask, parse_tiles
from .named import NAMED, reason_missing
from .plan import Plan
from .planner import MODES, plan_work
from .simulate import Trace, simulate
from .timeline import MAX_DRAWN, Panel, html_page, svg, terminal
from .work import Work, check_workers

__all__ = ["ALL", "Request", "schedule_command"]

ALL = "all"
SUFFIXES = (".svg", ".html")


@dataclass(frozen=True, slots=True)
class Request:
    """The options of the command line."""

    mask: str
    tiles: str
    heads: int
    workers: int
    compute: float = 1.0
    reduce: float = 0.25
    order: str = ALL
    overlap: int = 0
    latency: float = 0.0
    jitter: float = 0.0
    seed: int = 0
    plot: Path | None = None


def schedule_command(request: Request) -> tuple[dict[str, Any], str]:
    """(what --json prints, text for people); the drawing is written where one is asked for."""
    check_workers(request.workers)
    if request.plot and request.plot.suffix not in SUFFIXES:
        raise ScheduleError(f"--plot {request.plot}: wanted a name that ends in {' or '.join(SUFFIXES)}")
    mask = parse_mask(request.mask, parse_tiles(request.tiles))
    planned = Work.of(mask, request.heads, request.compute, request.reduce, request.latency)
    names, skipped = _names(request.order, planned)
    actual = planned.jittered(request.jitter, request.seed) if request.jitter else planned
    panels = []
    for name in names:
        plan = plan_work(planned, request.workers, name)
        trace = simulate(plan, actual, request.workers, request.overlap)
        panels.append(Panel(name, _note(plan, trace), plan, trace, actual.reduce))
    bound = lower_bound(actual, request.workers, request.overlap)
    if request.plot:
        _draw(request, panels, bound, skipped)
    result: dict[str, Any] = {
        "mask": request.mask,
        "tiles": list(mask.shape),
        "heads": request.heads,
        "workers": request.workers,
        "compute": request.compute,
        "reduce": request.reduce,
        "overlap": request.overlap,
        "latency": request.latency,
        "jitter": request.jitter,
        "seed": request.seed,
        "lower_bound": bound,
        "orders": [_order(panel) for panel in panels],
        "skipped": skipped,
        "plot": str(request.plot) if request.plot else None,
    }
    return result, _text(request, panels, bound, skipped)


def _names(order: str, work: Work) -> tuple[list[str], dict[str, str]]:
    """Orders to show, and the others with the reason why they do not exist."""
    every = (*NAMED, *MODES)
    if order != ALL and order not in every:
        raise ScheduleError(f"--order {order!r}: wanted {ALL} or one of {', '.join(every)}")
    asked = every if order == ALL else (order,)
    reasons = {name: reason_missing(name, work) for name in asked if name in NAMED}
    skipped = {name: reason for name, reason in reasons.items() if reason}
    if order in skipped:
        raise ScheduleError(f"--order {order}: {skipped[order]}")
    return [name for name in asked if name not in skipped], skipped


def _note(plan: Plan, trace: Trace) -> str:
    needs = "any number of workers" if plan.min_resident == 1 else f"{plan.min_resident} resident workers"
    return f"waits {trace.stall:g}, {needs}"


def _order(panel: Panel) -> dict[str, Any]:
    plan, trace = panel.plan, panel.trace
    jobs = [list(plan.job(job)) for job in range(plan.num_jobs)]
    return {
        "name": panel.name,
        "makespan": trace.makespan,
        "stall": trace.stall,
        "deadlock_free_at": plan.min_resident,
        "digest": plan.digest(),
        "issue": jobs,
        "visits": {f"{head},{kv}": plan.row(job)[0].tolist() for job, (head, kv) in enumerate(jobs)},
        "reduction": {f"{head},{q}": kvs for (head, q), kvs in plan.reductions().items()},
        "lists": None if plan.lists is None else [[jobs[job] for job in one] for one in plan.lists],
    }


def _title(request: Request) -> str:
    return f"{request.mask}, {request.tiles} tiles, {request.heads} heads, {request.workers} workers"


def _draw(request: Request, panels: list[Panel], bound: float, skipped: dict[str, str]) -> None:
    assert request.plot is not None
    drawn = sum(panel.plan.num_visits for panel in panels)
    if drawn > MAX_DRAWN:
        raise ScheduleError(f"--plot of {drawn} visits: wanted at most {MAX_DRAWN}; take one --order or fewer heads")
    is_page = request.plot.suffix == ".html"
    text = html_page(_title(request), panels, bound, skipped) if is_page else svg(panels)
    try:
        request.plot.write_text(text, encoding="utf-8")
    except OSError as error:
        reason = error.strerror or error
        raise ScheduleError(f"--plot {request.plot}: {reason}; name a file in a folder that exists") from error


def _text(request: Request, panels: list[Panel], bound: float, skipped: dict[str, str]) -> str:
    """A table and a timeline each, coloured where a terminal shows it."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    out = io.StringIO()
    console = Console(file=out, force_terminal=sys.stdout.isatty(), width=110, highlight=False)
    console.print(f"{_title(request)}: no schedule ends before {bound:g}", markup=False)
    table = Table(box=box.SIMPLE)
    for column in ("order", "makespan", "of the bound", "waits", "resident workers"):
        table.add_column(column, justify="left" if column == "order" else "right")
    for panel in panels:
        share = panel.trace.makespan / bound if bound else 1.0
        numbers = f"{panel.trace.makespan:g}", f"{share:.3f}×", f"{panel.trace.stall:g}", str(panel.plan.min_resident)
        table.add_row(panel.name, *numbers)
    console.print(table)
    longest = max((panel.trace.makespan for panel in panels), default=0.0)
    for panel in panels:
        console.print(f"[bold]{panel.name}[/] {panel.note}")
        for line in terminal(panel, longest):
            console.print(line, soft_wrap=True)
    console.print("█ computing and summing (a colour per head)   ░ waiting for its turn   blank: idle")
    for name, reason in skipped.items():
        console.print(f"no {name}: {reason}", markup=False)
    if request.plot:
        console.print(f"drawn: {request.plot}", markup=False, soft_wrap=True)
    return out.getvalue().rstrip("\n")
