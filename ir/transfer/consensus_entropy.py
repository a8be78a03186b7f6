"""Entropies of distributions over clusters, and how far they lie from their mean; all in natural logarithms.

Sums are `math.fsum`, so that no result depends on the order of models or clusters; below 1e-12 is rounding, and is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import ConsensusError

__all__ = ["DIVERGENCES", "Spread", "Terms", "entropy", "hellinger", "js", "kl"]

Distribution = Sequence[float]
ROUNDING = 1e-12


def entropy(p: Distribution) -> float:
    """H(p) = − Σ p log p."""
    return _clean(-math.fsum(x * math.log(x) for x in p if x > 0))


def kl(p: Distribution, mean: Distribution) -> float:
    """KL(p ‖ mean) = Σ p log(p / mean); finite where the mean has p in it, as an ensemble's has. Not symmetric."""
    return _clean(math.fsum(x * math.log(x / m) for x, m in zip(p, mean, strict=True) if x > 0))


def js(p: Distribution, mean: Distribution) -> float:
    """The Jensen-Shannon divergence, (KL(p ‖ m) + KL(mean ‖ m)) / 2 with m half way between; at most log 2."""
    middle = [(x + m) / 2 for x, m in zip(p, mean, strict=True)]
    return (kl(p, middle) + kl(mean, middle)) / 2


def hellinger(p: Distribution, mean: Distribution) -> float:
    """The Hellinger distance, sqrt(Σ (√p − √mean)² / 2); at most 1."""
    return math.sqrt(_clean(math.fsum((math.sqrt(x) - math.sqrt(m)) ** 2 for x, m in zip(p, mean, strict=True)) / 2))


DIVERGENCES: Mapping[str, Callable[[Distribution, Distribution], float]] = {"kl": kl, "js": js, "hellinger": hellinger}


@dataclass(frozen=True, slots=True)
class Terms:
    """U_A and U_E, in nats unless they are said to be normalised."""

    aleatoric: float
    epistemic: float

    @property
    def total(self) -> float:
        """Collaborative entropy, U_A + U_E."""
        return self.aleatoric + self.epistemic


@dataclass(frozen=True, slots=True)
class Spread:
    """Distributions of models over clusters that they share. weights sum to 1; samples: behind each distribution."""

    models: tuple[str, ...]
    weights: tuple[float, ...]
    distributions: tuple[tuple[float, ...], ...]
    samples: tuple[int, ...]

    @classmethod
    def of(cls, labels: Mapping[str, Sequence[int]], size: int, weights: Mapping[str, float] | None) -> Spread:
        """From each model's labels, 0 .. size - 1, and its weight (equal ones for None); no labels, no part in it.

        Raises ConsensusError where a weight is missing or not a positive number.
        """
        models = tuple(model for model, row in labels.items() if row)
        shares = tuple(_weight(model, weights) for model in models)
        whole = math.fsum(shares)
        return cls(
            models,
            tuple(share / whole for share in shares),
            tuple(tuple(labels[m].count(x) / len(labels[m]) for x in range(size)) for m in models),
            tuple(len(labels[model]) for model in models),
        )

    @property
    def mean(self) -> tuple[float, ...]:
        """Σ w p, cluster by cluster."""
        columns = zip(*self.distributions, strict=True)
        return tuple(math.fsum(w * x for w, x in zip(self.weights, column, strict=True)) for column in columns)

    def entropies(self, *, is_corrected: bool) -> tuple[float, ...]:
        """H of each model; corrected, by Miller and Madow (1955): n samples hide (clusters - 1) / 2n of it."""
        hidden = (sum(x > 0 for x in p) - 1 for p in self.distributions)
        found = map(entropy, self.distributions)
        return tuple(
            h + is_corrected * more / (2 * n) for h, more, n in zip(found, hidden, self.samples, strict=True)
        )

    def divergences(self, name: str) -> tuple[float, ...]:
        """Of each model from the mean."""
        mean = self.mean
        return tuple(DIVERGENCES[name](p, mean) for p in self.distributions)

    def terms(self, divergence: str, *, is_corrected: bool) -> Terms:
        """U_A and U_E; infinite where there is no model."""
        if not self.models:
            return Terms(math.inf, math.inf)
        own = math.fsum(w * h for w, h in zip(self.weights, self.entropies(is_corrected=is_corrected), strict=True))
        apart = math.fsum(w * d for w, d in zip(self.weights, self.divergences(divergence), strict=True))
        if is_corrected and divergence == "kl":
            plain = math.fsum(w * h for w, h in zip(self.weights, self.entropies(is_corrected=False), strict=True))
            apart = max(0.0, apart + self._hidden_of_the_mean() - (own - plain))
        return Terms(own, apart)

    def most(self, divergence: str) -> Terms:
        """What the terms could be: U_A if no model repeated itself, U_E if no two models shared a cluster."""
        apart = [[float(i == j) for j in range(len(self.models))] for i in range(len(self.models))]
        measure = DIVERGENCES[divergence]
        return Terms(
            math.fsum(w * math.log(n) for w, n in zip(self.weights, self.samples, strict=True)),
            math.fsum(w * measure(p, self.weights) for w, p in zip(self.weights, apart, strict=True)),
        )

    def _hidden_of_the_mean(self) -> float:
        """What few samples hide of H(mean): the same expansion, ½ Σ Var(mean) / mean = ½ Σ w²/n Σ p (1 − p) / mean."""
        mean = self.mean
        parts = (
            w * w / n * math.fsum(x * (1 - x) / m for x, m in zip(p, mean, strict=True) if x > 0)
            for p, w, n in zip(self.distributions, self.weights, self.samples, strict=True)
        )
        return math.fsum(parts) / 2


def _weight(model: str, weights: Mapping[str, float] | None) -> float:
    if weights is None:
        return 1.0
    found = weights.get(model)
    if found is None or not 0 < found < math.inf:
        raise ConsensusError(f"weights[{model!r}] is {found}: wanted a positive number")
    return found


def _clean(value: float) -> float:
    return value if value > ROUNDING else 0.0
