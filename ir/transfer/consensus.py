"""Collaborative entropy: how far the answers of several models are to be trusted.

Answers are put into clusters of like meaning that all models share. With p_i the distribution of model i over the
clusters, w_i its weight and p̄ = Σ w_i p_i:

    U_A = Σ w_i H(p_i)             how unsure the models are, each for itself (aleatoric)
    U_E = Σ w_i KL(p_i ‖ p̄)        how much they differ from one another (epistemic)

The sum is the entropy of the mean, H(p̄); the split is what tells what to do next (`consensus_decision.py`). After
"Collaborative Entropy", arXiv 2603.28360; weights and bounds as in our own reading of it. An answer that is None is an
abstention: it is no cluster of its own kind, and models that all fail do not agree. Abstentions are reported beside the
entropies, which are those of the answers given; `pessimistic` has them with every abstention an answer of its own, and
`agreement` counts them as answers of nobody: replacing an answer by None never lowers the first nor raises the second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..errors import ConsensusError
from .consensus_clusters import clusters_by_key, clusters_by_relation
from .consensus_entropy import DIVERGENCES, Spread, Terms

__all__ = ["Cluster", "Consensus", "Terms", "consensus"]

A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class Cluster(Generic[A]):
    """Answers of like meaning. medoid: the one that stands for them; members: (model, place among its answers)."""

    medoid: A
    members: tuple[tuple[str, int], ...]
    mass: float  # of the mean distribution

    @property
    def models(self) -> tuple[str, ...]:
        """Who gave such an answer."""
        return tuple(dict.fromkeys(model for model, _ in self.members))


@dataclass(frozen=True, slots=True)
class Consensus(Generic[A]):
    """What several models' answers say together.

    clusters: largest mass first; `spread` has the distributions over them of every model that answered. samples:
    answers and abstentions of every model that was asked; abstentions: the share of them that are None, abstained:
    over all models. entropies, divergences: H(p_i), and the divergence of p_i from the mean. terms: U_A and U_E,
    infinite where nobody answered; pessimistic: the same with every abstention an answer of its own (never corrected).
    agreement: the weighted share of all samples, abstentions too, that lie in one cluster.
    """

    clusters: tuple[Cluster[A], ...]
    spread: Spread
    samples: Mapping[str, int]
    abstentions: Mapping[str, float]
    abstained: float
    entropies: Mapping[str, float]
    divergences: Mapping[str, float]
    terms: Terms
    pessimistic: Terms
    agreement: float
    divergence: str = "kl"

    @property
    def aleatoric(self) -> float:
        """U_A, the models' own uncertainty."""
        return self.terms.aleatoric

    @property
    def epistemic(self) -> float:
        """U_E, their disagreement."""
        return self.terms.epistemic

    @property
    def total(self) -> float:
        """U_A + U_E."""
        return self.terms.total

    @property
    def models(self) -> tuple[str, ...]:
        """Those that gave an answer."""
        return self.spread.models

    @property
    def weights(self) -> Mapping[str, float]:
        """Of the models that answered; they sum to 1."""
        return dict(zip(self.models, self.spread.weights, strict=True))

    @property
    def distributions(self) -> Mapping[str, tuple[float, ...]]:
        """Over `clusters`, of the models that answered."""
        return dict(zip(self.models, self.spread.distributions, strict=True))

    @property
    def answers(self) -> Mapping[str, int]:
        """How many answers each model gave, abstentions left out."""
        return {**dict.fromkeys(self.samples, 0), **dict(zip(self.models, self.spread.samples, strict=True))}

    @property
    def is_silent(self) -> bool:
        """Whether nobody gave any answer."""
        return not self.clusters

    @property
    def most_divergent(self) -> str | None:
        """The model that adds most to U_E; None where none does."""
        share = {model: weight * self.divergences[model] for model, weight in self.weights.items()}
        farthest = max(share, key=lambda model: (share[model], model), default=None)
        return farthest if farthest is not None and share[farthest] > 0 else None

    def normalised(self, by: str = "maximum") -> Terms:
        """Both terms, from 0 to 1; both are 1 where nobody answered.

        by "maximum": each by what it could be, U_A if no model repeated itself, U_E if no two models agreed;
        "samples", "clusters": both by the logarithm of how many there are. Raises ConsensusError for another word.
        """
        sizes = {"samples": sum(self.spread.samples), "clusters": len(self.clusters)}
        if by != "maximum" and by not in sizes:
            raise ConsensusError(f"normalised(by={by!r}): wanted 'maximum', 'samples' or 'clusters'")
        if self.is_silent:
            return Terms(1.0, 1.0)
        if by == "maximum":
            most = self.spread.most(self.divergence)
        else:
            most = Terms(math.log(sizes[by]), math.log(sizes[by]))
        return Terms(_ratio(self.aleatoric, most.aleatoric), _ratio(self.epistemic, most.epistemic))

    def __str__(self) -> str:
        """One line: clusters, both terms, abstentions."""
        parts = [f"{len(self.clusters)} clusters of {sum(self.spread.samples)} answers by {len(self.models)} models"]
        parts.append(f"U_A {self.aleatoric:.3f}, U_E {self.epistemic:.3f}")
        return ", ".join([*parts, *([f"{self.abstained:.0%} abstentions"] if self.abstained else [])])


