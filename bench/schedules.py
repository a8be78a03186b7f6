"""The planner's numbers: makespans against bound and named orders, and how long planning takes.

`python -m tilewright.bench.schedules [FILE.json]` prints a table and writes bench/results/schedules.json in about two
minutes. Makespans are of the model in docs/determinism.md, not of a machine; only planning times
are measured, in milliseconds of the processor.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from ..schedules import Work, check_plan, lower_bound, plan_work, simulate
from ..schedules.masks import causal, document, window
from ..schedules.named import NAMED, reason_missing
from ..schedules.work import Bools
from .machine import describe_machine, revision

__all__ = ["FAMILIES", "Case", "Limits", "Measured", "cases", "family", "main", "measure_case"]

RESULTS = Path(__file__).parent / "results" / "schedules.json"
REDUCE = 0.25
SEEDS = 5  # of masks that are drawn; the worst counts
REPEATS, REPEATS_LARGE = 7, 2
DRAWN = ("tree", "random", "random-causal")
COLUMNS = (
    "mask", "n", "heads", "workers", "greedy", "resident", "safe", "named", "", "greedy ms", "safe ms", "quick ms",
)  # fmt: skip
FAMILIES = (
    "full", "causal", "window", "narrow-window", "documents", "uneven-documents", "tree", "binary-tree", "branches",
    "shared-prefix", "prefix-lm", "random", "random-causal",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Limits:
    """What must be reached: times of the bound, and milliseconds of planning."""

    greedy: float = 1.02
    safe: float = 1.10
    plan_ms: float = 100.0


@dataclass(frozen=True, slots=True)
class Case:
    """n tiles a side, heads, workers; seeds: how many masks of the family are drawn."""

    family: str
    n: int
    heads: int
    workers: int
    limits: Limits

    @property
    def seeds(self) -> int:
        return SEEDS if self.family in DRAWN and self.n <= 64 else 1


@dataclass(frozen=True, slots=True)
class Measured:
    """Times of the bound (the worst seed), the most resident workers that greedy needs, processor times of planning."""

    case: Case
    greedy: float
    safe: float
    best_named: float
    best_name: str
    min_resident: int
    greedy_ms: float
    safe_ms: float
    quick_ms: float

    def misses(self) -> list[str]:
        """Targets that are not reached."""
        limits = self.case.limits
        rows = (
            ("greedy", self.greedy, limits.greedy),
            ("safe", self.safe, limits.safe),
            ("greedy against named", self.greedy, self.best_named),
            ("greedy ms", self.greedy_ms, limits.plan_ms),
            ("safe ms", self.safe_ms, limits.plan_ms),
        )
        return [f"{what} {got:.4g} > {most:.4g}" for what, got, most in rows if got > most * (1 + 1e-9)]


def family(name: str, n: int, seed: int = 0) -> Bools:
    """A block mask [n, n] of a kind that people use."""
    rng = np.random.default_rng(seed)
    q, kv = np.ogrid[:n, :n]
    below, tiles = causal((n, n)), (n, n)
    if name == "tree":
        return _tree([int(rng.integers(0, node)) for node in range(1, n)])
    if name == "binary-tree":
        return _tree([(node - 1) // 2 for node in range(1, n)])
    trunk = n // 4 if name == "branches" else n // 2
    branch = np.maximum(np.arange(n) - trunk, -1) // max(1, n // 8)
    made = {
        "full": np.ones(tiles, dtype=bool),
        "causal": below,
        "window": window(tiles, n // 4),
        "narrow-window": window(tiles, n // 8),
        "documents": document(tiles, _cut(n, (8, 8, 8))),
        "uneven-documents": document(tiles, _cut(n, (5, 9, 12))),
        "branches": below & ((kv < trunk) | (branch[:, None] == branch[None, :])),
        "shared-prefix": below & ((kv < trunk) | (branch[:, None] == branch[None, :])),
        "prefix-lm": below | (kv < n // 4),
        "random": rng.random(tiles) < 0.2,
        "random-causal": below & ((rng.random(tiles) < 0.2) | (q == kv)),
    }
    return np.asarray(made[name], dtype=np.bool_)


def _cut(n: int, parts: tuple[int, ...]) -> tuple[int, ...]:
    """Lengths of documents: parts of 32, and the rest."""
    lengths = tuple(max(1, part * n // 32) for part in parts)
    return *lengths, n - sum(lengths)


def _tree(parents: Sequence[int]) -> Bools:
    """A node attends to itself and its ancestors; parents of the nodes 1, 2, …"""
    mask = np.eye(len(parents) + 1, dtype=np.bool_)
    for node, parent in enumerate(parents, start=1):
        mask[node] |= mask[parent]
    return mask


def cases() -> Iterator[Case]:
    """All that the targets speak of."""
    for workers in (32, 132):
        for name in FAMILIES:
            is_wild = "tree" in name or "random" in name
            greedy = 1.09 if name == "random" else 1.02
            yield Case(name, 32, 8, workers, Limits(greedy, 1.50 if is_wild else 1.10))
    yield Case("causal", 256, 1, 132, Limits(1.03, 1.10, 2000.0))
    for workers in (32, 132):
        for name in FAMILIES:
            is_wild = "tree" in name or "random" in name
            greedy = 1.09 if name == "random" else 1.02
            yield Case(name, 256, 32, workers, Limits(greedy, 1.50 if is_wild else 1.10, 2000.0))


def measure_case(case: Case) -> Measured:
    """Plan, check, simulate and time; the worst seed of each number."""
    found = [_measure(case, seed) for seed in range(case.seeds)]
    worst = max(found, key=lambda one: one.greedy)
    numbers = {
        name: max(getattr(one, name) for one in found)
        for name in ("safe", "min_resident", "greedy_ms", "safe_ms", "quick_ms")
    }
    return Measured(case, worst.greedy, best_named=worst.best_named, best_name=worst.best_name, **numbers)


def _measure(case: Case, seed: int) -> Measured:
    work = Work.of(family(case.family, case.n, seed), case.heads, 1.0, REDUCE)
    bound = lower_bound(work, case.workers)
    plans = {mode: plan_work(work, case.workers, mode) for mode in ("greedy", "safe")}
    times = {}
    for mode, plan in plans.items():
        check_plan(plan, work)
        times[mode] = simulate(plan, work).makespan / bound
    names = [name for name in NAMED if not reason_missing(name, work)] if case.n <= 64 or case.heads == 1 else []
    named = [(simulate(plan_work(work, case.workers, name), work).makespan / bound, name) for name in names]
    best, name = min(named, default=(float("inf"), ""))
    timed = (("greedy", True), ("safe", True), ("safe", False))
    clock = [_milliseconds(work, case, mode, search) for mode, search in timed]
    return Measured(case, times["greedy"], times["safe"], best, name, plans["greedy"].min_resident, *clock)


def _milliseconds(work: Work, case: Case, mode: str, search: bool) -> float:
    """Processor time of the quickest of a few plans: planning is one thread's work, and others may want the machine."""
    samples = []
    for _ in range(REPEATS if case.n <= 64 else REPEATS_LARGE):
        start = time.process_time()
        plan_work(work, case.workers, mode, search=search)
        samples.append(1e3 * (time.process_time() - start))
    return min(samples)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; 1 where a target is missed."""
    paths = list(sys.argv[1:] if arguments is None else arguments)
    console = Console()
    found = []
    for case in cases():
        found.append(measure_case(case))
        console.print(f"{case.family} n={case.n} heads={case.heads} workers={case.workers}", style="dim")
    console.print(_table(found))
    missed = [f"{one.case.family} n={one.case.n} P={one.case.workers}: {m}" for one in found for m in one.misses()]
    for line in missed:
        console.print(line, style="red")
    path = Path(paths[0]) if paths else RESULTS
    command = "python -m tilewright.bench.schedules"
    origin = {"command": command, "machine": describe_machine(), "revision": revision()}
    rows = [{name: _finite(value) for name, value in asdict(one).items()} for one in found]
    data = {**origin, "reduce": REDUCE, "missed": missed, "rows": rows}
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    return 1 if missed else 0


def _finite(value: object) -> object:
    return None if value == float("inf") else value


def _table(found: Sequence[Measured]) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 1))
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("mask", "") else "right")
    for one in found:
        case = one.case
        table.add_row(
            case.family, str(case.n), str(case.heads), str(case.workers), f"{one.greedy:.4f}", str(one.min_resident),
            f"{one.safe:.4f}", f"{one.best_named:.3f}" if one.best_name else "", one.best_name,
            *(f"{ms:.3g}" for ms in (one.greedy_ms, one.safe_ms, one.quick_ms)),
        )  # fmt: skip
    return table


if __name__ == "__main__":
    sys.exit(main())
