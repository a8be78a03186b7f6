"""Plans close to the bound: jobs reserve the moments of their reductions one after the other, and the order of those
moments becomes the order of the sums.

Time is in whole ticks, and who reduces into which q tiles of a head at a tick is a bit set in a Python integer. A job
that is planned later may reduce before one that is planned earlier; so it may have to wait for it, and the plan needs
that many workers to be resident.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray

from .issue import Issue
from .plan import Frame, Plan, assemble
from .work import Work

__all__ = ["Reserved", "Ring", "reserve", "rings", "to_plan"]

Busy = dict[int, int]  # tick -> q tiles, as bits
Ring = NDArray[np.intp]
Moments = tuple[list[int], list[int]]  # q tiles, ticks of their reductions
MAX_MATCHED = 64  # visits of a job that are matched with moments
MAX_CLASSES = 1 << 21  # visits x different costs that are worth the time


@dataclass(frozen=True, slots=True)
class Reserved:
    """Jobs in issue order, the moments of their visits, and when the last is done."""

    issue: Issue
    moments: list[Moments]
    makespan: int


@dataclass(frozen=True, slots=True)
class _Costs:
    """Ticks: of a reduction on its worker, of a reduction on its q tile (with latency), of computing."""

    reduce: int
    span: int
    compute: int | None  # None: differs between tiles


def reserve(work: Work, issue: Issue, workers: int, ring: Ring) -> Reserved:
    """Plan work in ticks. q tiles form a ring; a job visits the one before its last that is free at the moment.

    ring: a permutation of the q tiles; the first visit is the last of the ring that is free.
    """
    reduce, compute = int(work.reduce), _one_cost(work)
    costs = _Costs(reduce, reduce + int(work.latency), compute)
    columns = _columns(work.mask[:, ring])
    names = ring.tolist()
    busy: list[Busy] = [{} for _ in range(work.heads)]
    free = [0] * workers
    makespan, moments = 0, []
    for head, kv in issue:
        todo = columns[head][kv]
        if compute is None:
            classes = _classes(work.compute[head, ring, kv], todo)
            found, end = _place_uneven(todo, free[0], busy[head], costs, classes)
        else:
            found, end = _place(todo, free[0], busy[head], costs)
        moments.append(([names[bit] for bit in found[0]], found[1]))
        heapq.heapreplace(free, end)
        makespan = max(makespan, end)
    return Reserved(issue, moments, makespan)


def rings(work: Work) -> Iterator[Ring]:
    """As the tiles lie, by number of contributors, the other way round, and in strides."""
    num_q = work.mask.shape[1]
    yield np.arange(num_q)
    yield np.argsort(work.mask.sum(axis=(0, 2)), kind="stable")
    yield np.arange(num_q)[::-1]
    for stride in range(2, num_q):
        if gcd(stride, num_q) == 1:
            yield np.arange(num_q) * stride % num_q


def _one_cost(work: Work) -> int | None:
    """The cost of every tile, or the mean where telling them apart would take too long; None to tell them apart."""
    costs = work.compute[work.mask] if not work.is_even() else work.compute[work.mask][:1]
    if work.is_even():
        return int(costs[0])
    return int(np.rint(costs.mean())) if len(costs) * len(np.unique(costs)) > MAX_CLASSES else None


def _columns(mask: NDArray[np.bool_]) -> list[list[int]]:
    """mask[head][:, kv] as an integer with bit q."""
    packed = np.packbits(mask, axis=1, bitorder="little")
    by_kv = np.ascontiguousarray(packed.transpose(0, 2, 1))
    return [[int.from_bytes(column.tobytes(), "little") for column in head] for head in by_kv]


def _place(todo: int, start: int, busy: Busy, costs: _Costs) -> tuple[Moments, int]:
    """Moments of a job's visits, and when the last is done; `busy` gets them."""
    step = (costs.compute or 0) + costs.reduce
    first = start + step - costs.reduce
    moments = _around(todo, first, busy, costs)
    without_waits = range(first, first + step * len(moments[0]), step or 1)
    if moments[1][-1] > without_waits[-1] and len(without_waits) <= MAX_MATCHED:
        moments = _matched(todo, without_waits, busy, costs.span) or moments
    for bit, tick in zip(*moments, strict=True):
        for moment in range(tick, tick + costs.span):
            busy[moment] = busy.get(moment, 0) | (1 << bit)
    return moments, moments[1][-1] + costs.reduce


