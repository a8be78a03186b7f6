"""What a candidate program must be besides right to become a kernel, and what it costs to run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from ..ir.errors import BuildError, LoweringError, ProgramError, TilewrightError
from ..ir.parser import parse_program
from ..ir.program import Program
from ..ir.spec import TensorSpec
from ..ir.transfer import pack_operands
from ..ir.transfer.engine import Outcome, Verdict
from .arguments import DEVICES, bind_sizes
from .compiled import Compiled, lower_program
from .judging.distinguish import search_distinguishing
from .judging.judge import ProgramJudge
from .machine import runs_here

__all__ = ["KernelJudge", "as_run", "cost_on"]

REPEATS = 5
MOST_SECONDS = 1.0


@dataclass(frozen=True)
class KernelJudge:
    """A judge, and what a call of a kernel relies on: parameters by name and order, outputs, that the target takes it.

    has_lse: the kernel must give one. target None: none in particular.
    """

    inner: ProgramJudge
    tensors: Sequence[TensorSpec]
    has_lse: bool
    target: str | None = None
    arch: str | None = None

    def judge(self, text: str) -> Verdict:
        """The inner judge's verdict; an accepted program that no kernel can be made of is FAILED, with the reason."""
        verdict = self.inner.judge(text)
        if not verdict.is_accepted or verdict.program is None:
            return verdict
        reason = self._misfit(verdict.program) or self._refusal(verdict.program)
        return verdict if not reason else replace(verdict, outcome=Outcome.FAILED, reason=reason, signature=(reason,))

    def distinguish(self, candidates: Sequence[str], names: Sequence[str]) -> str:
        """An input on which the candidates differ, in words, added to the inner judge's cases; "" without any."""
        valid = [(text, name) for text, name in zip(candidates, names, strict=True) if self._is_valid(text)]
        if len(valid) < 2:
            return ""
        found = search_distinguishing(self.inner, [text for text, _ in valid], names=[name for _, name in valid])
        if found is None:
            return ""
        self.inner.add_case(found.inputs)
        return found.sentence

    def _is_valid(self, text: str) -> bool:
        try:
            self.inner.candidate(parse_program(text))
        except TilewrightError:
            return False
        return True

    def _misfit(self, program: Program) -> str:
        names = [param.name for param in program.params if not param.is_output]
        wanted = [tensor.name for tensor in self.tensors]
        if names != wanted:
            return f"the parameters are {', '.join(names)}; wanted {', '.join(wanted)}, in this order"
        outputs = [param.name for param in program.params if param.is_output]
        if outputs != ["o", "lse"] and (self.has_lse or outputs != ["o"]):
            wanted_outputs = "o and lse" if self.has_lse else "o, or o and lse"
            return f"the outputs are {', '.join(outputs)}; wanted {wanted_outputs}, in this order"
        return ""

    def _refusal(self, program: Program) -> str:
        if self.target is None:
            return ""
        try:
            lower_program(program, self.target, self.arch)
        except (LoweringError, ProgramError) as error:
            return f"right, but the target {self.target} cannot express it: {error}"
        return ""


def as_run(program: Program, target: str) -> Program:
    """A program as it runs on a target: on the CPU right operands are copied once, as `transfer` has them copied."""
    return pack_operands(program) if target == "cpu" else program


def cost_on(target: str, arch: str | None, example: Sequence[torch.Tensor]) -> Callable[[Program], float] | None:
    """Seconds that a program takes on example tensors, the least of a few; None where the target does not run here."""
    if not runs_here(target):
        return None
    tensors = [tensor.detach().to(DEVICES[target]) for tensor in example]

    def cost(program: Program) -> float:
        try:
            compiled = lower_program(as_run(program, target), target, arch)
            sizes = {**compiled.fixed, **bind_sizes(compiled.inputs, tensors)}
            return _least_seconds(compiled, tensors, sizes)
        except (BuildError, TilewrightError):
            return math.inf

    return cost


def _least_seconds(compiled: Compiled, tensors: Sequence[torch.Tensor], sizes: dict[str, int]) -> float:
    compiled.run(tensors, sizes)  # builds, tunes
    least, begin = math.inf, time.perf_counter()
    for _ in range(REPEATS):
        start = time.perf_counter()
        compiled.run(tensors, sizes)
        if tensors[0].is_cuda:
            torch.cuda.synchronize()
        least = min(least, time.perf_counter() - start)
        if time.perf_counter() - begin > MOST_SECONDS:
            break
    return least
