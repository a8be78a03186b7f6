"""The best schedule there is, for small work: a constraint model for OR-tools CP-SAT (extra `solve`).

It certifies optimality, and tells how far the planner is from it. Serial workers, as in simulate with depth 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.errors import MissingExtra, ScheduleError
from .bound import lower_bound
from .plan import Frame, Plan, assemble
from .simulate import simulate, with_residency
from .work import Work, check_workers

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

__all__ = ["Solution", "solve"]

MAX_SOLVED = 400  # visits


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """A plan, its makespan, a proven lower bound on any plan's, and whether the two are equal."""

    plan: Plan
    makespan: float
    bound: float
    is_optimal: bool


def solve(work: Work, workers: int, seconds: float = 10.0) -> Solution:
    """The best plan found in so many seconds on one thread.

    Raises MissingExtra without OR-tools, ScheduleError for work of more than a few hundred visits, with costs that have
    no common measure, or for which no plan was found in time.
    """
    try:
        from ortools.sat.python import cp_model
    except ImportError as error:
        raise MissingExtra("solve", "the exact solver") from error
    check_workers(workers)
    ticks, is_exact = work.in_ticks()
    if work.num_visits > MAX_SOLVED or not is_exact or not work.num_visits:
        raise ScheduleError(
            f"exact solver: {work.num_visits} visits; wanted 1 to {MAX_SOLVED}, and costs with a common measure"
        )
    model = _Model(cp_model, ticks, workers)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    status = solver.solve(model.model)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        raise ScheduleError(f"exact solver: no plan within {seconds:g} s; give it more, or make the work smaller")
    plan = model.plan(solver)
    unit = float(work.compute[work.mask].max() / max(1.0, ticks.compute[work.mask].max()))
    unit = work.reduce / ticks.reduce if ticks.reduce else unit
    makespan = simulate(plan, work).makespan
    return Solution(plan, makespan, solver.best_objective_bound * unit, status == cp_model.OPTIMAL)


class _Model:
    """Variables: when each reduction begins, when each job begins and ends.

    Workers are alike, so only how many jobs run at once matters: at most P at any time can be given to P workers.
    """

    def __init__(self, cp_model: Any, work: Work, workers: int) -> None:
        self.work, self.workers = work, workers
        self.model: cp_model.CpModel = cp_model.CpModel()
        head, kv, length = work.jobs()
        self.jobs = list(zip(head.tolist(), kv.tolist(), strict=True))
        self.horizon = int(length.sum() + work.latency * work.num_visits)
        self.moment: dict[tuple[int, int, int], Any] = {}
        self.begin: list[Any] = []
        self.end = self.model.new_int_var(int(np.ceil(lower_bound(work, workers) - 1e-6)), self.horizon, "end")
        spans = [self._job(*job) for job in self.jobs]
        self.model.add_cumulative(spans, [1] * len(spans), workers)
        self._one_writer()
        self.model.minimize(self.end)

    def _variable(self, name: str) -> Any:
        return self.model.new_int_var(0, self.horizon, name)

    def _job(self, head: int, kv: int) -> Any:
        """Its visits one at a time, inside an interval that a worker is taken for."""
        begin, end, size = (self._variable(f"{name} {head} {kv}") for name in ("begin", "end", "size"))
        r, busy = int(self.work.reduce), []
        for q in np.flatnonzero(self.work.mask[head, :, kv]).tolist():
            cost = int(self.work.compute[head, q, kv])
            moment = self.moment[head, q, kv] = self._variable(f"reduce {head} {q} {kv}")
            busy.append(self.model.new_fixed_size_interval_var(moment - cost, cost + r, f"visit {head} {q} {kv}"))
            self.model.add(moment - cost >= begin)
            self.model.add(moment + r <= end)
        self.model.add_no_overlap(busy)
        self.model.add(end <= self.end)
        self.begin.append(begin)
        return self.model.new_interval_var(begin, size, end, f"job {head} {kv}")

    def _one_writer(self) -> None:
        span = int(self.work.reduce + self.work.latency)
        for head, q in np.argwhere(self.work.mask.any(axis=2)).tolist():
            moments = [self.moment[head, q, kv] for kv in np.flatnonzero(self.work.mask[head, q]).tolist()]
            self.model.add_no_overlap(
                [self.model.new_fixed_size_interval_var(moment, span, "") for moment in moments]
            )

    def plan(self, solver: cp_model.CpSolver) -> Plan:
        """Jobs by when they begin, visits and sums by when they reduce."""
        at = {tile: solver.value(moment) for tile, moment in self.moment.items()}
        starts = [solver.value(begin) for begin in self.begin]
        issue = [job for _, job in sorted(zip(starts, self.jobs, strict=True))]
        orders = []
        for head, kv in issue:
            visits = sorted(np.flatnonzero(self.work.mask[head, :, kv]).tolist(), key=lambda q: at[head, q, kv])
            others = {q: np.flatnonzero(self.work.mask[head, q]).tolist() for q in visits}
            ranks = [sorted(others[q], key=lambda other: (at[head, q, other], other)).index(kv) for q in visits]
            orders.append((np.array(visits), np.array(ranks)))
        return with_residency(assemble(Frame(self.work.mask.shape, "exact", self.workers), issue, orders))
