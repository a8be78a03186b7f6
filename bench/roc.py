"""Areas under receiver operating characteristics, and how sure they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["Interval", "auroc", "bootstrap"]

Interval = tuple[float, float]
Array = npt.NDArray[np.float64]


def auroc(scores: Sequence[float] | Array, is_positive: Sequence[bool] | npt.NDArray[np.bool_]) -> float:
    """The chance that a positive has a higher score than a negative, ties counted half; NaN without one of the two."""
    values, positive = np.asarray(scores, np.float64), np.asarray(is_positive, np.bool_)
    if positive.all() or not positive.any():
        return float("nan")
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    n, m = int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))


def bootstrap(
    statistic: Callable[[npt.NDArray[np.int64]], float], size: int, *, draws: int = 2000, seed: int = 0
) -> Interval:
    """A 95 % interval of a statistic of `size` items: of their numbers, drawn with replacement. NaN is left out."""
    rng = np.random.default_rng(seed)
    found = np.array([statistic(rng.integers(size, size=size)) for _ in range(draws)])
    found = found[np.isfinite(found)]
    if not found.size:
        return float("nan"), float("nan")
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)
