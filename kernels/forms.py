"""The forms of one spec on one target: for many rows, and for few rows that read many keys (decoding).

Both compute the same and are verified alike; which one serves a call is decided by its sizes alone. A form is
compiled when it is first needed, so that who never decodes never waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..ir.errors import LoweringError, ScheduleError, VerificationError
from ..ir.spec import AttentionSpec
from ..schedules.tuning import DENSE, form_for
from .compiled import Compiled, Stages, compile_spec
from .dtypes import to_torch
from .gradients.gradients import Gradients
from .machine import runs_here
from .options import Options
from .verification import Subject, verify_compiled

__all__ = ["Forms", "finish"]


class Forms:
    """A spec's compiled forms. `function`: what it was lifted from, which verification asks; None without one."""

    def __init__(self, spec: AttentionSpec, target: str, options: Options, function: Callable[..., Any] | None) -> None:
        self.spec = spec
        self._target = target
        self._options = options
        self._function = function
        self._compiled: dict[str, Compiled] = {}
        self._gradients: Gradients | None = None

    def gradients(self, tensors: Sequence[torch.Tensor]) -> Gradients:
        """What differentiates any of the forms. `tensors`: an example, where verification has none yet."""
        if self._gradients is None:
            example = None if self._function is None else tuple(tensor.detach() for tensor in tensors)
            subject = Subject(self.spec, self._function, example)
            self._gradients = Gradients(subject, self._target, self._options, self.pick)
        return self._gradients

    def pick(self, tensors: Sequence[torch.Tensor], stages: Stages | None = None) -> Compiled:
        """The form for these tensors; made and verified when it is new, with `stages` begun by who traced it."""
        q, k = tensors[:2]
        is_ours = self._options.reference is None
        form = form_for(self._target, q.shape[2] * self.spec.group, k.shape[2]) if is_ours else DENSE
        if form not in self._compiled:
            self._compiled[form] = self._make(form, tensors, stages)
        return self._compiled[form]

    def _make(self, form: str, tensors: Sequence[torch.Tensor], stages: Stages | None) -> Compiled:
        """Compile a form; what decoding has no form for is served by the other one."""
        try:
            options = self._options
            compiled = compile_spec(self.spec, self._target, options.arch, stages, form, options.reference)
        except (LoweringError, ScheduleError):
            if form == DENSE:
                raise
            return self._compiled.get(DENSE) or self._make(DENSE, tensors, stages)
        example = None if self._function is None else tuple(tensors)
        return finish(compiled, Subject(self.spec, self._function, example), self._options)


def finish(compiled: Compiled, subject: Subject, options: Options) -> Compiled:
    """Verify where asked and possible; VerificationError carries the whole report."""
    if not options.verify or not runs_here(compiled.lowered.target):
        return compiled
    with compiled.stages.stage("verify"):
        compiled.report = verify_compiled(compiled, subject)
    if not compiled.report.verified:
        what = f"{subject.spec.name} for {compiled.lowered.target} ({to_torch(subject.spec.dtype)})"
        raise VerificationError(f"{what}: {compiled.report}")
    return compiled