def _around(todo: int, tick: int, busy: Busy, costs: _Costs) -> Moments:
    """The next tile of the ring that is free, and so on; where none is, a tick later."""
    tiles: list[int] = []
    ticks: list[int] = []
    span, step, get, last = costs.span, (costs.compute or 0) + costs.reduce, busy.get, 0
    while todo:
        taken = get(tick, 0)
        for moment in range(tick + 1, tick + span):
            taken |= get(moment, 0)
        free = todo & ~taken
        if not free:
            tick += 1
            continue
        tile = ((free & (last - 1)) or free).bit_length() - 1
        last = 1 << tile
        todo ^= last
        tiles.append(tile)
        ticks.append(tick)
        tick += step
    return tiles, ticks


def _matched(todo: int, ticks: Sequence[int], busy: Busy, span: int) -> Moments | None:
    """Visits without any wait, if there are such: a matching of tiles and moments by augmenting paths (Kuhn 1955)."""
    free = [_free(todo, tick, busy, span) for tick in ticks]
    place_of: dict[int, int] = {}  # tile, as a bit -> place of its moment

    def settle(place: int, tried: int) -> tuple[bool, int]:
        while left := free[place] & ~tried:
            bit = left & -left
            tried |= bit
            is_settled = bit not in place_of
            if not is_settled:
                is_settled, tried = settle(place_of[bit], tried)
            if is_settled:
                place_of[bit] = place
                return True, tried
        return False, tried

    if not all(settle(place, 0)[0] for place in range(len(ticks))):
        return None
    order = sorted(place_of, key=lambda bit: place_of[bit])
    return [bit.bit_length() - 1 for bit in order], list(ticks)


def _classes(costs: NDArray[np.float64], todo: int) -> list[tuple[int, int]]:
    """(cost, tiles of that cost as bits), dearest first."""
    found: dict[int, int] = {}
    for bit, cost in enumerate(costs.tolist()):
        found[int(cost)] = found.get(int(cost), 0) | (1 << bit)
    return [(cost, bits & todo) for cost, bits in sorted(found.items(), reverse=True) if bits & todo]


def _place_uneven(
    todo: int, start: int, busy: Busy, costs: _Costs, classes: Sequence[tuple[int, int]]
) -> tuple[Moments, int]:
    """As _place; which tiles are free depends on how long computing them takes."""
    tiles: list[int] = []
    ticks: list[int] = []
    now, last = start, 0
    while todo:
        free = {cost: _free(todo & members, now + cost, busy, costs.span) for cost, members in classes}
        anything = 0
        for bits in free.values():
            anything |= bits
        if not anything:
            now += 1
            continue
        tile = ((anything & (last - 1)) or anything).bit_length() - 1
        last = 1 << tile
        todo ^= last
        tick = now + next(cost for cost, bits in free.items() if bits & last)
        tiles.append(tile)
        ticks.append(tick)
        for moment in range(tick, tick + costs.span):
            busy[moment] = busy.get(moment, 0) | last
        now = tick + costs.reduce
    return (tiles, ticks), now


def _free(todo: int, tick: int, busy: Busy, span: int) -> int:
    for moment in range(tick, tick + span):
        if not todo:
            break
        todo &= ~busy.get(moment, 0)
    return todo


def to_plan(reserved: Reserved, work: Work, workers: int, mode: str) -> Plan:
    """Ranks are the order of moments; at one moment (no reduction costs), of issue."""
    heads, num_q, _ = work.mask.shape
    sizes = [len(tiles) for tiles, _ in reserved.moments]
    tiles = np.array([q for found, _ in reserved.moments for q in found], dtype=np.int64)
    ticks = np.array([tick for _, found in reserved.moments for tick in found], dtype=np.int64)
    head = np.repeat(np.array([head for head, _ in reserved.issue], dtype=np.int64), sizes)
    owner = head * num_q + tiles
    order = np.lexsort((ticks, owner))  # stable: issue order within a moment
    counts = np.bincount(owner, minlength=heads * num_q)
    ranks = np.empty(len(owner), dtype=np.int64)
    ranks[order] = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    cuts = np.cumsum(sizes)[:-1]
    orders = zip(np.split(tiles, cuts), np.split(ranks, cuts), strict=True)
    return assemble(Frame(work.mask.shape, mode, workers, workers), reserved.issue, orders)
