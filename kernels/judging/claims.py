"""What a candidate is claimed to compute: a lifted function, or a function that no lift understands.

A claim names the tensors, draws them for a case, and says what should come out. `SpecClaim` has all of verification's
knowledge (kernels/verification.py). `FunctionClaim` (functions.py) has the function and example tensors alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol

from ...ir.errors import ShapeError, TilewrightError
from ...ir.expr import Op, walk
from ...ir.program import Program
from ...ir.spec import TensorSpec
from ..cases import Case, adapted
from ..oracle import Truth, expect
from ..same_tensors import check_same_tensors
from ..tensors import case_tensors
from ..verification import LARGE_SHUFFLES, Subject
from .inputs import Inputs, sizes_of
from .limits import TORCH_LOCK

__all__ = ["Claim", "SpecClaim", "Unanswered"]

MOST_SCORES = 1 << 21


class Unanswered(TilewrightError):
    """The user's function itself does not take these tensors."""


class Claim(Protocol):
    """What is to be computed."""

    @property
    def name(self) -> str:
        """The function's."""

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """q, k, v and the captured tensors, with the names of their dims."""

    @property
    def group(self) -> int:
        """Query heads of a key head."""

    def check(self, program: Program) -> None:
        """Raise ShapeError for a program that takes other tensors."""

    def allows(self, inputs: Inputs) -> bool:
        """Whether the function is defined for these sizes."""

    def draw(self, wanted: Case) -> Inputs:
        """Tensors of the case, or of the nearest one with sizes that are allowed."""

    def expect(self, inputs: Inputs) -> dict[str, Truth]:
        """What should come out, by output: "o", and "lse" where that is known. Raises Unanswered."""

    @property
    def own(self) -> tuple[Case, ...]:
        """The example's sizes, unless they are large; none without an example."""

    @property
    def constants(self) -> tuple[int, ...]:
        """Integers that the function compares positions with, where they are known."""


class SpecClaim:
    """A subject of verification: a spec, with the function that it was lifted from if there is one."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.name = subject.spec.name
        self.tensors = subject.spec.tensors
        self.group = subject.spec.group

    def check(self, program: Program) -> None:
        """Raise ShapeError for a program that takes other tensors."""
        check_same_tensors(program, self.subject.spec)

    def allows(self, inputs: Inputs) -> bool:
        """Whether the spec holds for these sizes."""
        try:
            sizes = sizes_of(self.tensors, inputs.tensors)
        except ShapeError:
            return False
        return sizes["Hq"] == self.group * sizes["Hkv"] and self.subject.spec.allows(sizes)

    def draw(self, wanted: Case) -> Inputs:
        """Tensors of the case, or of the nearest one with sizes that the spec allows."""
        subject = self.subject
        case = subject.cases((wanted,))[0]
        tensors = case_tensors(subject.spec, case, subject.example, subject.own_sizes)
        return Inputs(case.name, self.tensors, tuple(tensors), case.content)

    def expect(self, inputs: Inputs) -> dict[str, Truth]:
        """The oracle's answer. Raises Unanswered where the function does not take these tensors."""
        shuffles = LARGE_SHUFFLES if inputs.has_large_scores else 0
        subject = self.subject
        expected = answered(lambda: expect(subject.function, subject.spec, inputs.tensors, shuffles))
        return {"o": expected.o, "lse": expected.lse}

    @property
    def own(self) -> tuple[Case, ...]:
        """The example's sizes, unless they are large."""
        case, spec = self.subject.own_case, self.subject.spec
        is_small = case.batch * case.kv_heads * spec.group * case.rows * case.columns <= MOST_SCORES
        return (case,) if is_small and self.subject.example is not None else ()

    @property
    def constants(self) -> tuple[int, ...]:
        """Integers in the spec's mask and score."""
        spec = self.subject.spec
        found = {node.attr for side in (spec.keep, spec.score) for node in walk(side) if node.op is Op.CONST}
        return tuple(sorted(value for value in found if type(value) is int and value > 1))


def answered(ask: Callable[[], Any]) -> Any:
    """What the user's function says; Unanswered for whatever it raises."""
    try:
        with TORCH_LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ask()
    except Exception as error:  # noqa: BLE001 - the user's code may raise anything
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Unanswered(f"the function itself fails: {text}") from None


def nearest(case: Case, own: Case, is_allowed: Callable[[Case], bool]) -> Case:
    """The case, or the nearest one that is allowed; the example's own sizes at worst."""
    return adapted(case, own, is_allowed) or own
