"""The demonstration: kernels generated from published models' attention, verified, timed and reported; then a real
model that generates text with them through transformers.

`python -m tilewright.bench.demo [REPORT.html]` takes about a minute and a half and downloads nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from ..ir.errors import TilewrightError
from .cases import Case
from .generation import QUESTION, generate
from .implementations import TILEWRIGHT, implementations_for
from .measure import Session, measure
from .models import MODELS
from .report import write_report
from .rows import Row
from .suites import new_session
from .timing import Rounds

__all__ = ["main"]

REPORT = "demo-report.html"
BUDGET_S = 1.0
PEERS = ("eager", "sdpa", "flex")
READ_ON = "[dim]To read one: tilewright generate tilewright.bench.models:gemma2 --shape 1,8,2,1024,1024,64[/dim]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Generate, verify, time, print and write; 0, 1 where a kernel is missing or wrong, 2 for wrong use."""
    paths = list(sys.argv[1:] if arguments is None else arguments)
    path = Path(paths[0] if paths else REPORT)
    console = Console()
    try:
        rows = _measured(console)
    except TilewrightError as error:
        print(error, file=sys.stderr)
        return 2
    write_report(path, rows)
    console.print(_table(rows))
    agrees = _model(console)
    for row in rows:
        if row.error:
            console.print(f"{row.case}, {row.impl}: {row.error}", style="red", markup=False)
    console.print(f"Report: {path}")
    console.print(READ_ON, soft_wrap=True)
    failed = any(row.error for row in rows if row.impl == TILEWRIGHT)
    return 1 if failed or not agrees else 0


def _model(console: Console) -> bool:
    """Print what SmolLM2 answers with each implementation; whether all give eager's tokens."""
    try:
        with console.status("SmolLM2") as status:
            found = generate(status.update)
    except TilewrightError as error:
        console.print(f"No real model: {error}", style="yellow", markup=False)
        return True
    table = Table(
        title='SmolLM2-135M-Instruct through transformers: attn_implementation="…"', box=box.SIMPLE, padding=0
    )
    for name in ("implementation", "tokens/s", "tokens"):
        table.add_column(name, justify="right" if name == "tokens/s" else "left", no_wrap=True)
    for one in found:
        agreement = f"{len(one.tokens)}, as eager's" if one.tokens == found[0].tokens else "[red]not eager's[/red]"
        table.add_row(one.impl, f"{one.tokens_per_s:.3g}", agreement)
    console.print(table)
    console.print(f"{QUESTION} {found[-1].text}", style="italic", markup=False)
    return all(one.tokens == found[0].tokens for one in found)


def _measured(console: Console) -> list[Row]:
    with console.status("looking at this machine") as status:
        session = replace(
            new_session("cpu", ()),
            rounds=Rounds(budget_s=BUDGET_S),
            say=lambda text: status.update(f"{text}: generating, verifying, timing"),
            command="python -m tilewright.bench.demo",
        )
        return [row for case in MODELS for row in _one(case, session)]


def _one(case: Case, session: Session) -> list[Row]:
    """FlexAttention takes long to compile, so it is asked only where SDPA cannot say the variant."""
    peer = "flex" if case.variant.is_causal is None else "sdpa"
    return measure("demo", case, implementations_for(session.target, TILEWRIGHT, peer, "eager"), session)


def _table(rows: Sequence[Row]) -> Table:
    title = "Attention of published models: error in parts of its budget, median ms"
    table = Table(title=title, box=box.SIMPLE, padding=0)
    for name in ("model", "verified", "error", TILEWRIGHT, *PEERS):
        table.add_column(name, justify="left" if name == "model" else "right", no_wrap=True)
    for case in dict.fromkeys(row.case for row in rows):
        found = {row.impl: row for row in rows if row.case == case}
        ours = found.get(TILEWRIGHT)
        times = [_time(found.get(name), ours) for name in (TILEWRIGHT, *PEERS)]
        table.add_row(case.rpartition("-")[2], *_verified(ours), *times)
    return table


def _verified(row: Row | None) -> tuple[str, str]:
    """How many cases were verified, and the worst error in parts of its budget."""
    if row is None or row.error or "cases" not in row.extra:
        return "[red]no[/red]", ""
    extra = row.extra
    return f"{extra['cases']:.0f} cases", f"{extra['max_error'] / extra['error_budget']:.0%}"


def _time(row: Row | None, ours: Row | None) -> str:
    if row is None or row.median_ms is None:
        return "-"
    if row is ours or ours is None or not ours.median_ms:
        return f"{row.median_ms:.3g}"
    return f"{row.median_ms:.3g}  {row.median_ms / ours.median_ms:.2g}x"


if __name__ == "__main__":
    sys.exit(main())
