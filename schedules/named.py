"""Orders by name, as published: who ships or proposed each, and where it exists.

ascending        FlashAttention-3 deterministic: kv tiles, visits and sums in ascending order
descending       DASH (arXiv:2601.21824): visits descending, sums ascending
shift            DASH, full masks: visits of neighbours rotated by one, sums in order of arrival
symmetric-shift  DASH, causal: a worker owns kv tiles k and n-1-k; a rotation inside their common rectangle
spt              FlashAttention-3 since 2025-09 (shortest first): kv tiles descending, sums descending
zigzag           even heads as spt, odd heads its reversal in time (descending): pairs of jobs fill n + 1 visits
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..ir.errors import ScheduleError
from .issue import without_waits
from .plan import Frame, Job, Plan, assemble, spread
from .simulate import with_residency
from .work import Bools, Work

__all__ = ["NAMED", "STATIC", "least_end", "named_plan", "reason_missing"]

Order = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Turn:
    """A head's jobs in issue order, the direction of visits, the direction of sums; +1 up, -1 down."""

    kv: int
    visits: int
    sums: int


ASCENDING, DESCENDING, SPT = Turn(1, 1, 1), Turn(1, -1, 1), Turn(-1, 1, -1)


def named_plan(name: str, work: Work, workers: int) -> Plan:
    """The order's plan; ScheduleError where it does not exist for this mask."""
    small, *places = work.compressed()
    reason = reason_missing(name, small)
    if reason:
        raise ScheduleError(f"order {name}: {reason}")
    if not small.mask.size:
        return assemble(Frame(work.mask.shape, name, workers), [], [])
    plan = spread(NAMED[name](small, workers), work.mask.shape, places)
    return plan if plan.lists is None else with_residency(plan)  # queues add up in issue order: one worker is enough


def reason_missing(name: str, work: Work) -> str | None:
    """Why the order does not exist for this mask; None where it does."""
    if name not in NAMED:
        return f"no such order; wanted one of {', '.join(NAMED)}"
    mask = work.compressed()[0].mask
    num_q, num_kv = mask.shape[1:]
    if name == "shift" and not mask.all():
        return "needs a full mask"
    if name in ("symmetric-shift", "zigzag") and not (num_q == num_kv and (mask == np.tri(num_q, dtype=bool)).all()):
        return "needs a causal mask with as many q tiles as kv tiles"
    if name == "symmetric-shift" and num_kv % 2:
        return f"needs an even number of kv tiles, got {num_kv}"
    return None


def least_end(name: str, work: Work, workers: int) -> float:
    """When the order would end if nobody ever waited; quick, and never above its makespan."""
    head, kv, length = work.jobs()
    if name == "shift":
        return float(np.bincount(np.arange(len(length)) % workers, length).max())
    if name == "symmetric-shift":
        half = work.mask.shape[2] // 2
        pair = head * half + np.minimum(kv, 2 * half - 1 - kv)
        return float(np.bincount(pair % workers, length).max())
    turns = TURNS[name]
    direction = np.array([turn.kv for turn in turns])[head % len(turns)]
    return without_waits(length[np.lexsort((kv * direction, head))].tolist(), workers)


def _turns(name: str) -> Callable[[Work, int], Plan]:
    """Head after head, turns alternating between heads."""

    def plan(work: Work, workers: int) -> Plan:
        known: dict[tuple[bytes, Turn], list[tuple[int, tuple[Order, Order]]]] = {}
        jobs: list[Job] = []
        orders: list[tuple[Order, Order]] = []
        turns = TURNS[name]
        for head, mask in enumerate(work.mask):
            turn = turns[head % len(turns)]
            key = np.packbits(mask).tobytes(), turn
            if key not in known:
                known[key] = _taken(mask, turn)
            jobs += [(head, kv) for kv, _ in known[key]]
            orders += [order for _, order in known[key]]
        return assemble(Frame(work.mask.shape, name, workers), jobs, orders)

    return plan


