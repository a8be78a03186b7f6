"""How far consensus can be trusted: `python -m tilewright.bench.uncertainty FILE.json [--draws N]`.

Ensembles are constructed: simulated models answer with real programs, right ones (transferred by rules) and wrong ones
(`candidates.py`), which are judged by what they do. What is visible to the ensemble is a weak set, one fixed shape of
whole tiles as common benchmarks of kernels have it, so that wrong candidates can pass; the truth is the judge's whole
set, which the ensemble never sees.

The models, fixed before anything was measured: a draw of a task has a difficulty b ~ N(0, 1), a model a skill a; each
of its samples is right with probability 1 / (1 + exp(b - a)), else one of the task's wrong candidates, by preferences
that are drawn for the model and the task (Dirichlet 1/2) and mixed with those that all models share there (one third).
Some samples are no programs at all. Every sample has tiles of its own.

Measured: the area under the ROC with which collaborative entropy, and the semantic entropy of every single model,
foretell that the accepted candidate (the first that passes the weak set, of always-sample-K) is wrong; and what the
adaptive policy spends, against always-sample-K under the same rule of acceptance. Intervals: bootstrap over tasks.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.errors import TilewrightError
from ..ir.transfer import Orchestration, transfer
from ..ir.transfer.consensus import Consensus, consensus
from ..ir.transfer.consensus_decision import Budget, Thresholds
from ..ir.transfer.consensus_exploration import Ensemble, explore
from ..kernels.cases import Case
from ..kernels.judging import make_judge
from ..kernels.references import reference_program
from .candidates import SPECS, edited_texts, spec_of
from .machine import describe_machine, revision
from .roc import Interval, auroc, bootstrap

__all__ = ["Candidate", "Draw", "Task", "measure", "tasks"]

COMMAND = "python -m tilewright.bench.uncertainty"
MODELS = {"strong": (1.0, 0.05), "medium": (0.5, 0.1), "weak": (0.0, 0.2)}  # skill; share that is no program
SAMPLES = 5  # K
DRAWS = 60  # of a task
COMMON = 1 / 3
CONCENTRATION = 0.5
TILES = ((64, 64), (32, 32))
WEAK = Case(1, 1, 64, 64)
SEED = 20260328
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Candidate:
    """A program: its kind ("right", or what was done to it), its tiles; words: what it does by case, weak one last."""

    kind: str
    tiles: tuple[int, int]
    words: tuple[str, ...]

    @property
    def is_right(self) -> bool:
        """By the whole set."""
        return set(self.words) == {"ok"}

    @property
    def passes(self) -> bool:
        """By the weak set."""
        return self.words[-1] == "ok"


@dataclass(frozen=True, slots=True)
class Task:
    """A function and what may be answered: right and wrong candidates, each kind with every choice of tiles."""

    name: str
    right: tuple[Candidate, ...]
    wrong: tuple[tuple[Candidate, ...], ...]


@dataclass(frozen=True, slots=True)
class Draw:
    """A task once more: everything its models would answer, K samples each, None for what is no program."""

    task: str
    answers: Mapping[str, tuple[Candidate | None, ...]]


def tasks(names: Sequence[str] = tuple(SPECS), say: Callable[[str], None] = lambda text: None) -> list[Task]:
    """Every candidate of the named tasks, judged on every case. Candidates that are no programs are left out."""
    return [_task(name, say) for name in names]


def _task(name: str, say: Callable[[str], None]) -> Task:
    spec = spec_of(name)
    judge = make_judge(None, None, spec=spec)
    judge.add_case(judge.claim.draw(WEAK))
    kinds: dict[str, list[Candidate]] = {}
    for rows, columns in TILES:
        text = str(transfer(reference_program(), spec, Orchestration((("m", rows), ("n", columns)))))
        for kind, changed in {"right": text, **edited_texts(text)}.items():
            words = judge.signature(changed)
            if words:
                kinds.setdefault(kind, []).append(Candidate(kind, (rows, columns), words))
    right = tuple(kinds.pop("right"))
    if not all(candidate.is_right for candidate in right):
        raise TilewrightError(f"uncertainty: what transfer makes of {name} is not right: {right}")
    wrong = tuple(tuple(found) for found in kinds.values() if not all(candidate.is_right for candidate in found))
    task = Task(name, right, wrong)
    say(f"{name}: {len(wrong)} wrong kinds, {_hidden(task)} of them pass the weak set; {len(judge.cases)} cases")
    return task


def draw(task: Task, rng: np.random.Generator, samples: int = SAMPLES) -> Draw:
    """What the models answer, by the model that the module's docstring tells."""
    difficulty = rng.normal()
    shared = rng.dirichlet(np.full(len(task.wrong), CONCENTRATION))
    answers = {}
    for model, (skill, blank) in MODELS.items():
        own = rng.dirichlet(np.full(len(task.wrong), CONCENTRATION))
        taste = COMMON * shared + (1 - COMMON) * own
        known = 1 / (1 + math.exp(difficulty - skill))
        answers[model] = tuple(_sample(task, rng, blank, known, taste) for _ in range(samples))
    return Draw(task.name, answers)


