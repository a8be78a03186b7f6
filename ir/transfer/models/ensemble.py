"""Several models asked at once, as often as the consensus of their answers asks for, and what comes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ..consensus import Cluster, Consensus, consensus
from ..consensus_decision import Action, Decision, Thresholds, ambiguity, decide
from ..consensus_decision import Budget as Left
from ..engine import Outcome
from .budget import BudgetSpent
from .dialogue import ROUNDS_OVER, Desk, Line, hold
from .requests import Unanswered, escaped

__all__ = ["Conclusion", "Distinguisher", "conclude", "converse"]

SEARCHES = 2
MAX_REASON_CHARS = 120


@runtime_checkable
class Distinguisher(Protocol):
    """A judge that can look for an input on which candidates differ, and add it to its cases."""

    def distinguish(self, candidates: Sequence[str], names: Sequence[str]) -> str:
        """What it found, in words that call candidates by `names`; "" without such an input. Later verdicts heed it."""


@dataclass(frozen=True, slots=True)
class Conclusion:
    """How it ended: the last decision, the lines behind it, and what the user should know of the way."""

    decision: Decision
    found: Consensus[Line]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]

    @property
    def good(self) -> tuple[tuple[Line, ...], ...]:
        """Accepted lines of each cluster that has any, in the clusters' order."""
        clusters = [tuple(line for line in _lines_of(c, self.lines) if is_accepted(line)) for c in self.found.clusters]
        return tuple(lines for lines in clusters if lines)


async def converse(desk: Desk) -> Conclusion:
    """Ask, look at the consensus, decide; until something is accepted or there is nothing left to ask for."""
    models = desk.settings.models
    lines: dict[str, list[Line]] = {model: [] for model in models}
    left, notes = Left(desk.settings.samples * len(models), SEARCHES), list[str]()
    while True:
        found = _consensus(lines)
        step = decide(found, left, desk.settings.thresholds, is_good=_is_good, models=models)
        desk.transcript.add("decision", action=step.action.value, reason=step.reason, found=str(found))
        if step.action is Action.SAMPLE_MORE:
            is_spent = await _ask(desk, lines, step.ask)
            left = Left(0 if is_spent else left.samples - sum(step.ask.values()), left.searches)
        elif step.action is Action.DISTINGUISH:
            left = Left(left.samples, left.searches - 1)
            notes += await _distinguish(desk, found, step, lines)
        else:
            everyone = tuple(line for row in lines.values() for line in row)
            return Conclusion(step, found, everyone, tuple(notes))


async def _ask(desk: Desk, lines: dict[str, list[Line]], ask: Mapping[str, int]) -> bool:
    """New lines, all at once; whether the budget is spent."""
    new = []
    for model, count in ask.items():
        for _ in range(count):
            line = Line(model, len(lines[model]))
            lines[model].append(line)
            new.append(line)
    results = await asyncio.gather(*(hold(desk, line) for line in new), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, (BudgetSpent, Unanswered)):
            raise result
    return any(isinstance(result, BudgetSpent) for result in results)


async def _distinguish(
    desk: Desk, found: Consensus[Line], step: Decision, lines: Mapping[str, Sequence[Line]]
) -> list[str]:
    """Have the judge look for an input on which the clusters differ; where it finds one, judge all anew."""
    judge, what = desk.court.judge, f"the models are sure and differ: {ambiguity(found, _shown)}"
    if not isinstance(judge, Distinguisher):
        return [what]
    apart = [found.clusters[place] for place in step.clusters]
    texts, names = [one.medoid.text or "" for one in apart], [" and ".join(one.models) for one in apart]
    try:
        said = await desk.court.aside(lambda: judge.distinguish(texts, names), desk.budget.remaining_s)
        if said:
            desk.court.forget()
            for line in (line for row in lines.values() for line in row):
                if line.text is not None and line.verdict is not None and line.verdict.outcome is not Outcome.UNPARSED:
                    line.verdict = await desk.court.verdict(line.text, desk.budget.remaining_s)
    except BudgetSpent as spent:
        return [what, str(spent)]
    desk.transcript.add("distinguished", found=said)
    return [f"{what}; {said or 'no input was found on which they differ'}"]


def _consensus(lines: Mapping[str, Sequence[Line]]) -> Consensus[Line]:
    answers = {model: [line if is_answer(line) else None for line in row] for model, row in lines.items()}
    return consensus(answers, key=_behaviour)


def is_answer(line: Line) -> bool:
    """Whether a line holds a program, right or wrong; all else is an abstention."""
    return line.verdict is not None and line.verdict.outcome is not Outcome.UNPARSED


def is_accepted(line: Line) -> bool:
    """Whether the judge accepts what a line came to."""
    return line.verdict is not None and line.verdict.is_accepted


def _behaviour(line: Line) -> Hashable:
    verdict = line.verdict
    assert verdict is not None
    return verdict.signature or (verdict.outcome, verdict.reason)


def _shown(line: Line) -> str:
    """An answer in words, for people."""
    verdict = line.verdict
    assert verdict is not None
    if verdict.is_accepted:
        return "a program that verification accepts"
    return f"one that is {verdict.outcome.value} ({escaped(verdict.reason, MAX_REASON_CHARS)})"


def _is_good(cluster: Cluster[Line]) -> bool:
    return is_accepted(cluster.medoid)


def _lines_of(cluster: Cluster[Line], lines: Sequence[Line]) -> list[Line]:
    members = set(cluster.members)
    return [line for line in lines if (line.model, line.sample) in members]


def conclude(end: Conclusion, limits: Thresholds) -> tuple[tuple[Line, ...], tuple[str, ...], str]:
    """The lines to choose from, what to say of them, and why there are none.

    What the models agree on and verification accepts is taken. Where questions ran out first, so is the only cluster
    that verification accepts, with a word that the models do not stand behind it; where models are unsure and differ,
    or several clusters are accepted, nothing is.
    """
    good, step = end.good, end.decision
    if step.action is Action.ACCEPT:
        cluster = end.found.clusters[step.clusters[0]]
        chosen = tuple(line for line in _lines_of(cluster, end.lines) if is_accepted(line))
        return chosen, (*end.notes, step.reason), ""
    terms = end.found.normalised()
    is_doubtful = terms.aleatoric > limits.aleatoric and terms.epistemic > limits.epistemic
    if len(good) == 1 and not is_doubtful:
        return good[0], (*end.notes, f"verified, and chosen without agreement of the models: {step.reason}"), ""
    return (), end.notes, _why_not(end)


def _why_not(end: Conclusion) -> str:
    """The decision, and the commonest reasons of lines that came to nothing."""
    reasons = list(dict.fromkeys(_what_became(line) for line in end.lines if not is_accepted(line)))
    shown = "; ".join(reasons[:3]) + (f"; {len(reasons) - 3} more" if len(reasons) > 3 else "")
    verified = f"; verified candidates: {sum(map(len, end.good))}" if end.good else ""
    return f"{end.decision.reason}{verified}" + (f" ({shown})" if shown else "")


def _what_became(line: Line) -> str:
    """One line of a report: the verdict on the last candidate, and why there was no further one."""
    parts = [] if line.verdict is None else [line.verdict.outcome.value, *line.verdict.reason.splitlines()[:1]]
    if line.end != ROUNDS_OVER:
        parts.append(line.end)
    return f"{line.model}: {', '.join(part for part in parts if part)}"
