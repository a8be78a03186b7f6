"""What no schedule can beat: lower bounds on the makespan."""

from __future__ import annotations

import numpy as np

from .work import Floats, Work

__all__ = ["even_bound", "lower_bound"]

def lower_bound(work: Work, workers: int, depth: int = 0) -> float:
    """The best of: work ÷ workers, jobs that cannot all be packed (with equal tiles), the longest job, and the longest
    chain of reductions into one q tile after its cheapest compute."""
    if not work.mask.any():
        return 0.0
    lengths = np.sort(_lengths(work, depth))[::-1]
    found = max(_packing(lengths, workers), _chain(work))
    if depth == 0 and work.is_even():
        cost = float(work.compute[work.mask][0]) + work.reduce
        visits = np.sort(work.mask.sum(axis=1)[work.mask.any(axis=1)])[::-1]
        found = max(found, cost * even_bound(visits.astype(np.int64), workers))
    return found


def _lengths(work: Work, depth: int) -> Floats:
    """Of every job without waits. Overlapped: all computing and one reduction, or all reductions and one compute."""
    _, _, serial = work.jobs()
    if depth == 0:
        return serial
    visits = work.mask.sum(axis=1)[work.mask.any(axis=1)]
    cheapest = np.where(work.mask, work.compute, np.inf).min(axis=1)[work.mask.any(axis=1)]
    computing = serial - work.reduce * (visits - 1)
    return np.asarray(np.maximum(computing, cheapest + visits * work.reduce), dtype=np.float64)


def _packing(lengths: Floats, workers: int) -> float:
    """lengths descending. Among the k P + 1 longest jobs, some worker has k + 1."""
    best = max(float(lengths.sum()) / workers, float(lengths[0]))
    for k in range(1, (len(lengths) - 1) // workers + 1):
        last = k * workers
        best = max(best, float(lengths[last - k : last + 1].sum()))
    return best


def _chain(work: Work) -> float:
    contributors = work.mask.sum(axis=2)
    cheapest = np.where(work.mask, work.compute, np.inf).min(axis=2)
    used = contributors > 0
    return float((cheapest + contributors * work.reduce + (contributors - 1) * work.latency)[used].max())


def even_bound(sizes: np.ndarray[tuple[int], np.dtype[np.int64]], workers: int) -> int:
    """The least capacity, in visits, for which packing sizes (descending) into `workers` bins is not excluded."""
    low = max(int(sizes[0]), -(-int(sizes.sum()) // workers))
    high = low + int(sizes[0])  # longest first never needs more
    while low < high:
        middle = (low + high) // 2
        if _excluded(sizes[::-1], middle, workers):
            low = middle + 1
        else:
            high = middle
    return low


def _excluded(ascending: np.ndarray[tuple[int], np.dtype[np.int64]], capacity: int, workers: int) -> bool:
    """Whether the bound L2 of Martello and Toth (1990) needs more bins than there are workers.

    For every a <= capacity / 2: a job above capacity - a shares its bin with no job of at least a, jobs above half take
    a bin each, and those from a up to half fill what is left.
    """
    total = np.concatenate([[0], np.cumsum(ascending)])
    half = int(np.searchsorted(ascending, capacity // 2, side="right"))  # those at most half
    least = np.unique(np.append(ascending[:half], capacity // 2))
    alone = np.searchsorted(ascending, capacity - least, side="right")
    small = total[half] - total[np.searchsorted(ascending, least)]
    room = (alone - half) * capacity - (total[alone] - total[half])
    bins = (len(ascending) - half) + np.maximum(0, -(-(small - room) // capacity))
    return bool(bins.max() > workers)
