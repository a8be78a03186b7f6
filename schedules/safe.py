"""Plans free of deadlock on any number of workers: sums follow the issue order, and only visits are chosen.

A job then waits only for jobs issued before it. The earliest unfinished job waits for none, so it ends, and so do all
after it, even on one worker. Visits of a job are ordered by when the q tiles become ready for it: no other order ends
sooner; of those ready at once, the tile that most jobs still wait for goes first.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .issue import packed
from .plan import Frame, Job, Plan, assemble, replicated
from .work import Bools, Floats, Work

__all__ = ["quick_safe", "safe_candidates"]

Order = NDArray[np.intp]
Visits = dict[int, Order]  # kv tile -> q tiles in order
Jobs = list[tuple[Job, tuple[Order, Order]]]  # with visits and ranks, in issue order
Place = NDArray[np.float64]  # of a kv tile among those of its head, [heads, NK]


def _reversed_start(place: Place, share: int) -> Place:
    """Of the jobs of a head that begin at once, those first that were last: the shortest leaves most tiles alone."""
    rank = place.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    return np.where(rank < share, share - 1 - rank, rank).astype(np.float64)


def _by_packing(work: Work, workers: int, target: float) -> Place:
    """As issue.packed takes a tile for the last time in any head; heads that are alike stay alike."""
    head, kv, length = work.jobs()
    order = packed(length.tolist(), np.lexsort((head, kv, -length)).tolist(), workers, target)
    at = np.arange(len(order), dtype=np.float64)
    place = np.zeros(work.mask.shape[::2])
    np.maximum.at(place, (head[order], kv[order]), at)
    return np.broadcast_to(place.max(axis=0), place.shape) if work.twins() else place


def quick_safe(work: Work, workers: int) -> Plan:
    """The first candidate for heads that are all alike, planned for one of them: about a millisecond at 32 tiles."""
    share = max(1, workers // work.heads)
    one = work.first_heads(1)
    return replicated(_plan(one, share, _reversed_start(_longest(one), share)), work.heads)


def safe_candidates(work: Work, workers: int, target: float) -> Iterator[Plan]:
    """One plan per way of issuing, the most promising first; heads that are alike share rows. target: a bound."""
    share = max(1, workers // work.heads)
    longest = _longest(work)
    yield _plan(work, workers, _reversed_start(longest, share))
    yield _plan(work, workers, longest)
    ascending = np.broadcast_to(np.arange(work.mask.shape[2], dtype=np.float64), longest.shape)
    yield _plan(work, workers, ascending)
    yield _plan(work, workers, -ascending)
    yield _plan(work, workers, _by_packing(work, workers, target))


def _longest(work: Work) -> Place:
    return np.asarray(-np.where(work.mask, work.compute + work.reduce, 0.0).sum(axis=1), dtype=np.float64)


def _plan(work: Work, workers: int, place: Place) -> Plan:
    """Every head is planned by itself on its share of the workers; heads take turns at a place of their orders."""
    share = max(1, workers // work.heads)
    known: dict[bytes, Jobs] = {}
    keyed: list[tuple[int, Job, tuple[Order, Order]]] = []
    for head in range(work.heads):
        mask, costs = work.mask[head], work.compute[head]
        key = b"".join((np.packbits(mask).tobytes(), np.where(mask, costs, 0.0).tobytes(), place[head].tobytes()))
        if key not in known:
            order = np.flatnonzero(mask.any(axis=0))
            order = order[place[head, order].argsort(kind="stable")]
            known[key] = _head(mask, costs, work, order, share)
        keyed += [(at, (head, kv), visits) for at, ((_, kv), visits) in enumerate(known[key])]
    keyed.sort(key=lambda entry: (entry[0], entry[1][0]))
    frame = Frame(work.mask.shape, "safe", workers)
    return assemble(frame, [job for _, job, _ in keyed], [visits for _, _, visits in keyed])


def _head(
    mask: Bools, costs: Floats, work: Work, order: Order, share: int
) -> Jobs:
    """Jobs in issue order with their visits and ranks; sums follow the issue order."""
    ranks = np.zeros(mask.shape, dtype=np.intp)
    ranks[:, order] = np.cumsum(mask[:, order], axis=1) - 1
    visits = _visits(mask, costs, work, order, share)
    return [((0, kv), (visits[kv], ranks[visits[kv], kv])) for kv in order.tolist()]


def _visits(mask: Bools, costs: Floats, work: Work, order: Order, workers: int) -> Visits:
    """A job after the other on `workers`; its sums after those of all before it. See simulate.run_in_issue_order."""
    r, latency = work.reduce, work.latency
    ready, left = np.zeros(len(mask)), mask.sum(axis=1)
    free = [0.0] * workers
    visits: Visits = {}
    for kv in order.tolist():
        q = np.flatnonzero(mask[:, kv])
        start = free[0]
        cost = costs[q, kv]
        by = np.lexsort((-left[q], np.maximum(ready[q] - cost, start)))
        q = q[by]
        total = np.cumsum(cost[by] + r)
        ends = np.maximum.accumulate(np.maximum(ready[q] + (r - total), start)) + total
        ready[q] = ends + latency
        left[q] -= 1
        visits[kv] = q
        heapq.heapreplace(free, float(ends[-1]))
    return visits