def _sample(task: Task, rng: np.random.Generator, blank: float, known: float, taste: Any) -> Candidate | None:
    if rng.random() < blank:
        return None
    pool = task.right if rng.random() < known else task.wrong[int(rng.choice(len(task.wrong), p=taste))]
    return pool[int(rng.integers(len(pool)))]


# What is foretold


@dataclass(frozen=True, slots=True)
class Foretold:
    """A draw with an accepted candidate: the measures of its ensemble, and whether the candidate is wrong."""

    task: str
    scores: Mapping[str, float]
    is_wrong: bool


def foretell(one: Draw) -> Foretold | None:
    """All K samples of every model; None where no sample passes the weak set."""
    rounds = zip(*one.answers.values(), strict=True)
    accepted = next((c for each in rounds for c in each if c is not None and c.passes), None)
    if accepted is None:
        return None
    found = consensus(one.answers, key=lambda candidate: candidate.words[-1])
    scores = {"CoE": found.total, "U_E": found.epistemic, "U_A": found.aleatoric}
    scores |= {f"entropy of {model}": found.entropies.get(model, math.log(SAMPLES)) for model in MODELS}
    return Foretold(one.task, scores, not accepted.is_right)


def areas(found: Sequence[Foretold]) -> dict[str, dict[str, Any]]:
    """Of every measure: its area with an interval, and by how much CoE's is above it."""
    wrong = np.array([one.is_wrong for one in found])
    values = {name: np.array([one.scores[name] for one in found]) for name in found[0].scores}
    groups = _groups([one.task for one in found])

    def gap(name: str) -> Callable[[Any], float]:
        return lambda at: auroc(values["CoE"][at], wrong[at]) - auroc(values[name][at], wrong[at])

    def area(name: str) -> Callable[[Any], float]:
        return lambda at: auroc(values[name][at], wrong[at])

    return {
        name: {
            "auroc": area(name)(slice(None)),
            "interval": _over_tasks(area(name), groups),
            "gain_of_coe": gap(name)(slice(None)),
            "gain_interval": _over_tasks(gap(name), groups),
        }
        for name in values
    }


# What is spent


@dataclass(frozen=True, slots=True)
class Spent:
    """How a draw ended under a policy."""

    task: str
    samples: int
    is_accepted: bool
    is_wrong: bool


@dataclass(frozen=True, slots=True)
class Policy:
    """searches: for inputs that tell clusters apart; support: answers that must stand behind what is accepted."""

    searches: int = 1
    support: int = 2


def adaptive(one: Draw, policy: Policy) -> Spent:
    """The decisions of `consensus_decision.py`, with all K samples of every model as their budget."""
    return _ended(one, policy, sum(map(len, one.answers.values())), {})


def always(one: Draw, policy: Policy) -> Spent:
    """All K samples of every model first, then the same decisions."""
    return _ended(one, policy, 0, one.answers)


def _ended(one: Draw, policy: Policy, budget: int, given: Mapping[str, Sequence[Candidate | None]]) -> Spent:
    """Decide by behaviour on the active cases: the weak one, and those that searches find."""
    active = [-1]
    left = {model: list(row[len(given.get(model, ())) :]) for model, row in one.answers.items()}

    def ask(model: str, count: int) -> list[Candidate | None]:
        taken, left[model] = left[model][:count], left[model][count:]
        return taken

    def distinguish(found: Consensus[Candidate], places: Sequence[int]) -> bool:
        """The first case on which candidates that pass so far differ, whatever would be right there."""
        seen = [one.answers[m][n] for place in places for m, n in found.clusters[place].members]
        words = [c.words for c in seen if c is not None and all(c.words[n] == "ok" for n in active)]
        case = next((n for n, column in enumerate(zip(*words, strict=True)) if len(set(column)) > 1), None)
        active.extend([] if case is None else [case])
        return case is not None

    ensemble = Ensemble(
        tuple(one.answers),
        ask,
        key=lambda candidate: tuple(candidate.words[n] for n in active),
        is_good=lambda cluster: all(cluster.medoid.words[n] == "ok" for n in active),
        distinguish=distinguish,
    )
    end = explore(ensemble, Budget(budget, policy.searches), Thresholds(support=policy.support), given)
    is_wrong = end.accepted is not None and not end.accepted[0].is_right
    return Spent(one.task, end.spent, end.accepted is not None, is_wrong)


