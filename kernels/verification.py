"""Run a kernel (or a program in the interpreter) on its cases against the oracle."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch

from ..ir.errors import TilewrightError
from ..ir.interpreter import interpret
from ..ir.program import Program
from ..ir.spec import AttentionSpec
from .arguments import DEVICES, bind_sizes
from .cases import Case, adapted, cases_for, small_cases
from .compiled import Compiled
from .dtypes import as_array
from .oracle import Expected, Function, Truth, expect
from .report import CaseResult, Report
from .tensors import CaseTensors, case_tensors, laid_out

__all__ = ["Subject", "verify_compiled", "verify_program"]

Run = Callable[[Sequence[torch.Tensor], dict[str, int]], dict[str, torch.Tensor]]
Progress = Callable[[int, int], None]

MOST_OWN_SCORES = 1 << 20
LARGE_SHUFFLES = 6  # scores of 1e4 are off by 1e-3, and where two of them nearly tie, so is the row


@dataclass(frozen=True, slots=True)
class Subject:
    """What is claimed: `spec` (and `function`, when there is one), with the example it was lifted with."""

    spec: AttentionSpec
    function: Function | None = None
    example: Sequence[torch.Tensor] | None = None

    @property
    def own_case(self) -> Case:
        """The example's sizes; some small ones where there is no example."""
        if self.example is None:
            return Case(1, 1, 17, 17)
        q, k = self.example[:2]
        return Case(k.shape[0], k.shape[1], q.shape[2], k.shape[2])

    def cases(self, wanted: Sequence[Case]) -> tuple[Case, ...]:
        """Cases that the spec allows, nearest to the wanted ones, and the example's own sizes unless they are large."""
        own = self.own_case
        found = [adapted(case, own, self._allows) or case for case in wanted]
        is_small = own.batch * own.kv_heads * self.spec.group * own.rows * own.columns <= MOST_OWN_SCORES
        return tuple(dict.fromkeys([*found, own] if is_small and self.example is not None else found))

    def _allows(self, case: Case) -> bool:
        sizes = {"B": case.batch, "Hkv": case.kv_heads, "Hq": case.kv_heads * self.spec.group}
        return self.spec.allows({**self.own_sizes, **sizes, "M": case.rows, "N": case.columns})

    @property
    def own_sizes(self) -> dict[str, int]:
        """Sizes that only captured tensors have, from the example; 7 where there is none."""
        if self.example is not None:
            return bind_sizes(self.spec.tensors, self.example)
        return {dim: 7 for tensor in self.spec.captured for dim in tensor.dims if isinstance(dim, str)}


def verify_compiled(
    compiled: Compiled,
    subject: Subject,
    *,
    thorough: bool = False,
    progress: Progress | None = None,
    cases: Sequence[Case] | None = None,
) -> Report:
    """The built kernel against the subject; never raises for a wrong result.

    With `cases`, those are tried instead of the program's own, on the CPU. Builds the kernel if need be, while the
    oracle works. Raises BuildError when that fails.
    """
    tried = cases_for(compiled.program, thorough=thorough) if cases is None else cases
    device = torch.device(DEVICES[compiled.lowered.target] if cases is None else "cpu")
    cases = subject.cases(tried)
    checker = _Checker(subject, compiled.run, compiled.fixed, device)
    with ThreadPoolExecutor(1) as pool:
        build = pool.submit(compiled.launch)
        prepared = _prepare(checker, cases, progress)
        build.result()
    return Report(_check(checker, prepared))


def verify_program(program: Program, subject: Subject, *, progress: Progress | None = None) -> Report:
    """The program's meaning, by the interpreter on small cases, against the subject; needs no target."""

    def run(tensors: Sequence[torch.Tensor], sizes: dict[str, int]) -> dict[str, torch.Tensor]:
        names = [param.name for param in program.params if not param.is_output]
        arguments = {name: as_array(tensor) for name, tensor in zip(names, tensors, strict=True)}
        return {name: torch.from_numpy(values) for name, values in interpret(program, arguments).items()}

    checker = _Checker(subject, run, program.fixed, torch.device("cpu"))
    prepared = _prepare(checker, subject.cases(small_cases(program)), progress)
    return Report(_check(checker, prepared), method="program in the interpreter")


