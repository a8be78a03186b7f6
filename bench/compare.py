"""Compare two result files: `python -m tilewright.bench.compare BEFORE.json AFTER.json`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from ..ir.errors import TilewrightError
from .rows import Row, read_rows

__all__ = ["Change", "changes", "main"]

USAGE = "usage: python -m tilewright.bench.compare BEFORE.json AFTER.json"


@dataclass(frozen=True, slots=True)
class Change:
    """One row of both files. is_clear: the two ranges [min, max] of the samples do not overlap."""

    before: Row
    after: Row
    before_ms: float
    after_ms: float

    @property
    def speedup(self) -> float:
        """How many times as fast the second file is; below 1 is slower."""
        return self.before_ms / self.after_ms

    @property
    def is_clear(self) -> bool:
        """Whether every sample of one file is on the same side of every sample of the other."""
        before, after = self.before, self.after
        return (after.min_ms or 0) > (before.max_ms or 0) or (before.min_ms or 0) > (after.max_ms or 0)


def changes(before: Sequence[Row], after: Sequence[Row]) -> tuple[list[Change], list[str]]:
    """Rows timed in both, in the second's order, and a sentence for every row that only one of them timed."""
    old = {_key(row): row for row in before if row.median_ms is not None}
    new = {_key(row): row for row in after if row.median_ms is not None}
    both = [
        Change(old[key], row, old[key].median_ms or 0.0, row.median_ms or 0.0) for key, row in new.items() if key in old
    ]
    alone = [f"only before: {' '.join(key)}" for key in old if key not in new]
    alone += [f"only after: {' '.join(key)}" for key in new if key not in old]
    return both, alone


def _key(row: Row) -> tuple[str, str, str, str]:
    return (row.suite, row.case, row.impl, row.target)


def _machines(before: Sequence[Row], after: Sequence[Row]) -> str | None:
    """A warning when the files come from different machines."""
    names = [{str(row.machine.get("gpu") or row.machine.get("cpu")) for row in rows} for rows in (before, after)]
    if names[0] == names[1]:
        return None
    return f"different machines: {', '.join(sorted(names[0]))} and {', '.join(sorted(names[1]))}"


def _table(found: Sequence[Change]) -> Table:
    table = Table(title="median ms", box=box.SIMPLE, padding=0, pad_edge=False)
    for name in ("case", "impl", "before", "after", "faster", ""):
        table.add_column(name, no_wrap=True, justify="right" if name in ("before", "after", "faster") else "left")
    for change in found:
        row = change.after
        told = "" if change.is_clear else "overlap"
        times = (f"{change.before_ms:.3f}", f"{change.after_ms:.3f}", f"{change.speedup:.2f}x")
        table.add_row(row.case, row.impl, *times, told)
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the comparison; 0, or 2 with one message for wrong use."""
    paths = list(sys.argv[1:] if arguments is None else arguments)
    if len(paths) != 2:
        print(USAGE, file=sys.stderr)
        return 2
    try:
        before, after = (read_rows(Path(path)) for path in paths)
    except TilewrightError as error:
        print(error, file=sys.stderr)
        return 2
    found, alone = changes(before, after)
    console = Console()
    console.print(_table(found))
    for line in [_machines(before, after), *alone]:
        if line:
            console.print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