def spending(draws: Sequence[Draw], policy: Policy) -> dict[str, Any]:
    """Both ways on the same draws: shares accepted, wrong among those, samples; and the ratio of samples.

    always_as_many: always-sample-K that accepts as many as the adaptive policy does, those of the least entropy.
    """
    few = [adaptive(one, policy) for one in draws]
    all_ = [always(one, policy) for one in draws]
    samples = np.array([[a.samples, b.samples] for a, b in zip(few, all_, strict=True)], np.float64)

    def ratio(at: Any) -> float:
        spent = samples[at].sum(0)
        return float(spent[0] / spent[1])

    return {
        "searches": policy.searches,
        "support": policy.support,
        "adaptive": _summed(few),
        "always": _summed(all_),
        "always_as_many": _least_entropy(draws, sum(end.is_accepted for end in few)),
        "ratio_of_samples": ratio(slice(None)),
        "ratio_interval": _over_tasks(ratio, _groups([one.task for one in draws])),
    }


def _least_entropy(draws: Sequence[Draw], count: int) -> dict[str, float]:
    known = [f for f in map(foretell, draws) if f is not None]
    taken = sorted(known, key=lambda one: one.scores["CoE"])[:count]
    wrong = sum(one.is_wrong for one in taken) / max(len(taken), 1)
    return {"accepted": len(taken) / len(draws), "wrong_of_accepted": wrong, "mean_samples": len(MODELS) * SAMPLES}


def _summed(ends: Sequence[Spent]) -> dict[str, float]:
    accepted = [end for end in ends if end.is_accepted]
    return {
        "accepted": len(accepted) / len(ends),
        "wrong_of_accepted": sum(end.is_wrong for end in accepted) / max(len(accepted), 1),
        "mean_samples": sum(end.samples for end in ends) / len(ends),
    }


POLICIES = (Policy(), Policy(support=4), Policy(searches=0))


# Statistics and the command


def _groups(names: Sequence[str]) -> list[Any]:
    """Places of the items of every task."""
    array = np.array(names)
    return [np.flatnonzero(array == name) for name in dict.fromkeys(names)]


def _over_tasks(statistic: Callable[[Any], float], groups: Sequence[Any]) -> Interval:
    """An interval by drawing whole tasks with replacement: draws of one task are no independent evidence."""
    return bootstrap(lambda at: statistic(np.concatenate([groups[n] for n in at])), len(groups), draws=RESAMPLES)


def measure(found: Sequence[Task], draws: int = DRAWS, seed: int = SEED) -> dict[str, Any]:
    """All numbers, of `draws` draws of every task."""
    rng = np.random.default_rng(seed)
    drawn = [draw(task, rng) for task in found for _ in range(draws)]
    foretold = [f for f in map(foretell, drawn) if f is not None]
    return {
        "tasks": {task.name: {"wrong_kinds": len(task.wrong), "hidden": _hidden(task)} for task in found},
        "draws": len(drawn),
        "accepted": len(foretold),
        "wrong_of_accepted": sum(one.is_wrong for one in foretold) / max(len(foretold), 1),
        "areas": areas(foretold),
        "spending": [spending(drawn, policy) for policy in POLICIES],
    }


def _hidden(task: Task) -> int:
    """Kinds of wrong candidates that pass the weak set with some tiles."""
    return sum(any(candidate.passes and not candidate.is_right for candidate in kind) for kind in task.wrong)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--draws", type=int, default=DRAWS, help="of every task")
    asked = parser.parse_args(arguments)
    numbers = measure(tasks(say=lambda text: print(text, file=sys.stderr)), asked.draws)
    command = f"{COMMAND} {asked.file.name} --draws {asked.draws}"
    told = {"command": command, "revision": revision(), "machine": describe_machine(), **numbers}
    asked.file.parent.mkdir(parents=True, exist_ok=True)
    asked.file.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(summary(numbers))
    return 0


def summary(numbers: Mapping[str, Any]) -> str:
    """A line per measure and policy."""
    head = f"{numbers['accepted']} of {numbers['draws']} draws have a candidate that passes the weak set"
    lines = [f"{head}; {numbers['wrong_of_accepted']:.0%} of those are wrong"]
    for name, found in numbers["areas"].items():
        gain = "" if name == "CoE" else f"; CoE is above by {found['gain_of_coe']:.3f} {_shown(found['gain_interval'])}"
        lines.append(f"AUROC of {name}: {found['auroc']:.3f} {_shown(found['interval'])}{gain}")
    for found in numbers["spending"]:
        ways = "; ".join(
            f"{way.replace('_', ' ')}: {found[way]['accepted']:.1%} accepted, "
            f"{found[way]['wrong_of_accepted']:.1%} of them wrong, {found[way]['mean_samples']:.1f} samples"
            for way in ("adaptive", "always", "always_as_many")
        )
        head = f"support {found['support']}, searches {found['searches']}"
        lines.append(f"{head}: {ways}; ratio {found['ratio_of_samples']:.3f} {_shown(found['ratio_interval'])}")
    return "\n".join(lines)


def _shown(interval: Interval) -> str:
    return f"[{interval[0]:.3f}, {interval[1]:.3f}]"


if __name__ == "__main__":
    sys.exit(main())
