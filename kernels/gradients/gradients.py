"""Everything that a spec's gradients need on one target: compiled, checked against autograd, and run when asked for."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence

import torch

from ...ir.dtypes import Kind
from ...ir.errors import VerificationError
from ...ir.gradient import Backward, differentiate
from ...ir.spec import AttentionSpec, NormaliserKind
from ..arguments import bind_sizes
from ..compiled import Compiled, Stages
from ..dtypes import to_torch
from ..machine import runs_here
from ..options import Options
from ..report import Report
from ..tracing import elsewhere, is_plain
from ..verification import Subject
from .captured import CapturedKernel, compile_captured
from .gradient import Gradient, Known, compile_backward
from .verification import Asked, verify_backward

__all__ = ["Gradients"]

Tensors = Sequence[torch.Tensor]
MAIN = 3  # q, k and v; captured tensors follow


class Gradients:
    """Gradients of one spec on one target; what is not there is made, and verified, when it is first asked for.

    reports: of captured tensors' gradients that were checked, by the tensors' names.
    function: what the spec was lifted from, which verification asks; None without one.
    forward: the compiled forward for tensors, whose results the backward starts from.
    """

    def __init__(
        self,
        subject: Subject,
        target: str,
        options: Options,
        forward: Callable[[Tensors], Compiled],
    ) -> None:
        self.spec: AttentionSpec = subject.spec
        self.reports: dict[str, Report] = {}
        self._subject, self._target, self._options, self._forward = subject, target, options, forward
        self._made: dict[bool, Gradient] = {}
        self._captured: dict[str, CapturedKernel | None] = {}
        self._backward: Backward | None = None
        self._asked = Asked()
        self._lock = threading.RLock()

    @property
    def has_lse(self) -> bool:
        """Whether the forward has a log-sum-exp, which the backward then reads."""
        return self.spec.normaliser.kind is NormaliserKind.SOFTMAX

    @property
    def is_ordered(self) -> bool:
        """Whether sums must be added in one order now: asked for here, or of torch."""
        return bool(self._options.deterministic) or torch.are_deterministic_algorithms_enabled()

    @property
    def main(self) -> Gradient:
        """The backward of q, k and v, in the order that is wanted now. VerificationError where it is wrong."""
        is_ordered = self.is_ordered
        with self._lock:
            if is_ordered not in self._made:
                self._made[is_ordered] = self._make(is_ordered)
            return self._made[is_ordered]

    def found(self) -> list[Report]:
        """The reports of what has been made and verified so far, or has something to say."""
        made = [gradient.compiled.report for gradient in self._made.values()]
        return [*(report for report in made if report is not None), *self.reports.values()]

    def use(self, compiled: Compiled, *, is_ordered: bool) -> None:
        """Take a backward that is compiled already."""
        self._made[is_ordered] = Gradient(compiled, self.spec)

    def captured(self, name: str) -> CapturedKernel | None:
        """What gives a captured tensor's gradient; None where that is zero. VerificationError where it is wrong."""
        with self._lock:
            if name not in self._captured:
                self._captured[name] = self._make_captured(name)
            return self._captured[name]

    def prepare(self, wanted: Sequence[bool]) -> None:
        """Make what a backward for these tensors needs. Raises UnsupportedSpec for one that has no gradient here."""
        names = self._names(wanted)
        if is_plain():
            self._prepare(names, any(wanted[:MAIN]))
        else:
            elsewhere(lambda: self._prepare(names, any(wanted[:MAIN])))

    def _names(self, wanted: Sequence[bool]) -> list[str]:
        """The floating captured tensors that are wanted."""
        pairs = zip(self.spec.captured, wanted[MAIN:], strict=True)
        return [tensor.name for tensor, is_wanted in pairs if is_wanted and tensor.dtype.kind is Kind.FLOAT]

    def _prepare(self, names: Sequence[str], wants_main: bool) -> None:
        try:
            if wants_main:
                _ = self.main
            for name in names:
                self.captured(name)
        finally:
            self._asked.forget()

    def run(self, tensors: Tensors, known: Known, wanted: Sequence[bool]) -> list[torch.Tensor | None]:
        """The gradient of every tensor that is wanted, in its own type; None for the others."""
        found: list[torch.Tensor | None] = [None] * len(tensors)
        if any(wanted[:MAIN]):
            found[:MAIN] = [g if w else None for g, w in zip(self.main(tensors, known), wanted, strict=False)]
        positions = {tensor.name: MAIN + n for n, tensor in enumerate(self.spec.captured)}
        for name in self._names(wanted):
            kernel, at = self.captured(name), positions[name]
            found[at] = torch.zeros_like(tensors[at]) if kernel is None else kernel(tensors, known)
        return found

    @property
    def _derived(self) -> Backward:
        """The derivation, made once."""
        if self._backward is None:
            self._backward = differentiate(self.spec)
        return self._backward

    def _make(self, is_ordered: bool) -> Gradient:
        stages = Stages()
        compiled = compile_backward(
            self._derived, self._target, self._options.arch, is_ordered=is_ordered, stages=stages
        )
        gradient = Gradient(compiled, self.spec, self._options.order if is_ordered else None)
        if self._options.verify and runs_here(self._target):
            run = functools.partial(self._main_of, gradient)
            compiled.report = verify_backward(compiled, run, self._subject, self._asked)
            if not compiled.report.verified:
                what = f"backward of {self.spec.name} for {self._target} ({to_torch(self.spec.dtype)})"
                raise VerificationError(f"{what}: {compiled.report}")
        return gradient

    def _main_of(self, gradient: Gradient, tensors: Tensors, d_o: torch.Tensor) -> dict[str, torch.Tensor]:
        """dq, dk and dv from nothing but the tensors, for verification."""
        found = gradient(tensors, self._known(tensors, d_o))
        return dict(zip(("dq", "dk", "dv"), found, strict=True))

    def _known(self, tensors: Tensors, d_o: torch.Tensor) -> Known:
        """What the forward gives for these tensors, and the gradient that arrives."""
        forward = self._forward(tensors)
        sizes = {**forward.fixed, **bind_sizes(self.spec.tensors, tensors)}
        out = forward.run(tensors, sizes)
        return Known(out["o"], out.get("lse"), d_o)

    def _make_captured(self, name: str) -> CapturedKernel | None:
        names = [gradient.tensor.name for gradient in self._derived.captured]
        if name not in names:
            return None
        kernel = compile_captured(self._derived, names.index(name), self._target, self._options.arch)
        if self._options.verify and runs_here(self._target):

            def run(tensors: Tensors, d_o: torch.Tensor) -> dict[str, torch.Tensor]:
                return {name: kernel(tensors, self._known(tensors, d_o))}

            report = self.reports[name] = verify_backward(kernel.terms[0], run, self._subject, self._asked)
            if not report.verified:
                what = f"gradient of {name} of {self.spec.name} for {self._target} ({to_torch(self.spec.dtype)})"
                raise VerificationError(f"{what}: {report}")
        return kernel

