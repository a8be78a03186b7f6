"""The backward of a kernel that is being generated: compiled beside it, and checked as built or in the interpreter."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...ir.gradient import differentiate
from ...ir.interpreter import interpret
from ...ir.program import Program
from ..arguments import bind_sizes
from ..cases import small_cases
from ..compiled import Compiled
from ..dtypes import as_array
from ..machine import runs_here
from ..options import Options
from ..verification import Subject
from .gradient import Gradient, Known, compile_backward
from .verification import verify_backward

__all__ = ["add_backward"]

OUTPUTS = ("dq", "dk", "dv")


def add_backward(compiled: Compiled, subject: Subject, options: Options) -> None:
    """Compile the backward of what `compiled` computes, check it, and keep it with its report as `compiled.gradient`.

    Raises UnsupportedSpec for what has no gradient; a wrong result is in the report.
    """
    target, arch = compiled.lowered.target, compiled.lowered.arch
    found = compile_backward(differentiate(subject.spec), target, arch, is_ordered=bool(options.deterministic))
    compiled.gradient, compiled.is_ordered = found, bool(options.deterministic)
    gradient = Gradient(found, subject.spec, options.order)

    def built(tensors: Sequence[torch.Tensor], d_o: torch.Tensor) -> dict[str, torch.Tensor]:
        sizes = {**compiled.fixed, **bind_sizes(subject.spec.tensors, tensors)}
        out = compiled.run(tensors, sizes)
        return dict(zip(OUTPUTS, gradient(tensors, Known(out["o"], out.get("lse"), d_o)), strict=True))

    def meant(tensors: Sequence[torch.Tensor], d_o: torch.Tensor) -> dict[str, torch.Tensor]:
        out = _interpreted(compiled.program, tensors)
        known = Known(out["o"].to(d_o.dtype), out.get("lse"), d_o)
        given = gradient.given(tensors, known)
        if given is None:
            return {name: torch.zeros_like(x) for name, x in zip(OUTPUTS, tensors, strict=False)}
        return _interpreted(found.program, given[0], given[1])

    if runs_here(target):
        found.report = verify_backward(found, built, subject)
    else:
        found.report = verify_backward(found, meant, subject, cases=small_cases(found.program))


def _interpreted(
    program: Program, tensors: Sequence[torch.Tensor], sizes: dict[str, int] | None = None
) -> dict[str, torch.Tensor]:
    names = [param.name for param in program.params if not param.is_output]
    arrays = {name: as_array(tensor.detach()) for name, tensor in zip(names, tensors, strict=True)}
    return {name: torch.from_numpy(values) for name, values in interpret(program, arrays, sizes=sizes).items()}
