"""The exact solver: certificates on small work, and the planner against them."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tilewright.ir.errors import MissingExtra, ScheduleError
from tilewright.schedules import Work, check_plan, lower_bound, plan_work, simulate
from tilewright.schedules.exact import solve

pytest.importorskip("ortools", reason="pip install 'tilewright[solve]'")


def mask_of(name: str, n: int) -> np.ndarray:
    if name == "random":
        return np.random.default_rng(n).random((n, n)) < 0.5
    return {"full": np.ones((n, n), dtype=bool), "causal": np.tri(n, dtype=bool)}[name]


CASES = [
    (name, n, m, P) for name in ("full", "causal", "random") for n, m, P in ((3, 1, 3), (4, 1, 4), (4, 2, 3), (5, 2, 5))
]


@pytest.mark.parametrize(("name", "n", "m", "workers"), CASES)
@pytest.mark.parametrize("reduce", [0.25, 0.5])
def test_no_plan_beats_the_optimum_and_greedy_is_near(name: str, n: int, m: int, workers: int, reduce: float) -> None:
    work = Work.of(mask_of(name, n), m, 1.0, reduce)
    solution = solve(work, workers, seconds=20)
    assert solution.is_optimal
    check_plan(solution.plan, work)
    assert solution.bound == pytest.approx(solution.makespan)
    assert lower_bound(work, workers) <= solution.makespan + 1e-9
    planned = {mode: simulate(plan_work(work, workers, mode), work).makespan for mode in ("safe", "greedy", "ascending", "spt")}
    assert min(planned.values()) >= solution.makespan - 1e-9
    assert planned["greedy"] <= 1.10 * solution.makespan


def test_the_planner_meets_the_optimum_where_it_is_the_bound() -> None:
    work = Work.of(np.tri(6, dtype=bool), 2, 1.0, 0.5)
    optimum = solve(work, 6, seconds=20).makespan
    assert optimum == pytest.approx(lower_bound(work, 6))
    assert simulate(plan_work(work, 6, "greedy"), work).makespan == pytest.approx(optimum)


def test_uneven_costs_and_latency() -> None:
    costs = np.where(np.eye(4, dtype=bool), 2.0, 1.0)
    work = Work.of(np.tri(4, dtype=bool), 1, costs, 0.5, latency=0.5)
    solution = solve(work, 3, seconds=20)
    assert solution.is_optimal
    assert simulate(solution.plan, work).makespan == pytest.approx(solution.bound)


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (Work.of(np.ones((32, 32), dtype=bool)), "exact solver: 1024 visits; wanted 1 to 400"),
        (Work.of(np.zeros((2, 2), dtype=bool)), "exact solver: 0 visits"),
        (Work.of(np.ones((2, 2), dtype=bool), 1, [[1.0, 0.123456], [0.777, 1.0]]), "costs with a common measure"),
    ],
)
def test_what_it_does_not_solve(work: Work, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        solve(work, 2)


def test_no_time_is_no_plan() -> None:
    with pytest.raises(ScheduleError, match="no plan within 1e-06 s; give it more"):
        solve(Work.of(np.ones((8, 8), dtype=bool), 4), 5, seconds=1e-6)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ortools.sat.python", None)
    with pytest.raises(MissingExtra, match=r"pip install 'tilewright\[solve\]'"):
        solve(Work.of(np.ones((2, 2), dtype=bool)), 2)
