"""What to do next, from how far the answers are to be trusted: accept, tell apart, ask for more, or stop.

| U_A  | U_E  | decision                                                                                        |
|------|------|-------------------------------------------------------------------------------------------------|
| low  | low  | ACCEPT: the models are sure of the same; take the best verified answer of that cluster           |
| low  | high | DISTINGUISH: sure of different things, so the question is ambiguous or tests too little; search  |
|      |      | for an input on which the clusters differ, and add it to what verifies                            |
| high | low  | SAMPLE_MORE: the task is hard for all alike; ask again                                           |
| high | high | STOP, with a report                                                                              |

A decision is data. Who asks models, searches for inputs and verifies is the caller; `explore` is the loop of all that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar

from .consensus import Cluster, Consensus

__all__ = ["Action", "Budget", "Decision", "Thresholds", "ambiguity", "decide", "next_questions"]

A = TypeVar("A")


class Action(Enum):
    """What a decision asks for."""

    ACCEPT = "accept"
    DISTINGUISH = "distinguish"
    SAMPLE_MORE = "sample_more"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where low ends, for terms normalised by what they could be, and how much evidence a decision needs.

    abstained: the share of abstentions above which nothing is accepted. support: answers that must stand behind an
    accepted cluster, by two models at least where two answer. first: samples of each model before disagreement counts.
    patience: samples of each model before both terms being high is taken as the end.
    """

    aleatoric: float = 0.4
    epistemic: float = 0.3
    abstained: float = 0.7
    support: int = 2
    first: int = 2
    patience: int = 4


@dataclass(frozen=True, slots=True)
class Budget:
    """What is left: samples, and searches for an input that tells clusters apart."""

    samples: int
    searches: int = 1


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do. reason: one line for people.

    clusters: places in `Consensus.clusters`; of ACCEPT the one to take from, of DISTINGUISH those to tell apart, of
    STOP those that pass verification although the models do not stand behind them. ask: of SAMPLE_MORE, how many
    answers to ask of which model.
    """

    action: Action
    reason: str
    clusters: tuple[int, ...] = ()
    ask: Mapping[str, int] = field(default_factory=dict)


def decide(
    found: Consensus[A],
    budget: Budget,
    thresholds: Thresholds | None = None,
    *,
    is_good: Callable[[Cluster[A]], bool] = lambda cluster: True,
    models: Sequence[str] = (),
) -> Decision:
    """The next step. is_good: whether verification accepts a cluster's answers; models: all that may be asked.

    Wrong answers that models agree on are never accepted; nor are answers where most samples were abstentions.
    """
    limits = thresholds or Thresholds()
    more = next_questions(found, limits, budget.samples, models)
    if found.is_silent:
        return _more(more, "no model has given an answer", ())
    terms = found.normalised()
    is_unsure, is_split = terms.aleatoric > limits.aleatoric, terms.epistemic > limits.epistemic
    good = tuple(place for place, cluster in enumerate(found.clusters) if is_good(cluster))
    if not is_unsure and not is_split:
        return _agreed(found, limits, good, more)
    if more and min(found.samples.get(model, 0) for model in more) < limits.first:
        return _more(more, "too few samples to tell", good)
    if is_unsure and is_split:
        if more and min(found.answers.get(model, 0) for model in more) < limits.patience:
            return _more(more, "the models are unsure and differ, after few samples", good)
        return Decision(Action.STOP, f"the models are unsure and differ: {ambiguity(found)}", good)
    if is_unsure:
        return _more(more, "the models are unsure in the same way", good)
    return _split(found, budget, good, more)


def _agreed(found: Consensus[A], limits: Thresholds, good: Sequence[int], more: Mapping[str, int]) -> Decision:
    """Both low."""
    leader = found.clusters[0]
    if 0 not in good:
        return _more(more, "the models agree on an answer that verification rejects", good)
    wanted = min(2, len(found.models))
    if len(leader.members) < limits.support or len(leader.models) < wanted:
        return _more(more, f"{len(leader.members)} answers are too few to accept", good)
    if found.abstained > limits.abstained:
        return _more(more, f"{found.abstained:.0%} of the samples are abstentions", good)
    return Decision(Action.ACCEPT, f"{_names(leader.models)} agree", (0,))


def _split(found: Consensus[A], budget: Budget, good: Sequence[int], more: Mapping[str, int]) -> Decision:
    """Sure, each of something else."""
    if budget.searches > 0:
        apart = tuple(dict.fromkeys([*good, *_leading(found)]))
        return Decision(Action.DISTINGUISH, f"the models are sure and differ: {ambiguity(found)}", apart)
    if len(good) == 1:
        who = _names(found.clusters[good[0]].models)
        return Decision(Action.ACCEPT, f"verification tells {who} from the others: {ambiguity(found)}", tuple(good))
    if not good:
        return _more(more, "the models are sure of different answers, and verification rejects them all", good)
    return Decision(Action.STOP, f"several answers pass verification: {ambiguity(found)}", tuple(good))


def _more(ask: Mapping[str, int], reason: str, good: Sequence[int]) -> Decision:
    if not ask:
        return Decision(Action.STOP, f"{reason}, and the budget is spent", tuple(good))
    return Decision(Action.SAMPLE_MORE, reason, ask=ask)


def next_questions(
    found: Consensus[A], limits: Thresholds, samples: int, models: Sequence[str] = ()
) -> dict[str, int]:
    """Whom to ask next, and how many answers of each, `samples` at most; empty when there is nobody to ask.

    First every model in turn is asked once, then until each was asked `first` times. From then on the one whose answers
    are least known for its weight: unsure models, and those asked least. One that abstained `patience` times and never
    answered is left alone.
    """
    names = tuple(dict.fromkeys([*models, *found.samples]))
    asked = {model: found.samples.get(model, 0) for model in names}
    willing = [m for m in names if found.answers.get(m, 0) or asked[m] < limits.patience]
    if not willing or samples <= 0:
        return {}
    fewest = min(asked[model] for model in willing)
    if fewest < limits.first:
        return dict.fromkeys([model for model in willing if asked[model] == fewest][:samples], 1)
    weight = {model: found.weights.get(model, 1 / len(names)) for model in willing}
    worth = {m: weight[m] * (1 + found.entropies.get(m, 0.0)) / (1 + asked[m]) for m in willing}
    return {max(willing, key=lambda model: worth[model]): 1}


def ambiguity(found: Consensus[A], show: Callable[[A], str] | None = None, most: int = 3) -> str:
    """Who says what, for people: "a and b say X (67%); c says Y (33%)"; `show` puts an answer into words."""
    parts = []
    for number, cluster in enumerate(found.clusters[:most]):
        what = show(cluster.medoid) if show is not None else f"answer {number + 1}"
        verb = "says" if len(cluster.models) == 1 else "say"
        parts.append(f"{_names(cluster.models)} {verb} {what} ({cluster.mass:.0%})")
    rest = len(found.clusters) - most
    return "; ".join([*parts, *([f"{rest} more"] if rest > 0 else [])])


def _leading(found: Consensus[A]) -> tuple[int, ...]:
    """The first choice of every model, heaviest first."""
    choices = (max(range(len(p)), key=lambda place: p[place]) for p in found.distributions.values())
    return tuple(sorted(set(choices)))


def _names(models: Sequence[str]) -> str:
    return " and ".join([", ".join(models[:-1]), models[-1]]) if len(models) > 1 else "".join(models)
