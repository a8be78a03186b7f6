"""The search for a better greedy plan: issue orders and rings first, then jobs that end late are issued earlier.

Its length is a number of visits placed, never a time, so that the result is a function of the work alone.
"""

from __future__ import annotations

import itertools

from .greedy import Reserved, Ring, reserve, rings
from .issue import issue_orders
from .work import Work

__all__ = ["best_reserved"]

SEARCH_VISITS = 16_000  # that are placed before the search ends, at the latest one reservation later
ALL_ORDERS = 3  # rings that are tried with every issue order
STEPS = (1, 2, 3, 5, 8, 13, 21, 34, 1 << 30)  # places by which a late job is issued earlier
SPREAD = 7  # which of the late jobs is next: a prime, so that all have their turn


def best_reserved(work: Work, workers: int, bound: float) -> Reserved:
    """The best reservation found; work in ticks, bound: a makespan that cannot be improved on."""
    every = list(rings(work))
    left = SEARCH_VISITS
    best, ring = None, every[0]
    for chosen, issue in itertools.product(every[:ALL_ORDERS], issue_orders(work, workers, bound)):
        found = reserve(work, issue, workers, chosen)
        if best is None or found.makespan < best.makespan:
            best, ring = found, chosen
        left -= work.num_visits
        if best.makespan <= bound or left <= 0:
            break
    assert best is not None
    return best if left <= 0 else _repaired(work, workers, bound, (best, ring, left))


def _repaired(work: Work, workers: int, bound: float, start: tuple[Reserved, Ring, int]) -> Reserved:
    """Issue late jobs earlier, every second time with another ring; go on from what is no worse."""
    best, ring, left = start
    every = list(rings(work))
    current = best
    for attempt in range(left // max(1, work.num_visits)):
        late = _late(current, work, bound)
        if not late:
            break
        chosen = every[attempt // 2 % len(every)] if attempt % 2 else ring
        issue = list(current.issue)
        at = late[attempt * SPREAD % len(late)]
        issue.insert(max(0, at - STEPS[attempt % len(STEPS)]), issue.pop(at))
        found = reserve(work, issue, workers, chosen)
        if (found.makespan, len(_late(found, work, bound))) <= (current.makespan, len(late)):
            current, ring = found, chosen
        if found.makespan < best.makespan:
            best = found
    return best


def _late(reserved: Reserved, work: Work, bound: float) -> list[int]:
    """Places in the issue order of jobs that end after the bound."""
    last = bound - work.reduce
    return [place for place, (_, ticks) in enumerate(reserved.moments) if ticks[-1] > last]
