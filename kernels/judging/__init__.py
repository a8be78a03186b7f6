"""Judging candidate programs: does a text, whoever wrote it, compute a function, and if not, on which least input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ...ir.errors import UnsupportedSpec
from ...ir.spec import AttentionSpec
from ..verification import Subject
from .claims import Claim, SpecClaim, Unanswered
from .distinguish import Distinction, search_distinguishing
from .functions import FunctionClaim
from .inputs import Inputs
from .judge import ProgramJudge
from .limits import JudgeLimits

__all__ = [
    "Claim", "Distinction", "FunctionClaim", "Inputs", "JudgeLimits", "ProgramJudge", "SpecClaim", "Unanswered",
    "make_judge", "search_distinguishing",
]  # fmt: skip


def make_judge(
    function: Callable[..., Any] | None,
    example: Sequence[torch.Tensor] | None,
    *,
    spec: AttentionSpec | None = None,
    limits: JudgeLimits | None = None,
) -> ProgramJudge:
    """A judge of programs that should compute `function` (q, k, v, *captured) -> o, with example tensors.

    spec: what the function was lifted to, if that is known already (None: it is lifted here). A function that lift
    refuses is judged by running it. Without a function the spec is what is claimed.
    """
    if function is None and spec is None:
        raise UnsupportedSpec("a judge needs a function or a spec to judge by")
    return ProgramJudge(_claim(function, example, spec), limits)


def _claim(
    function: Callable[..., Any] | None, example: Sequence[torch.Tensor] | None, spec: AttentionSpec | None
) -> Claim:
    from ..compiled import Stages
    from ..specialisers import trace

    if spec is not None:
        return SpecClaim(Subject(spec, function, example))
    assert function is not None
    if example is None:
        raise UnsupportedSpec("a function without a spec is judged with example tensors (q, k, v, *captured)")
    try:
        return SpecClaim(trace(function, example, Stages()))
    except UnsupportedSpec:
        return FunctionClaim(function, tuple(example), getattr(function, "__name__", "the function"))
