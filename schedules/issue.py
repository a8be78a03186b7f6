"""Issue orders: in which order free workers take jobs, before anything is known about who waits for whom."""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Sequence

import numpy as np

from .work import Work

__all__ = ["Issue", "issue_orders", "packed", "without_waits"]

Issue = list[tuple[int, int]]  # (head, kv) in issue order
TRIES = 12


def issue_orders(work: Work, workers: int, target: float) -> list[Issue]:
    """Promising orders, those first that would end first if nobody ever waited. target: a bound on the makespan."""
    head, kv, length = work.jobs()
    by_kv = np.lexsort((head, kv))
    longest = np.lexsort((head, kv, -length))
    longest_by_head = np.lexsort((kv, head, -length))
    sizes = length.tolist()
    orders = [order.tolist() for order in (longest, by_kv, longest_by_head)]
    orders.append(packed(sizes, longest.tolist(), workers, target))
    ends = [without_waits([sizes[job] for job in order], workers) for order in orders]
    jobs = list(zip(head.tolist(), kv.tolist(), strict=True))
    return [[jobs[job] for job in orders[index]] for index in np.argsort(ends, kind="stable")]


def without_waits(lengths: Sequence[float], workers: int) -> float:
    """When the last of jobs in issue order would end if nobody ever waited: no schedule of this order ends before."""
    free = [0.0] * workers
    for length in lengths:
        heapq.heapreplace(free, free[0] + length)
    return max(free)


def packed(lengths: Sequence[float], longest: Sequence[int], workers: int, target: float) -> list[int]:
    """Jobs in the order of the starts that packing them, longest first and tightest, into equal bins gives.

    Multifit (Coffman, Garey, Johnson 1978): the bins are grown from `target` until the jobs fit; `longest` unchanged
    where they never do.
    """
    step = max(1.0, min(lengths[longest[-1]], target / 64)) if longest else 1.0
    for attempt in range(TRIES):
        starts = _starts(lengths, longest, workers, target + attempt * step)
        if starts:
            return [job for _, _, job in sorted(starts)]
    return list(longest)


def _starts(
    lengths: Sequence[float], longest: Sequence[int], workers: int, capacity: float
) -> list[tuple[float, int, int]] | None:
    """(start, place in `longest`, job) of every job, or None where they do not fit."""
    rooms = [capacity] * workers
    starts = []
    for place, job in enumerate(longest):
        at = bisect.bisect_left(rooms, lengths[job])
        if at == len(rooms):
            return None
        room = rooms.pop(at)
        starts.append((capacity - room, place, job))
        bisect.insort(rooms, room - lengths[job])
    return starts
