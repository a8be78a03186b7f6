"""What makes a plan right: every tile once, one writer at a time in a fixed order, workers that exist, no deadlock."""

from __future__ import annotations

import numpy as np

from ..ir.errors import ScheduleError
from .plan import Plan
from .simulate import resident_workers
from .work import MAX_HEADS, MAX_TILES, MAX_VISITS, Bools, Work, check_workers

__all__ = ["check_coverage", "check_deadlock", "check_plan", "check_ranks", "check_tables", "check_workers_exist"]


def check_plan(plan: Plan, work: Work | None = None) -> None:
    """Every check, in an order in which each may rely on those before; ScheduleError says what is wrong."""
    check_tables(plan)
    check_workers_exist(plan)
    check_ranks(plan)
    if work is not None:
        check_coverage(plan, work.mask)
    check_deadlock(plan)


def check_tables(plan: Plan) -> None:
    """Indices are in range, rows begin where the one before ends, no job comes twice."""
    sizes = (("heads", plan.heads, MAX_HEADS), ("q tiles", plan.num_q, MAX_TILES), ("kv tiles", plan.num_kv, MAX_TILES))
    for what, size, most in sizes:
        if not 1 <= size <= most:
            raise ScheduleError(f"plan with {size} {what}: wanted 1 to {most}")
    steps = np.diff(plan.first)
    if len(plan.first) < 1 or plan.first[0] != 0 or (steps < 0).any() or plan.first[-1] != len(plan.visit):
        raise ScheduleError(f"offsets of rows: wanted them to rise from 0 to the {len(plan.visit)} visits")
    if len(plan.rank) != len(plan.visit):
        raise ScheduleError(f"{len(plan.rank)} ranks for {len(plan.visit)} visits: wanted one each")
    columns = (
        ("head", plan.jobs[:, 0], plan.heads),
        ("kv tile", plan.jobs[:, 1], plan.num_kv),
        ("row", plan.jobs[:, 2], len(plan.first) - 1),
        ("q tile", plan.visit, plan.num_q),
        ("rank", plan.rank, plan.num_kv),
    )
    for what, values, limit in columns:
        if len(values) and (values.min() < 0 or values.max() >= limit):
            raise ScheduleError(f"{what} from {values.min()} to {values.max()}: wanted 0 to {limit - 1}")
    keys = plan.jobs[:, 0].astype(np.int64) * plan.num_kv + plan.jobs[:, 1]
    if len(np.unique(keys)) != len(keys):
        raise ScheduleError("a kv tile of a head is the job of two workers: wanted one writer of its dK and dV")
    if plan.num_visits > MAX_VISITS:
        raise ScheduleError(f"{plan.num_visits} visits: wanted at most {MAX_VISITS}")


def check_workers_exist(plan: Plan) -> None:
    """Worker counts make sense, and static lists give every job to one worker that exists."""
    check_workers(plan.workers)
    if not 1 <= plan.min_resident <= plan.workers:
        raise ScheduleError(f"{plan.min_resident} resident workers of {plan.workers}: wanted 1 to {plan.workers}")
    if plan.lists is None:
        return
    if len(plan.lists) > plan.workers:
        raise ScheduleError(
            f"worker {len(plan.lists) - 1} has a list, and the plan has workers 0 to {plan.workers - 1}; "
            "plan for more workers"
        )
    given = sorted(job for jobs in plan.lists for job in jobs)
    if given != list(range(plan.num_jobs)):
        raise ScheduleError(f"static lists of {len(given)} jobs: wanted each of the {plan.num_jobs} jobs once")


def check_ranks(plan: Plan) -> None:
    """Contributors of a q tile have the ranks 0, 1, 2, …: one writer at a time, in one order."""
    tiles, ranks, _ = plan.flat()
    order = np.lexsort((ranks, tiles))
    tiles, ranks = tiles[order], ranks[order]
    starts = np.flatnonzero(np.concatenate([[True], tiles[1:] != tiles[:-1]]))[: len(tiles)]
    wanted = np.arange(len(tiles)) - np.repeat(starts, np.diff(np.append(starts, len(tiles))))
    wrong = np.flatnonzero(ranks != wanted)
    if len(wrong):
        head, q = divmod(int(tiles[wrong[0]]), plan.num_q)
        raise ScheduleError(
            f"q tile {q} of head {head}: rank {ranks[wrong[0]]} where rank {wanted[wrong[0]]} was wanted; "
            "ranks of a tile's contributors must be 0, 1, 2, … once each"
        )


def check_coverage(plan: Plan, mask: Bools) -> None:
    """Every unmasked tile is visited once, and no other."""
    if mask.shape != (plan.heads, plan.num_q, plan.num_kv):
        raise ScheduleError(f"mask of {mask.shape}, plan for {(plan.heads, plan.num_q, plan.num_kv)}: wanted the same")
    tiles, _, kvs = plan.flat()
    seen = np.bincount(tiles * plan.num_kv + kvs, minlength=mask.size).reshape(mask.shape)
    for what, wrong in (("is never visited", (seen == 0) & mask), ("is masked out and visited", (seen > 0) & ~mask)):
        if wrong.any():
            head, q, kv = (int(axis[0]) for axis in np.nonzero(wrong))
            raise ScheduleError(f"tile (q {q}, kv {kv}) of head {head} {what}; {int(wrong.sum())} such tiles")
    if (seen > 1).any():
        head, q, kv = (int(axis[0]) for axis in np.nonzero(seen > 1))
        raise ScheduleError(f"tile (q {q}, kv {kv}) of head {head} is visited {seen[head, q, kv]} times; wanted once")


def check_deadlock(plan: Plan) -> None:
    """The plan can be carried out by plan.min_resident workers; PlanDeadlock has the cycle where it cannot."""
    needed = resident_workers(plan)
    if needed > plan.min_resident:
        from .simulate import simulate

        mask = np.broadcast_to(np.True_, (plan.heads, plan.num_q, plan.num_kv))
        simulate(plan, Work.of(mask), plan.min_resident)
        raise AssertionError(f"needs {needed} workers and ran on {plan.min_resident}")

