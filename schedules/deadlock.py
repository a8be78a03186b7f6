"""Why a plan stops: the cycle of jobs that wait for each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..ir.errors import ScheduleError
from .plan import Job, Plan

__all__ = ["PlanDeadlock", "Wait", "cycle_of"]


def _name(job: Job) -> str:
    return f"(head {job[0]}, kv {job[1]})"


@dataclass(frozen=True, slots=True)
class Wait:
    """A job waits for another: at a q tile, or (q None) for a worker that the other one holds."""

    job: Job
    needs: Job
    q: int | None = None

    def __str__(self) -> str:
        if self.q is None:
            return f"{_name(self.job)} waits for a worker, and {_name(self.needs)} holds one"
        return f"{_name(self.job)} waits at q tile {self.q} for {_name(self.needs)}"


class PlanDeadlock(ScheduleError):
    """A plan stops for ever: with how many workers, and the cycle of waits."""

    def __init__(self, workers: int, cycle: tuple[Wait, ...]) -> None:
        self.workers = workers
        self.cycle = cycle
        lines = "\n    ".join(map(str, cycle))
        super().__init__(
            f"the plan deadlocks with {workers} resident worker{'s' * (workers != 1)}; run it on more, "
            f"or plan with mode 'safe':\n    {lines}"
        )


def cycle_of(
    plan: Plan, waits: Mapping[int, tuple[int, int]], due: Sequence[int], taken: int
) -> tuple[Wait, ...]:
    """The cycle among jobs that wait; waits: job -> (tile, rank); due: rank due per tile; taken: chains begun.

    A job of the queue waits for a worker, all of which are held by waiting jobs; a job further down a static list waits
    for the one before it.
    """
    owner = _owners(plan, {(tile, due[tile]) for tile, _ in waits.values()})
    holder = _holders(plan, waits, taken)
    steps: dict[int, Wait] = {}
    job = next(iter(waits))
    path: list[int] = []
    while job not in steps:
        path.append(job)
        if job in waits:
            tile = waits[job][0]
            needs = owner.get((tile, due[tile]))
            if needs is None:
                head, q = divmod(tile, plan.num_q)
                raise ScheduleError(f"q tile {q} of head {head}: no job has rank {due[tile]}, and others wait for it")
            steps[job] = Wait(plan.job(job), plan.job(needs), tile % plan.num_q)
        else:
            needs = holder.get(job, next(iter(waits)))
            steps[job] = Wait(plan.job(job), plan.job(needs))
        job = needs
    return tuple(steps[step] for step in path[path.index(job) :])


def _owners(plan: Plan, wanted: set[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """(tile, rank) -> job."""
    found = {}
    for job in range(plan.num_jobs):
        base = plan.job(job)[0] * plan.num_q
        for q, rank in zip(*(part.tolist() for part in plan.row(job)), strict=True):
            if (base + q, rank) in wanted:
                found[base + q, rank] = job
    return found


def _holders(plan: Plan, waits: Mapping[int, tuple[int, int]], taken: int) -> dict[int, int]:
    """job -> the waiting job before it in the static list that a worker has begun."""
    found: dict[int, int] = {}
    for chain in plan.chains()[:taken]:
        stuck = next((job for job in chain if job in waits), None)
        if stuck is not None:
            found |= dict.fromkeys(chain[chain.index(stuck) + 1 :], stuck)
    return found
