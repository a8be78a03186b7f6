"""The tables that a backward kernel reads: which tiles a mask leaves, in which order they are visited and added up.

A table is a pure function of the mask's tiles and of a virtual number of workers, sequence by sequence: the same
sequence has the same order, and so the same bits, in any place of a batch, on any machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from ...ir.domain import TileClass, classify
from ...ir.expr import Op, free_vars, loads, walk
from ...ir.spec import AttentionSpec
from ...schedules import Plan, plan_backward
from ..dtypes import as_array
from .order import Order

__all__ = ["Order", "Tables", "block_classes", "make_tables"]

Classes = npt.NDArray[np.int8]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Tables:
    """jobs int32 [Jobs, 4]: b, kv head, kv tile, line; in issue order. lists int32 [Lines + 1]: where a line's visits
    begin. visits int32 [Visits, 4]: member of the head's group, q tile, rank, 1 where no element is masked or missing.

    min_resident: workers that must run at once. digests: of each sequence's plan.
    """

    jobs: torch.Tensor
    lists: torch.Tensor
    visits: torch.Tensor
    min_resident: int
    digests: tuple[str, ...]

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes of a run that the tables decide."""
        return {"Jobs": len(self.jobs), "Lists": len(self.lists), "Visits": len(self.visits)}

    def head_by_head(self) -> Tables:
        """The same plan with a head's jobs one after the other: a few workers then find its tensors in their caches.

        Ranks count the jobs of one head, so that neither bits nor freedom from deadlock depend on how heads take turns;
        a plan that needs several workers at once stays as it is.
        """
        if self.min_resident > 1:
            return self
        heads = self.jobs[:, 0].long() * (int(self.jobs[:, 1].max()) + 1) + self.jobs[:, 1] if len(self.jobs) else 0
        order = torch.argsort(torch.as_tensor(heads), stable=True)
        return replace(self, jobs=self.jobs[order].contiguous())

    def to(self, device: torch.device) -> Tables:
        """The same tables in a device's memory."""
        jobs, lists, visits = (table.to(device) for table in (self.jobs, self.lists, self.visits))
        return replace(self, jobs=jobs, lists=lists, visits=visits)


def block_classes(
    spec: AttentionSpec, tile: tuple[int, int], sizes: Mapping[str, int], captured: Mapping[str, torch.Tensor]
) -> Classes:
    """TileClass of every tile, [B or 1, Hq or 1, q tiles, kv tiles]; 1 where the mask is the same for all of them.

    A tile that reaches past the last row or column is never FULL.
    """
    varies = _dependencies(spec)
    batches, heads = (range(sizes[size] if name in varies else 1) for name, size in (("b", "B"), ("h", "Hq")))
    wanted = {str(node.attr) for node in loads(spec.keep)}
    arrays = {name: as_array(tensor.detach().cpu()) for name, tensor in captured.items() if name in wanted}
    shape = sizes["M"], sizes["N"]
    found = [
        [classify(spec.keep, shape=shape, tile=tile, scalars={**sizes, "b": b, "h": h}, tensors=arrays) for h in heads]
        for b in batches
    ]
    classes = np.array(found, np.int8)
    if sizes["M"] % tile[0]:
        classes[..., -1, :] = np.minimum(classes[..., -1, :], TileClass.PARTIAL)
    return classes


def _dependencies(spec: AttentionSpec) -> frozenset[str]:
    """Which of b and h the mask depends on."""
    return free_vars(spec.keep) & {"b", "h"}


def is_data_dependent(spec: AttentionSpec) -> bool:
    """Whether the mask reads captured tensors, so that its tiles may differ from call to call."""
    return any(node.op is Op.LOAD for node in walk(spec.keep))


