"""Everything that a spec's gradients need on one target: compiled, checked against autograd, and run when asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import torch

from ...ir.dtypes import Kind
from ...ir.errors import UnsupportedSpec, VerificationError
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
from .gradient import Gradient, Known, compile_backward
from .verification import verify_backward

__all__ = ["Gradients"]

Tensors = Sequence[torch.Tensor]
MAIN = 3  # q, k and v; captured tensors follow


class Gradients:
    """Gradients of one spec on one target; what is not there is made, and verified, when it is first asked for.

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
        self._backward: Backward | None = None
        self._lock = threading.RLock()

    @property
    def has_lse(self) -> bool:
        """Whether the forward has a log-sum-exp, which the backward then reads."""
        return self.spec.normaliser.kind is NormaliserKind.SOFTMAX

    @property
    def is_ordered(self) -> bool:
        """Whether sums must be added in one order now: asked for here, or of torch."""
        return self._options.deterministic or torch.are_deterministic_algorithms_enabled()

    @property
    def main(self) -> Gradient:
        """The backward of q, k and v, in the order that is wanted now. VerificationError where it is wrong."""
        is_ordered = self.is_ordered
        with self._lock:
            if is_ordered not in self._made:
                self._made[is_ordered] = self._make(is_ordered)
            return self._made[is_ordered]

    def prepare(self, wanted: Sequence[bool]) -> None:
        """Make what a backward for these tensors needs. Raises for a captured tensor that has no gradient here."""
        for tensor, is_wanted in zip(self.spec.captured, wanted[MAIN:], strict=True):
            if is_wanted and tensor.dtype.kind is Kind.FLOAT:
                self._refuse(tensor.name)
        if is_plain():
            _ = self.main
        else:
            elsewhere(lambda: self.main)

    def _refuse(self, name: str) -> None:
        raise UnsupportedSpec(
            f"captured tensor {name} requires grad, and gradients of captured tensors are not available yet",
            hint=f"pass {name}.detach()",
        )

    def run(self, tensors: Tensors, known: Known, wanted: Sequence[bool]) -> list[torch.Tensor | None]:
        """The gradient of every tensor that is wanted, in its own type; None for the others."""
        found: list[torch.Tensor | None] = [None] * len(tensors)
        if any(wanted[:MAIN]):
            found[:MAIN] = [g if w else None for g, w in zip(self.main(tensors, known), wanted, strict=False)]
        return found

    def _make(self, is_ordered: bool) -> Gradient:
        if self._backward is None:
            self._backward = differentiate(self.spec)
        stages = Stages()
        compiled = compile_backward(
            self._backward, self._target, self._options.arch, is_ordered=is_ordered, stages=stages
        )
        gradient = Gradient(compiled, self.spec)
        if self._options.verify and runs_here(self._target):
            compiled.report = verify_backward(compiled, lambda *asked: self._main_of(gradient, *asked), self._subject)
            if not compiled.report.verified:
                what = f"backward of {self.spec.name} for {self._target} ({to_torch(self.spec.dtype)})"
                raise VerificationError(f"{what}: {compiled.report}")
        return gradient

    def _main_of(self, gradient: Gradient, tensors: Tensors, d_o: torch.Tensor) -> dict[str, torch.Tensor]:
        """dq, dk and dv from nothing but the tensors, for verification."""
        forward = self._forward(tensors)
        sizes = {**forward.fixed, **bind_sizes(self.spec.tensors, tensors)}
        out = forward.run(tensors, sizes)
        found = gradient(tensors, Known(out["o"], out.get("lse"), d_o))
        return dict(zip(("dq", "dk", "dv"), found, strict=True))

