"""A plan: who visits which tile in which order, and in which order partial dQ are added. Data, and nothing else.

Bits of dQ depend on the reduction order alone; a plan fixes it, whoever carries the plan out and however fast.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .work import Ints

__all__ = ["Frame", "Job", "Lists", "Longs", "Plan", "Rows", "assemble", "replicated", "spread"]

Job = tuple[int, int]  # head, kv tile
Lists = tuple[tuple[int, ...], ...]
Longs = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """An order of jobs, of every job's visits, and of every q tile's contributors.

    jobs    int32 [J, 3]: head, kv tile, row, in issue order: a free worker takes the next one
    first   int32 [R + 1]: row i's visits are visit[first[i]:first[i + 1]]; rows that coincide are one
    visit   int32 [V]: q tile, in the order of visiting
    rank    int32 [V]: how many reductions into that q tile of the job's head come before this one
    lists   indices of jobs per worker where the assignment is static, else None
    mode    the planner's mode or the order's name
    workers       the number it was planned for
    min_resident  workers that must be on the machine at once for it to be free of deadlock
    """

    heads: int
    num_q: int
    num_kv: int
    jobs: Ints
    first: Ints
    visit: Ints
    rank: Ints
    mode: str
    workers: int
    min_resident: int
    lists: Lists | None = None

    @property
    def num_jobs(self) -> int:
        return len(self.jobs)

    @property
    def num_visits(self) -> int:
        """Over all jobs, rows counted as often as they are used."""
        return int(np.diff(self.first)[self.jobs[:, 2]].sum())

    def tables(self) -> dict[str, Ints]:
        """What a kernel reads: contiguous int32 arrays `jobs`, `first`, `visit` and `rank` (see the class)."""
        return {name: np.ascontiguousarray(getattr(self, name)) for name in ("jobs", "first", "visit", "rank")}

    def row(self, job: int) -> tuple[Ints, Ints]:
        """(q tiles, ranks) of a job's visits in order."""
        row = self.jobs[job, 2]
        span = slice(int(self.first[row]), int(self.first[row + 1]))
        return self.visit[span], self.rank[span]

    def job(self, index: int) -> Job:
        """(head, kv tile) of a job."""
        return int(self.jobs[index, 0]), int(self.jobs[index, 1])

    def chains(self) -> list[tuple[int, ...]]:
        """What a worker takes at once, in order: single jobs, or a static list."""
        return [(job,) for job in range(self.num_jobs)] if self.lists is None else list(self.lists)

    def flat(self) -> tuple[Longs, Longs, Longs]:
        """Of every visit of every job, in issue order: q tile counted over heads, rank, kv tile."""
        rows = self.jobs[:, 2].astype(np.int64)
        lengths = np.diff(self.first).astype(np.int64)[rows]
        inside = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        at = np.repeat(self.first[rows].astype(np.int64), lengths) + inside
        head, kv = (np.repeat(self.jobs[:, axis].astype(np.int64), lengths) for axis in (0, 1))
        return head * self.num_q + self.visit[at], self.rank[at].astype(np.int64), kv

    def reductions(self) -> dict[Job, list[int]]:
        """(head, q tile) -> kv tiles in the order in which they are added."""
        tiles, ranks, kvs = self.flat()
        order = np.lexsort((ranks, tiles))
        found: dict[Job, list[int]] = {}
        for tile, kv in zip(tiles[order].tolist(), kvs[order].tolist(), strict=True):
            found.setdefault(divmod(tile, self.num_q), []).append(kv)
        return found

    def digest(self) -> str:
        """sha256 over the canonical form: equal plans, and no others, have equal digests."""
        header = [self.heads, self.num_q, self.num_kv, self.mode, self.workers, self.min_resident, self.lists]
        found = hashlib.sha256(json.dumps(header, separators=(",", ":")).encode())
        for name, table in self.tables().items():
            found.update(f"{name}{table.shape}".encode() + table.astype("<i4").tobytes())
        return found.hexdigest()


class Rows:
    """Collects rows of (visits, ranks); rows that coincide are stored once."""

    def __init__(self) -> None:
        self._known: dict[bytes, int] = {}
        self._visits: list[Ints] = []
        self._ranks: list[Ints] = []

    def add(self, visits: NDArray[np.integer], ranks: NDArray[np.integer]) -> int:
        """The row's index."""
        both = np.asarray(visits, dtype=np.int32), np.asarray(ranks, dtype=np.int32)
        key = both[0].tobytes() + both[1].tobytes()
        index = self._known.setdefault(key, len(self._visits))
        if index == len(self._visits):
            self._visits.append(both[0])
            self._ranks.append(both[1])
        return index

    def tables(self) -> tuple[Ints, Ints, Ints]:
        """first, visit, rank."""
        first = np.cumsum([0, *map(len, self._visits)], dtype=np.int32)
        nothing = np.empty(0, dtype=np.int32)
        return first, np.concatenate([nothing, *self._visits]), np.concatenate([nothing, *self._ranks])


@dataclass(frozen=True, slots=True)
class Frame:
    """What a plan says besides its orders."""

    shape: tuple[int, int, int]  # heads, NQ, NK
    mode: str
    workers: int
    min_resident: int = 1


def assemble(
    frame: Frame,
    jobs: Iterable[Job],
    orders: Iterable[tuple[NDArray[np.integer], NDArray[np.integer]]],
    lists: Sequence[Sequence[int]] | None = None,
) -> Plan:
    """A plan from jobs in issue order and, for each, (visits, ranks)."""
    rows = Rows()
    table = [(head, kv, rows.add(*order)) for (head, kv), order in zip(jobs, orders, strict=True)]
    first, visit, rank = rows.tables()
    heads, num_q, num_kv = frame.shape
    return Plan(
        heads,
        num_q,
        num_kv,
        np.array(table, dtype=np.int32).reshape(-1, 3),
        first,
        visit,
        rank,
        frame.mode,
        frame.workers,
        frame.min_resident,
        None if lists is None else tuple(tuple(map(int, one)) for one in lists),
    )


def spread(plan: Plan, shape: tuple[int, int, int], places: Sequence[NDArray[np.intp]]) -> Plan:
    """The plan of compressed work in the full grid: places[axis][i] is where head, q or kv tile i was."""
    jobs = plan.jobs.copy()
    jobs[:, 0] = places[0][jobs[:, 0]]
    jobs[:, 1] = places[2][jobs[:, 1]]
    visit = places[1][plan.visit].astype(np.int32)
    return replace(plan, heads=shape[0], num_q=shape[1], num_kv=shape[2], jobs=jobs, visit=visit)


def replicated(plan: Plan, times: int) -> Plan:
    """The plan for `times` as many heads and workers, head h as h * times, h * times + 1, … in step."""
    jobs = np.repeat(plan.jobs, times, axis=0)
    jobs[:, 0] = jobs[:, 0] * times + np.tile(np.arange(times, dtype=np.int32), plan.num_jobs)
    return replace(plan, heads=plan.heads * times, jobs=jobs, workers=plan.workers * times)
