"""A built backward against autograd of the user's function in fp64, on the cases that the forward is verified on."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from ...ir.errors import TilewrightError
from ..arguments import DEVICES, bind_sizes
from ..cases import Case, cases_for
from ..compiled import Compiled
from ..dtypes import as_array
from ..oracle import Truth
from ..report import CaseResult, Report
from ..tensors import CaseTensors, case_tensors, laid_out
from ..verification import Subject
from .oracle import expect_gradients, output_gradient

__all__ = ["Asked", "verify_backward"]

Gradients = Callable[[Sequence[torch.Tensor], torch.Tensor], dict[str, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A case's tensors, the gradient that arrives, and what should come of it; None where the function fails."""

    case: Case
    tensors: CaseTensors
    d_o: torch.Tensor | None = None
    expected: dict[str, Truth] | None = None
    reason: str = ""


class Asked:
    """What the oracle has said about a subject, so that several kernels of one backward ask it once."""

    def __init__(self) -> None:
        self._answers: dict[tuple[Case, ...], list[_Prepared]] = {}

    def about(self, subject: Subject, wanted: tuple[Case, ...], device: torch.device) -> list[_Prepared]:
        """The cases with what should come of them."""
        if wanted not in self._answers:
            self._answers[wanted] = _pooled([_prepare(subject, case, device) for case in subject.cases(wanted)])
        return self._answers[wanted]

    def forget(self) -> None:
        """Give the memory back."""
        self._answers.clear()


def verify_backward(
    compiled: Compiled,
    run: Gradients,
    subject: Subject,
    asked: Asked | None = None,
    cases: Sequence[Case] | None = None,
) -> Report:
    """Every gradient that `run` gives for tensors and a gradient of o; never raises for a wrong result.

    compiled: whose tiles decide the sizes that are tried, and whose target the device; with `cases`, those are tried
    instead, on the CPU. asked: of this subject before.
    """
    tried = cases_for(compiled.program) if cases is None else cases
    wanted = tuple(case for case in tried if case.content not in ("nan_row", "large"))
    device = torch.device(DEVICES[compiled.lowered.target] if cases is None else "cpu")
    prepared = (asked or Asked()).about(subject, wanted, device)
    return Report(tuple(row for one in prepared for row in _check(one, run)))


def _prepare(subject: Subject, case: Case, device: torch.device) -> _Prepared:
    spec = subject.spec
    drawn = case_tensors(spec, case, subject.example, subject.own_sizes)
    tensors = laid_out(drawn, case, device)
    if not spec.allows(bind_sizes(spec.tensors, drawn)):
        return _Prepared(case, tensors, reason=f"the function needs sizes with {spec.requires!r}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            d_o = output_gradient(spec, tensors, zlib.crc32(case.name.encode()))
            return _Prepared(case, tensors, d_o, expect_gradients(subject.function, spec, tensors, d_o))
    except Exception as error:  # noqa: BLE001 - the user's code may raise anything
        return _Prepared(case, tensors, reason=f"the function itself fails: {_first_line(error)}")


def _pooled(prepared: Sequence[_Prepared]) -> list[_Prepared]:
    """All cases share the largest low-precision error of each gradient: a few numbers alone may be right by luck."""
    largest: dict[str, float] = {}
    for one in prepared:
        for name, truth in (one.expected or {}).items():
            largest[name] = max(largest.get(name, 0.0), truth.low_error)
    return [
        replace(one, expected={n: replace(truth, low_error=largest[n]) for n, truth in one.expected.items()})
        if one.expected is not None
        else one
        for one in prepared
    ]


def _check(prepared: _Prepared, run: Gradients) -> list[CaseResult]:
    name = f"{prepared.case.name}-backward"
    if prepared.expected is None or prepared.d_o is None:
        return [CaseResult(name, skipped=True, note=prepared.reason)]
    try:
        got = run(prepared.tensors, prepared.d_o)
    except TilewrightError as error:
        return [CaseResult(name, error=float("inf"), note=_first_line(error))]
    rows = []
    for output, tensor in got.items():
        truth = prepared.expected[output]
        rows.append(CaseResult(name, output, truth.error(as_array(tensor.double())), truth.budget))
    return rows



def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
