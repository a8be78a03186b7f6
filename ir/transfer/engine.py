"""The nouns of transfer by an engine: a task, what judges its candidates, and what comes of it.

An engine turns a task into a program. `rules` rewrites a reference (`rules.py`); `llm` asks language models for program
text; `auto` asks the rules first. Whatever made a candidate, a judge decides whether it computes the function: engines
live here, below verification, and are given a judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

from ..program import Program
from ..spec import AttentionSpec, TensorSpec

__all__ = ["CounterExample", "Engine", "Judge", "Outcome", "Task", "Transferred", "Verdict"]


class Outcome(Enum):
    """What became of a candidate."""

    ACCEPTED = "accepted"  # computes the function on every case
    WRONG = "wrong"  # runs and computes something else
    FAILED = "failed"  # parses, and is invalid or goes wrong when it is executed (race, out of bounds, no end)
    UNPARSED = "unparsed"  # no program text: an abstention, whatever else it was


@dataclass(frozen=True, slots=True)
class CounterExample:
    """The smallest input found on which a candidate is wrong.

    sizes: by name, B, Hq, Hkv, M, N. place: where the output differs most, (b, h, i, d) or (b, h, i) of lse.
    inputs: what the tensors hold, in words. got and wanted: the values at `place`; budget: the error allowed there.
    diagnosis: what that means, where it can be told, such as which key a row keeps by mistake.
    """

    sizes: Mapping[str, int]
    inputs: str
    output: str
    place: tuple[int, ...]
    got: float
    wanted: float
    budget: float
    diagnosis: str = ""

    def __str__(self) -> str:
        sizes = ", ".join(f"{name}={size}" for name, size in self.sizes.items())
        place = ", ".join(map(str, self.place))
        return (
            f"{self.output}[{place}] is {self.got:.6g}, wanted {self.wanted:.6g} within {self.budget:.2g} "
            f"({sizes}; {self.inputs})" + (f": {self.diagnosis}" if self.diagnosis else "")
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's answer. signature: the candidate's behaviour, one word per case; equal words, equal behaviour.

    reason: one line, for people and for models; it names the line of the program where there is one.
    """

    outcome: Outcome
    reason: str = ""
    counter_example: CounterExample | None = None
    signature: tuple[str, ...] = ()
    program: Program | None = None
    seconds: float = 0.0

    @property
    def is_accepted(self) -> bool:
        """Whether the candidate computes the function on every case."""
        return self.outcome is Outcome.ACCEPTED


class Judge(Protocol):
    """Decides what a candidate is worth. It parses and interprets text within bounds; nothing in it is executed."""

    def judge(self, text: str) -> Verdict:
        """The verdict on program text; never raises for what the text says."""


@dataclass(frozen=True, slots=True)
class Task:
    """What an engine is asked for.

    name: the function's. tensors: its arguments in order. function: its source text, for models to read. spec: what the
    lift made of it, None where it refused for `refusal`. reference: an expert's program; source: foreign source text
    (CUDA C++) where the expert's kernel is that instead. sizes: D and Dv, where there is no spec that says so.
    """

    name: str
    tensors: tuple[TensorSpec, ...]
    function: str
    judge: Judge
    spec: AttentionSpec | None = None
    refusal: str = ""
    reference: Program | None = None
    source: str = ""
    sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Transferred:
    """A program that the judge accepted, the engine that made it, what was spent, and where the transcript is."""

    program: Program
    engine: str
    notes: tuple[str, ...] = ()
    spent: Mapping[str, float] = field(default_factory=dict)
    transcript: Path | None = None


class Engine(Protocol):
    """Makes programs."""

    name: str

    def transfer(self, task: Task) -> Transferred:
        """A verified program for the task.

        Raises ScheduleError or UnsupportedSpec for what the engine cannot do, TransferFailed when no candidate was
        accepted within the budget.
        """