def consensus(
    answers: Mapping[str, Sequence[A | None]],
    same: Callable[[A, A], bool] | None = None,
    *,
    key: Callable[[A], Hashable] | None = None,
    weights: Mapping[str, float] | None = None,
    divergence: str = "kl",
    is_corrected: bool = False,
) -> Consensus[A]:
    """Collaborative entropy of answers: model -> what it answered, time after time; None is an abstention.

    Two answers mean the same if `same(a, b)` and `same(b, a)`, or if their `key`s are equal; without either, if they
    are equal. weights: of the models, equal if not given; a model that did not answer has none. divergence: "kl", "js"
    or "hellinger", of each model from the mean. is_corrected: entropies (and U_E by "kl") with Miller and Madow's
    correction for few samples. Raises ConsensusError for what none can be computed of.
    """
    if same is not None and key is not None:
        raise ConsensusError("consensus: got both same= and key=; wanted one equivalence")
    if divergence not in DIVERGENCES:
        raise ConsensusError(f"divergence={divergence!r}: wanted one of {', '.join(DIVERGENCES)}")
    asked = _asked(answers)
    given = [(model, place) for model, row in asked.items() for place, answer in enumerate(row) if answer is not None]
    values = [answer for row in asked.values() for answer in row if answer is not None]
    groups = clusters_by_relation(values, same) if same is not None else clusters_by_key(values, key or _itself)
    groups = _heaviest_first(groups, given, weights)
    labels = _labels(groups, given)
    spread = Spread.of(labels, len(groups), weights)
    everyone = Spread.of(*_with_abstentions(labels, asked, len(groups)), weights)
    abstentions = {model: 1 - len(labels.get(model, ())) / len(row) for model, row in asked.items()}
    return Consensus(
        clusters=tuple(
            Cluster(values[group[0]], tuple(given[number] for number in sorted(group)), mass)
            for group, mass in zip(groups, spread.mean, strict=True)
        ),
        spread=spread,
        samples={model: len(row) for model, row in asked.items()},
        abstentions=abstentions,
        abstained=math.fsum(w * abstentions[m] for m, w in zip(everyone.models, everyone.weights, strict=True)),
        entropies=dict(zip(spread.models, spread.entropies(is_corrected=is_corrected), strict=True)),
        divergences=dict(zip(spread.models, spread.divergences(divergence), strict=True)),
        terms=spread.terms(divergence, is_corrected=is_corrected),
        pessimistic=everyone.terms(divergence, is_corrected=False),
        agreement=max(everyone.mean[: len(groups)], default=0.0),
        divergence=divergence,
    )


def _asked(answers: Mapping[str, Sequence[A | None]]) -> dict[str, tuple[A | None, ...]]:
    """Models with at least one sample."""
    if not isinstance(answers, Mapping):
        raise ConsensusError(f"answers: got a {type(answers).__name__}, wanted a mapping of models to their answers")
    words = [model for model, row in answers.items() if isinstance(row, str)]
    if words:
        raise ConsensusError(f"answers[{words[0]!r}] is one string; wanted a sequence of answers")
    return {model: tuple(row) for model, row in answers.items() if len(row)}


def _labels(groups: Sequence[Sequence[int]], given: Sequence[tuple[str, int]]) -> dict[str, list[int]]:
    """The cluster of each model's answers."""
    label = {number: place for place, group in enumerate(groups) for number in group}
    labels: dict[str, list[int]] = {}
    for number, (model, _) in enumerate(given):
        labels.setdefault(model, []).append(label[number])
    return labels


def _heaviest_first(
    groups: list[list[int]], given: Sequence[tuple[str, int]], weights: Mapping[str, float] | None
) -> list[list[int]]:
    mean = Spread.of(_labels(groups, given), len(groups), weights).mean
    return [groups[place] for place in sorted(range(len(groups)), key=lambda place: -mean[place])]


def _with_abstentions(
    labels: Mapping[str, Sequence[int]], asked: Mapping[str, Sequence[object]], size: int
) -> tuple[dict[str, list[int]], int]:
    """Labels in which every abstention has a cluster of its own, and how many clusters that makes."""
    extended = {}
    for model, row in asked.items():
        known = list(labels.get(model, ()))
        silent = len(row) - len(known)
        extended[model] = [*known, *range(size, size + silent)]
        size += silent
    return extended, size


def _itself(answer: object) -> Hashable:
    """The key of answers without an equivalence."""
    if not isinstance(answer, Hashable):
        raise ConsensusError(f"an answer of type {type(answer).__name__} has no hash; give same= or key=")
    return answer


def _ratio(value: float, most: float) -> float:
    return min(1.0, value / most) if most > 0 else 0.0