def _prepare(checker: _Checker, cases: Sequence[Case], progress: Progress | None) -> list[_Prepared]:
    """What all cases should give, before any is run."""
    prepared = []
    for number, case in enumerate(cases):
        prepared.append(checker.prepare(case))
        if progress is not None:
            progress(number + 1, len(cases))
    return _pooled(prepared)


def _check(checker: _Checker, prepared: Sequence[_Prepared]) -> tuple[CaseResult, ...]:
    """What they give."""
    return tuple(row for one in prepared for row in checker.check(one))


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A case's tensors and what they should give; None where the user's function itself fails, for `reason`."""

    case: Case
    tensors: CaseTensors
    expected: Expected | None
    reason: str = ""


def _pooled(prepared: Sequence[_Prepared]) -> list[_Prepared]:
    """Cases of like content share the largest low-precision error: a few numbers alone may be right by luck."""
    largest: dict[str, tuple[float, float]] = {}
    for one in prepared:
        if one.expected is not None:
            o, lse = largest.get(one.case.content, (0.0, 0.0))
            found = one.expected.o.low_error, one.expected.lse.low_error
            largest[one.case.content] = max(o, found[0]), max(lse, found[1])
    return [
        one if one.expected is None else replace(one, expected=_with_errors(one.expected, *largest[one.case.content]))
        for one in prepared
    ]


def _with_errors(expected: Expected, o: float, lse: float) -> Expected:
    return replace(expected, o=replace(expected.o, low_error=o), lse=replace(expected.lse, low_error=lse))


@dataclass(frozen=True, slots=True)
class _Checker:
    """Checks one case at a time."""

    subject: Subject
    run: Run
    fixed: dict[str, int]
    device: torch.device

    def prepare(self, case: Case) -> _Prepared:
        """Draw the tensors and ask the oracle."""
        subject = self.subject
        drawn = case_tensors(subject.spec, case, subject.example, subject.own_sizes)
        tensors = laid_out(drawn, case, self.device)
        if not subject.spec.allows(bind_sizes(subject.spec.tensors, drawn)):
            return _Prepared(case, tensors, None, f"the function needs sizes with {subject.spec.requires!r}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                shuffles = LARGE_SHUFFLES if case.content == "large" else 0
                return _Prepared(case, tensors, expect(subject.function, subject.spec, tensors, shuffles))
        except Exception as error:  # noqa: BLE001 - the user's code may raise anything
            return _Prepared(case, tensors, None, f"the function itself fails: {_first_line(error)}")

    def check(self, prepared: _Prepared) -> list[CaseResult]:
        """A row per output; one skipped row when the user's function itself does not take these sizes."""
        name, expected = prepared.case.name, prepared.expected
        if expected is None:
            return [CaseResult(name, skipped=True, note=prepared.reason)]
        try:
            sizes = {**self.fixed, **bind_sizes(self.subject.spec.tensors, prepared.tensors)}
            got = self.run(prepared.tensors, sizes)
        except TilewrightError as error:
            return [CaseResult(name, error=float("inf"), note=_first_line(error))]
        return _compare(name, got, expected)


def _compare(name: str, got: dict[str, torch.Tensor], expected: Expected) -> list[CaseResult]:
    truths: dict[str, Truth] = {"o": expected.o, "lse": expected.lse}
    rows = []
    for output, tensor in got.items():
        truth = truths[output]
        error = truth.error(as_array(tensor.double()))
        note = "" if error <= truth.budget else f"({expected.blame})"
        rows.append(CaseResult(name, output, error, truth.budget, note=note))
    return rows


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
