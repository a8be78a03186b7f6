"""The loop of an ensemble: ask, look at the consensus, decide, until something is accepted or the budget is spent."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from .consensus import Cluster, Consensus, consensus
from .consensus_decision import Action, Budget, Decision, Thresholds, decide

__all__ = ["Ensemble", "Exploration", "explore"]

A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class Ensemble(Generic[A]):
    """Models, and what their answers are judged by.

    ask(model, count): answers of a model, None for abstentions. same or key: the equivalence, asked anew in every
    round, since an input that was found meanwhile may tell answers apart. is_good: whether verification accepts a
    cluster. distinguish(found, places): search for an input on which those clusters, or answers in one of them, differ,
    and have `same`, `key` and `is_good` heed it; whether one was found. cost: what accepted answers are chosen by.
    """

    models: Sequence[str]
    ask: Callable[[str, int], Sequence[A | None]]
    same: Callable[[A, A], bool] | None = None
    key: Callable[[A], Hashable] | None = None
    weights: Mapping[str, float] | None = None
    is_good: Callable[[Cluster[A]], bool] = lambda cluster: True
    distinguish: Callable[[Consensus[A], Sequence[int]], bool] | None = None
    cost: Callable[[A], float] = lambda answer: 0.0


@dataclass(frozen=True, slots=True)
class Exploration(Generic[A]):
    """How it ended. accepted: the answer, its model and place; None unless the last decision is ACCEPT.

    answers: of every model, those given at the start first.
    """

    decision: Decision
    found: Consensus[A]
    answers: Mapping[str, tuple[A | None, ...]]
    accepted: tuple[A, str, int] | None
    history: tuple[Decision, ...]

    @property
    def spent(self) -> int:
        """Samples there are."""
        return sum(map(len, self.answers.values()))


def explore(
    ensemble: Ensemble[A],
    budget: Budget,
    thresholds: Thresholds | None = None,
    given: Mapping[str, Sequence[A | None]] | None = None,
) -> Exploration[A]:
    """Ask as few questions as the decisions allow, within the budget. given: answers that are there already."""
    answers: dict[str, list[A | None]] = {model: list((given or {}).get(model, ())) for model in ensemble.models}
    history: list[Decision] = []
    left = budget
    while True:
        found = consensus(answers, ensemble.same, key=ensemble.key, weights=ensemble.weights)
        step = decide(found, left, thresholds, is_good=ensemble.is_good, models=ensemble.models)
        history.append(step)
        if step.action is Action.SAMPLE_MORE:
            for model, count in step.ask.items():
                new = list(ensemble.ask(model, count))[:count]
                answers[model] += [*new, *[None] * (count - len(new))]
            left = Budget(left.samples - sum(step.ask.values()), left.searches)
        elif step.action is Action.DISTINGUISH:
            if ensemble.distinguish is not None:
                ensemble.distinguish(found, step.clusters)
            left = Budget(left.samples, left.searches - 1)
        else:
            taken = _best(found, step, answers, ensemble.cost) if step.action is Action.ACCEPT else None
            rows = {model: tuple(row) for model, row in answers.items()}
            return Exploration(step, found, rows, taken, tuple(history))


def _best(
    found: Consensus[A], step: Decision, answers: Mapping[str, Sequence[A | None]], cost: Callable[[A], float]
) -> tuple[A, str, int] | None:
    """The answer of an accepted cluster that costs least."""
    members = [(answers[model][place], model, place) for model, place in found.clusters[step.clusters[0]].members]
    known = [(answer, model, place) for answer, model, place in members if answer is not None]
    return min(known, key=lambda member: cost(member[0]), default=None)
