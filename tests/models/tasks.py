"""Small tasks, a judge for them, and candidates with planted mistakes."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tilewright.ir.errors import ParseError, TilewrightError
from tilewright.ir.lift import lift
from tilewright.ir.parser import parse_program
from tilewright.ir.printer import print_program
from tilewright.ir.program import Program
from tilewright.ir.spec import AttentionSpec
from tilewright.ir.transfer import retile, transfer
from tilewright.ir.transfer.engine import CounterExample, Outcome, Task, Verdict
from tilewright.ir.transfer.models import EngineSettings, ModelEngine
from tilewright.ir.verify import verify
from tilewright.kernels.references import reference_program
from tilewright.kernels.verification import Subject, verify_program

TILES = {"m": 16, "n": 16}


@dataclass
class SmallJudge:
    """The repository's own verification of programs on a few cases. judged: every text that it saw."""

    subject: Subject
    judged: list[str] = field(default_factory=list)

    def judge(self, text: str) -> Verdict:
        self.judged.append(text)
        try:
            program = parse_program(text)
        except ParseError as error:
            return Verdict(Outcome.UNPARSED, str(error))
        try:
            verify(program)
            report = verify_program(program, self.subject)
        except TilewrightError as error:
            return Verdict(Outcome.FAILED, str(error), signature=(type(error).__name__,), program=program)
        words = tuple(f"{row.name}:{row.output}:{'ok' if row.passed else f'{row.error:.2g}'}" for row in report.rows)
        if report.verified:
            return Verdict(Outcome.ACCEPTED, "", None, ("ok",), program)
        wrong = next(row for row in report.rows if not row.passed)
        found = CounterExample({"M": 1}, wrong.name, wrong.output, (0, 0, 0, 0), wrong.error, 0.0, wrong.budget)
        return Verdict(Outcome.WRONG, f"wrong on {wrong.name}", found, words, program)


def causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Causal attention with grouped heads."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    keep = torch.arange(k.shape[2])[None, :] <= torch.arange(q.shape[2])[:, None]
    return (q @ k.mT * 0.25).masked_fill(~keep, float("-inf")).softmax(-1) @ v


def tensors(group: int = 2) -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(1, heads, 20, 16) for heads in (2 * group, 2, 2))


def task_of(function: Callable[..., Any], example: Sequence[torch.Tensor]) -> tuple[Task, SmallJudge]:
    """A task of a function that can be lifted."""
    spec = lift(function, tuple(example))
    judge = SmallJudge(Subject(spec, function, tuple(example)))
    reference = retile(reference_program(), TILES)
    return Task(function.__name__, spec.tensors, inspect.getsource(function), judge, spec, reference=reference), judge


def good_program(spec: AttentionSpec) -> Program:
    """What the rules make of a spec, in small tiles."""
    return retile(transfer(reference_program(), spec), TILES)


def good_text(task: Task) -> str:
    assert task.spec is not None
    return print_program(good_program(task.spec))


PLANTED = {
    "mask edge": (("j <= i", "j < i"),),
    "no rescale": (("into=acc * rescale", "into=acc"),),
    "wrong head": (("h // (Hq // Hkv)", "h % Hkv"),),
    "stale max": (("peak = peak_next", "peak = peak"),),
    "tail": (("j < N", "j < N - 1"),),
}


def planted(text: str, mistake: str) -> str:
    """The program with a mistake; an error where it has no place for it."""
    for right, wrong in PLANTED[mistake]:
        assert right in text, f"{mistake}: no {right!r} in the program"
        text = text.replace(right, wrong)
    return text


def settings(url: str, folder: Path | None = None, **options: Any) -> EngineSettings:
    """Quick settings for a test's server."""
    from tilewright.ir.transfer.consensus_decision import Thresholds
    from tilewright.ir.transfer.models.retries import Patience

    options = {"models": ("good",), "samples": 1, "patience": Patience(4, 20.0, 0.01), "seconds": 60.0, **options}
    options.setdefault("thresholds", Thresholds(support=1))
    options.setdefault("has_memory", folder is not None)
    return EngineSettings.of({"base_url": url, "folder": folder, **options})


def engine(url: str, folder: Path | None = None, **options: Any) -> ModelEngine:
    return ModelEngine(settings(url, folder, **options))


def ticks(start: float = 0.0, step: float = 1.0) -> Callable[[], float]:
    """A clock that moves by `step` at each look."""
    count = itertools.count()
    return lambda: start + step * next(count)
