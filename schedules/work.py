"""The work of a backward pass: which tiles there are to visit, and what each visit costs.

A *job* is one kv tile of one head; it stays on one worker, which keeps dK and dV of the tile. A *visit* of a job is one
unmasked q tile: compute (cost per tile), then add the partial dQ into the q tile (cost `reduce`) in the fixed order of
that tile's contributors. `latency` passes between the reductions of two jobs into one q tile. Any unit, one for all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..ir.errors import ScheduleError

__all__ = ["Bools", "Floats", "Ints", "MAX_HEADS", "MAX_TILES", "MAX_VISITS", "MAX_WORKERS", "Work", "check_workers"]

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
MAX_TILES, MAX_HEADS, MAX_WORKERS, MAX_VISITS = 1 << 15, 1024, 1 << 16, 1 << 28
MAX_COST = 1e12
FINE = 4  # a reduction is at most so many ticks
COARSE = 64  # and a tile's compute at most so many, where costs have no common measure
NEAR = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """mask: bool [heads, NQ, NK]; compute: float64 of the same shape; reduce, latency: floats."""

    mask: Bools
    compute: Floats
    reduce: float
    latency: float = 0.0

    @staticmethod
    def of(
        mask: ArrayLike, heads: int = 1, compute: ArrayLike = 1.0, reduce: float = 0.25, latency: float = 0.0
    ) -> Work:
        """From a mask [NQ, NK] for all heads, or [heads, NQ, NK]; compute: one cost, or one a tile of either shape.

        Raises ScheduleError for a mask that is not of booleans, sizes out of bounds, or costs that are no costs.
        """
        blocks = _mask(mask, heads)
        costs = _costs(compute, blocks)
        for name, value in (("reduce", reduce), ("latency", latency)):
            if not 0 <= value <= MAX_COST:
                raise ScheduleError(f"{name} cost {value}: wanted a finite number from 0 to {MAX_COST:g}")
        if not reduce and not costs[blocks].any() and blocks.any():
            raise ScheduleError("compute and reduce cost 0: there is nothing to schedule; give one of them a cost")
        return Work(blocks, costs, float(reduce), float(latency))

    @property
    def heads(self) -> int:
        return int(self.mask.shape[0])

    @property
    def num_visits(self) -> int:
        return _count(self.mask)

    def jobs(self) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
        """(head, kv, length) of every job, in (head, kv) order; length: its visits end to end, without waits."""
        head, kv = np.nonzero(self.mask.any(axis=1))
        lengths = np.where(self.mask, self.compute + self.reduce, 0.0).sum(axis=1)
        return head, kv, lengths[head, kv]

    def jittered(self, fraction: float, seed: int) -> Work:
        """The same tiles with compute costs off by up to `fraction` either way, the same for every order."""
        if not 0 <= fraction < 1:
            raise ScheduleError(f"jitter {fraction}: wanted a fraction from 0 up to, not including, 1")
        noise = np.random.default_rng(seed).uniform(-fraction, fraction, self.mask.shape)
        return replace(self, compute=self.compute * (1 + noise))

    def costs(self) -> Floats:
        """Of all visits; where heads share mask and costs, of one head's."""
        if self.mask.strides[0] == 0 and self.compute.strides[0] == 0:
            return np.asarray(self.compute[0][self.mask[0]], dtype=np.float64)
        return np.asarray(self.compute[self.mask], dtype=np.float64)

    def is_even(self) -> bool:
        """Whether all tiles cost the same."""
        costs = self.costs()
        return not costs.size or bool(costs.min() == costs.max())

    def twins(self) -> bool:
        """Whether all heads have the same mask and costs."""
        same = self.mask.strides[0] == 0 or bool((self.mask == self.mask[:1]).all())
        if not same or self.compute.strides[0] == 0:
            return same
        return bool((np.where(self.mask, self.compute - self.compute[:1], 0.0) == 0).all())

    def first_heads(self, number: int) -> Work:
        return replace(self, mask=self.mask[:number], compute=self.compute[:number])

    def compressed(self) -> tuple[Work, NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
        """Without heads, q tiles and kv tiles that are empty everywhere, so that padding changes no order; and where
        the heads, q tiles and kv tiles that stay were."""
        axes = [np.flatnonzero(self.mask.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
        if all(len(kept) == size for kept, size in zip(axes, self.mask.shape, strict=True)):
            return self, axes[0], axes[1], axes[2]
        grid = np.ix_(*axes)
        return replace(self, mask=self.mask[grid], compute=self.compute[grid]), axes[0], axes[1], axes[2]

    def in_ticks(self) -> tuple[Work, bool]:
        """The same work in whole ticks, so that sums are exact on any machine; and whether nothing was rounded.

        The tick is a fraction of `reduce` of which all costs are multiples, if there is one, else a rounding.
        """
        costs = self.costs()
        most = float(costs.max()) if costs.size else 1.0
        values = np.unique(np.append(costs[:1] if self.is_even() else costs, self.latency))
        if not self.reduce:
            units = [most, most / COARSE]
        else:
            units = [self.reduce / parts for parts in range(1, FINE + 1)]
            units.append(max(self.reduce / 2, most / COARSE))
        for unit in units:
            ticks = values / unit
            if np.abs(ticks - np.rint(ticks)).max(initial=0.0) <= NEAR * max(1.0, most / unit):
                return self._rounded(unit), True
        return self._rounded(units[-1]), False

    def _rounded(self, unit: float) -> Work:
        shared = tuple(slice(None) if step else slice(1) for step in self.compute.strides)
        compute = np.broadcast_to(np.rint(self.compute[shared] / unit), self.compute.shape)
        return Work(self.mask, compute, float(np.rint(self.reduce / unit)), float(np.rint(self.latency / unit)))


def check_workers(workers: int) -> int:
    """The number, or ScheduleError where it is none that makes sense."""
    if isinstance(workers, bool) or not isinstance(workers, int) or not 1 <= workers <= MAX_WORKERS:
        raise ScheduleError(f"workers {workers!r}: wanted a whole number from 1 to {MAX_WORKERS}")
    return workers


def _mask(mask: ArrayLike, heads: int) -> Bools:
    blocks: NDArray[Any] = np.asarray(mask)
    if blocks.dtype != np.bool_:
        raise ScheduleError(f"block mask of {blocks.dtype}: wanted booleans, True where a tile is visited")
    if isinstance(heads, bool) or not isinstance(heads, int) or not 1 <= heads <= MAX_HEADS:
        raise ScheduleError(f"heads {heads!r}: wanted a whole number from 1 to {MAX_HEADS}")
    if blocks.ndim == 2:
        blocks = np.broadcast_to(blocks, (heads, *blocks.shape))
    if blocks.ndim != 3 or (heads not in (1, blocks.shape[0])):
        raise ScheduleError(f"block mask of shape {blocks.shape}: wanted [NQ, NK] or [{heads}, NQ, NK]")
    if not 1 <= blocks.shape[0] <= MAX_HEADS or not all(1 <= size <= MAX_TILES for size in blocks.shape[1:]):
        raise ScheduleError(
            f"block mask of shape {blocks.shape}: wanted 1 to {MAX_HEADS} heads of 1 to {MAX_TILES} tiles a side; "
            "take larger tiles"
        )
    if _count(blocks) > MAX_VISITS:
        raise ScheduleError(f"{_count(blocks)} visits: wanted at most {MAX_VISITS}; take larger tiles or fewer heads")
    return blocks


def _count(mask: Bools) -> int:
    """Of tiles that are visited; a mask that all heads share is counted once."""
    is_shared = mask.strides[0] == 0 and len(mask) > 0
    return int(np.count_nonzero(mask[0])) * len(mask) if is_shared else int(np.count_nonzero(mask))


def _costs(compute: ArrayLike, blocks: Bools) -> Floats:
    costs: Floats = np.asarray(compute, dtype=np.float64)
    try:
        costs = np.broadcast_to(costs, blocks.shape)
    except ValueError:
        raise ScheduleError(
            f"compute costs of shape {costs.shape}: wanted one number, [NQ, NK] or {list(blocks.shape)}"
        ) from None
    used = costs[blocks] if costs.strides != (0, 0, 0) else costs.ravel()[:1]
    if not (np.isfinite(used) & (used >= 0) & (used <= MAX_COST)).all():
        raise ScheduleError(f"a compute cost is not a finite number from 0 to {MAX_COST:g}")
    return costs
