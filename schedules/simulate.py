"""Carrying a plan out in simulated time: makespan, waits, who did what when, and deadlocks with their cycle.

A free worker takes the next job of the queue (or its own list), visits in order, and adds into a q tile when its rank
is due: max(own compute done, the reduction before it + latency). With depth 0 compute and reduction are serial on a
worker (the model of DASH, arXiv:2601.21824); with depth d the reductions run beside the computing, which may be at most
d unreduced tiles ahead. A worker is free again when its job's last reduction is done.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..ir.errors import ScheduleError
from .deadlock import PlanDeadlock, cycle_of
from .plan import Plan
from .work import Floats, Work, check_workers

__all__ = ["Trace", "resident_workers", "simulate", "with_residency"]

MAX_DEPTH = 64
MAX_CARRIED = 1 << 24  # visits
RANKS = 1 << 16  # more than a q tile can have contributors
Parked = tuple[int, int]  # tile * RANKS + rank awaited, job


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """What happened. Jobs are in issue order; visits of job i are begin[offset[i]:offset[i + 1]], likewise the rest.

    begin, done    when computing began and was done
    reduce         when the reduction began (it takes work.reduce)
    worker, taken  who took the job, and when
    resident       how many workers have to be on the machine at once for this plan to be carried out at all
    """

    makespan: float
    stall: float
    workers: int
    resident: int
    offset: NDArray[np.intp]
    begin: Floats
    done: Floats
    reduce: Floats
    worker: NDArray[np.intp]
    taken: Floats


def simulate(plan: Plan, work: Work, workers: int | None = None, depth: int = 0) -> Trace:
    """Carry the plan out on `workers` (default: as planned). stall: waits for ranks, summed over workers.

    Raises PlanDeadlock, a ScheduleError with the cycle, where fewer workers than plan.min_resident make it stop.
    """
    if (plan.heads, plan.num_q, plan.num_kv) != work.mask.shape:
        raise ScheduleError(
            f"plan for {(plan.heads, plan.num_q, plan.num_kv)} heads, q and kv tiles, work of {work.mask.shape}"
        )
    if isinstance(depth, bool) or not isinstance(depth, int) or not 0 <= depth <= MAX_DEPTH:
        raise ScheduleError(f"overlap {depth!r}: wanted a whole number from 0 to {MAX_DEPTH}")
    if work.num_visits > MAX_CARRIED:
        raise ScheduleError(
            f"{work.num_visits} visits: wanted at most {MAX_CARRIED} to simulate; take larger tiles, fewer heads, "
            "or a safe plan with search=False"
        )
    machine = _Machine(plan, work, check_workers(plan.workers if workers is None else workers), depth)
    if plan.lists is None and depth == 0 and machine.run_in_issue_order():
        return machine.trace()
    machine = _Machine(plan, work, machine.workers, depth)
    machine.run()
    return machine.trace()


def resident_workers(plan: Plan) -> int:
    """The least number of resident workers with which the plan cannot deadlock, whatever the costs.

    All conditions (a rank is due, so many earlier jobs are done) stay true once they are, so what can be reached does
    not depend on timing: starting a job only when all running ones wait needs the fewest.
    """
    mask = np.broadcast_to(np.True_, (plan.heads, plan.num_q, plan.num_kv))
    work = Work(mask, np.broadcast_to(np.float64(1.0), mask.shape), 0.0)
    if plan.lists is None and _Machine(plan, work, 1, 0).run_in_issue_order():
        return 1
    machine = _Machine(plan, work, max(1, len(plan.chains())), 0)
    machine.run()
    return machine.resident


def with_residency(plan: Plan) -> Plan:
    """The plan with the least min_resident that is true."""
    return replace(plan, min_resident=resident_workers(plan))


class _Machine:
    def __init__(self, plan: Plan, work: Work, workers: int, depth: int) -> None:
        self.plan, self.work, self.workers, self.depth = plan, work, workers, depth
        self.free = [(0.0, worker) for worker in range(workers)]
        self.resident = 1
        self.tiles, self.ranks, kvs = plan.flat()
        self.costs: Floats = work.compute[self.tiles // plan.num_q, self.tiles % plan.num_q, kvs]
        lengths = np.diff(plan.first)[plan.jobs[:, 2]]
        self.offset = np.concatenate([[0], np.cumsum(lengths)])
        self.spans = list(itertools.pairwise(self.offset.tolist()))
        self.begin, self.done, self.ends = (np.empty(len(self.tiles)) for _ in range(3))
        self.worker, self.taken = np.zeros(plan.num_jobs, dtype=np.intp), np.zeros(plan.num_jobs)

    def trace(self) -> Trace:
        r = self.work.reduce
        reduce = np.maximum(self.ends - r, self.done)
        before = np.maximum(self.done, self._previous_ends(0.0)) if self.depth else self.done
        return Trace(
            float(self.ends.max(initial=0.0)),
            float((reduce - before).sum()),
            self.workers,
            self.resident,
            self.offset,
            self.begin,
            self.done,
            reduce,
            self.worker,
            self.taken,
        )

    def _previous_ends(self, first: Floats | float) -> Floats:
        """When the same job's reduction before ended; `first` for each job's first."""
        ends = np.concatenate([[0.0], self.ends[:-1]])[: len(self.ends)]
        filled = np.diff(self.offset) > 0
        ends[self.offset[:-1][filled]] = first if isinstance(first, float) else first[filled]
        return ends

    def run_in_issue_order(self) -> bool:
        """A job at a time, where no job waits for a later one; False where one does (nothing is to be kept then).

        With reduction ends e[i] = max(e[i-1] + c[i], ready[i]) + r and C = cumsum(c + r):
        e[i] - C[i] = max(start, max over u <= i of ready[u] + r - C[u]).
        """
        r, latency, free = self.work.reduce, self.work.latency, self.free
        due = np.zeros(self.plan.heads * self.plan.num_q, dtype=np.int64)
        ready = np.zeros(len(due))
        for job, (first, last) in enumerate(self.spans):
            tiles = self.tiles[first:last]
            if (due[tiles] != self.ranks[first:last]).any():
                return False
            due[tiles] += 1
            start, worker = free[0]
            total = (self.costs[first:last] + r).cumsum()
            slack = ready[tiles] + (r - total)
            np.maximum.accumulate(np.maximum(slack, start, out=slack), out=slack)
            slack += total
            self.ends[first:last] = slack
            ready[tiles] = slack + latency
            self.worker[job], self.taken[job] = worker, start
            heapq.heapreplace(free, (float(slack[-1]) if last > first else start, worker))
        self.begin = self._previous_ends(self.taken)
        self.done = self.begin + self.costs
        return True

    def run(self) -> None:
        """Run all that is runnable to its end or its next wait; then let the earliest free worker take the next.

        Whoever waits then waits for a job that is not taken yet, so nobody can be free earlier than that worker.
        """
        self.due = [0] * (self.plan.heads * self.plan.num_q)
        self.ready = [0.0] * len(self.due)
        self.waiting: dict[int, tuple[Generator[Parked, None, float], int, int]] = {}
        self.woken: list[tuple[Generator[Parked, None, float], int]] = []
        chains = self.plan.chains()
        for index, chain in enumerate(chains):
            if not self.free:
                raise self._deadlock(index)
            start, worker = heapq.heappop(self.free)
            self.resident = max(self.resident, len(self.waiting) + 1)
            self.woken.append((self._carry_out(chain, worker, start), worker))
            while self.woken:
                self._continue(*self.woken.pop())
        if self.waiting:
            raise self._deadlock(len(chains))

    def _continue(self, chain: Generator[Parked, None, float], worker: int) -> None:
        try:
            key, job = next(chain)
        except StopIteration as end:
            heapq.heappush(self.free, (end.value, worker))
        else:
            self.waiting[key] = (chain, worker, job)

    def _carry_out(self, chain: tuple[int, ...], worker: int, start: float) -> Generator[Parked, None, float]:
        """Visit after visit; yields where a rank is not due, returns when the worker is free."""
        r, latency, depth = self.work.reduce, self.work.latency, self.depth
        due, ready, waiting = self.due, self.ready, self.waiting
        now = start
        for job in chain:
            span = slice(*self.spans[job])
            tiles, ranks, costs = (part[span].tolist() for part in (self.tiles, self.ranks, self.costs))
            self.worker[job], self.taken[job] = worker, now
            begins, dones, ends = [], [], [now] * (depth + 1)
            done = now
            for tile, rank, cost in zip(tiles, ranks, costs, strict=True):
                if due[tile] != rank:
                    yield tile * RANKS + rank, job
                begin = max(done, ends[-1 - depth])
                done = begin + cost
                end = max(done, ends[-1], ready[tile]) + r
                begins.append(begin)
                dones.append(done)
                ends.append(end)
                ready[tile] = end + latency
                due[tile] = rank + 1
                if waiting and (found := waiting.pop(tile * RANKS + rank + 1, None)):
                    self.woken.append(found[:2])
            self.begin[span], self.done[span], self.ends[span] = begins, dones, ends[depth + 1 :]
            now = ends[-1]
        return now

    def _deadlock(self, taken: int) -> PlanDeadlock:
        waits = {job: divmod(key, RANKS) for key, (_, _, job) in self.waiting.items()}
        return PlanDeadlock(self.workers, cycle_of(self.plan, waits, self.due, taken))