def _taken(mask: Bools, turn: Turn) -> list[tuple[int, tuple[Order, Order]]]:
    """A head's kv tiles in issue order with their visits and ranks."""
    ranks = np.cumsum(mask[:, :: turn.sums], axis=1)[:, :: turn.sums] - 1
    used = np.flatnonzero(mask.any(axis=0))[:: turn.kv].tolist()
    visits = [np.flatnonzero(mask[:, kv])[:: turn.visits] for kv in used]
    return [(kv, (q, ranks[q, kv])) for kv, q in zip(used, visits, strict=True)]


def _groups(heads: int, units: int, workers: int) -> Iterator[tuple[int, int, int]]:
    """(head, first unit, number of units) of a head that are resident in one wave; units are jobs, or pairs of jobs.

    Wave w is the units [w P, (w + 1) P) in (head, unit) order.
    """
    at = 0
    while at < heads * units:
        end = min((at // workers + 1) * workers, (at // units + 1) * units)
        yield at // units, at % units, end - at
        at = end


def _shift(work: Work, workers: int) -> Plan:
    """Member k of a kv tiles visits k, k+1, … around; rank: those of earlier waves, then order of arrival."""
    heads, num_q, num_kv = work.mask.shape
    lists: list[list[int]] = [[] for _ in range(min(workers, heads * num_kv))]
    jobs: list[Job] = []
    orders = []
    for head, before, resident in _groups(heads, num_kv, workers):
        for start in range(before, before + resident, num_q):  # a rotation has as many members as q tiles at most
            members = min(num_q, before + resident - start)
            for k in range(members):
                visits = (np.arange(num_q) + k) % num_q
                lists[len(jobs) % workers].append(len(jobs))
                jobs.append((head, start + k))
                orders.append((visits, start + (np.minimum(visits, members - 1) - k) % members))
    return assemble(Frame(work.mask.shape, "shift", workers), jobs, orders, lists)


def _symmetric_shift(work: Work, workers: int) -> Plan:
    heads, n, _ = work.mask.shape
    lists: list[list[int]] = [[] for _ in range(min(workers, heads * n // 2))]
    jobs: list[Job] = []
    orders = []
    pair = 0
    for head, before, resident in _groups(heads, n // 2, workers):
        members = range(resident)
        for tiles in (_long, _short):
            for k in members:
                kv = before + k if tiles is _long else n - 1 - before - k
                lists[(pair + k) % workers].append(len(jobs))
                jobs.append((head, kv))
                orders.append(tiles(n, before, resident, k))
        pair += resident
    return assemble(Frame(work.mask.shape, "symmetric-shift", workers), jobs, orders, lists)


def _earlier(n: int, before: int, rows: Order) -> Order:
    """Contributors of earlier waves: their long tiles, and those of their short tiles that reach the row."""
    return before + np.maximum(0, before - (n - 1 - rows))


def _long(n: int, before: int, resident: int, k: int) -> tuple[Order, Order]:
    """Rows that all long tiles of the group share are a rotation; then this tile's own triangle, ascending."""
    corner, kv = before + resident - 1, before + k
    shared = corner + (np.arange(n - corner) + k) % (n - corner)
    own = np.arange(kv, corner)
    arrival = (np.minimum(shared - corner, resident - 1) - k) % resident
    return np.concatenate([shared, own]), np.concatenate([_earlier(n, before, shared) + arrival, before + own - kv])


def _short(n: int, before: int, resident: int, k: int) -> tuple[Order, Order]:
    """Down to the diagonal; later pairs come first, since their long tiles were shorter."""
    rows = np.arange(n - 1, n - 2 - before - k, -1)
    return rows, _earlier(n, before, rows) + resident + (resident - 1 - k)


TURNS = {"ascending": (ASCENDING,), "descending": (DESCENDING,), "spt": (SPT,), "zigzag": (SPT, DESCENDING)}
NAMED: dict[str, Callable[[Work, int], Plan]] = {
    "ascending": _turns("ascending"),
    "descending": _turns("descending"),
    "shift": _shift,
    "symmetric-shift": _symmetric_shift,
    "spt": _turns("spt"),
    "zigzag": _turns("zigzag"),
}
STATIC = ("shift", "symmetric-shift")  # jobs belong to workers; later jobs come before earlier ones in sums