def make_tables(classes: Classes, sizes: Mapping[str, int], order: Order) -> Tables:
    """The tables of a whole batch: those of its sequences, which are planned one by one."""
    lines, resident = _Lines(), 1
    jobs: list[Ints] = []
    digests: list[str] = []
    for b in range(sizes["B"]):
        of_sequence = classes[b if len(classes) > 1 else 0]
        if b and len(classes) == 1:
            jobs.append(np.concatenate([np.full((len(jobs[0]), 1), b), jobs[0][:, 1:]], 1))
            digests.append(digests[0])
            continue
        plan, full = _plan(of_sequence, sizes, order)
        table = lines.add(plan, full, sizes)
        jobs.append(np.concatenate([np.full((len(table), 1), b), table], 1))
        digests.append(plan.digest())
        resident = max(resident, plan.min_resident)
    every = _merged(jobs, in_turn=resident == 1)
    return Tables(_tensor(every), _tensor(lines.starts()), _tensor(lines.visits()), resident, tuple(digests))


def _plan(classes: Classes, sizes: Mapping[str, int], order: Order) -> tuple[Plan, npt.NDArray[np.bool_]]:
    """The plan of one sequence, and which tiles are whole, [1 or Hkv, members x q tiles, kv tiles]."""
    group, heads = sizes["Hq"] // sizes["Hkv"], sizes["Hkv"]
    same = len(classes) == 1
    stacked = np.tile(classes[0], (group, 1))[None] if same else classes.reshape(heads, -1, classes.shape[-1])
    mask = stacked != TileClass.EMPTY
    mask = mask[0] if same else mask
    plan = plan_backward(mask, heads, order.workers, mode=order.mode, search=order.search)
    return plan, stacked == TileClass.FULL


class _Lines:
    """Collects lines: lists of visits, each stored once for all jobs that share it."""

    def __init__(self) -> None:
        self._counts: list[npt.NDArray[np.intp]] = []
        self._visits: list[Ints] = []
        self._total = 0

    def add(self, plan: Plan, full: npt.NDArray[np.bool_], sizes: Mapping[str, int]) -> Ints:
        """The plan's jobs as [jobs, (head, kv tile, line)], those without visits last."""
        shared = len(full) == 1
        keys = plan.jobs.copy()
        keys[:, 0] = 0 if shared else keys[:, 0]
        unique, lines = np.unique(keys, axis=0, return_inverse=True)
        rows = unique[:, 2]
        counts = plan.first[rows + 1] - plan.first[rows]
        inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        at = np.repeat(plan.first[rows], counts) + inside
        visit, head, kv = plan.visit[at], np.repeat(unique[:, 0], counts), np.repeat(unique[:, 1], counts)
        per_member = max(1, plan.num_q // (sizes["Hq"] // sizes["Hkv"]))
        whole = full[head, visit, kv]
        columns = (visit // per_member, visit % per_member, plan.rank[at], whole)
        self._visits.append(np.stack(columns, 1).astype(np.int32))
        self._counts.append(np.append(counts, 0))
        table = np.stack([plan.jobs[:, 0], plan.jobs[:, 1], self._total + lines.reshape(-1)], 1)
        empty = self._total + len(unique)
        self._total += len(unique) + 1
        missing = np.ones((sizes["Hkv"], plan.num_kv), bool)
        missing[plan.jobs[:, 0], plan.jobs[:, 1]] = False
        idle = np.argwhere(missing)
        idle = np.concatenate([idle, np.full((len(idle), 1), empty)], 1)
        return np.concatenate([table, idle]).astype(np.int32)

    def starts(self) -> Ints:
        """Where each line's visits begin, and where the last one's end."""
        return np.concatenate([[0], np.cumsum(np.concatenate(self._counts))]).astype(np.int32)

    def visits(self) -> Ints:
        """The visits of all lines."""
        return np.concatenate(self._visits)


def _merged(jobs: Sequence[Ints], *, in_turn: bool) -> Ints:
    """The jobs of all sequences in one queue: `in_turn` one of each, or one sequence after the other.

    Either keeps every sequence's own order. A plan that needs workers at once gets them when those before it are done.
    """
    if not in_turn or len(jobs) == 1:
        return np.concatenate(jobs).astype(np.int32)
    place = np.concatenate([np.arange(len(one)) for one in jobs])
    return np.concatenate(jobs)[np.argsort(place, kind="stable")].astype(np.int32)


def _tensor(values: Ints) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.int32))
