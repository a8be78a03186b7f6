"""Transfer by a named engine: a function and an expert's program become a task, with a judge of what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..ir.errors import ScheduleError, SettingError, UnsupportedSpec
from ..ir.lift.arguments import check_arguments
from ..ir.lift.torch_function import identifier
from ..ir.printer import print_spec
from ..ir.program import Program
from ..ir.spec import AttentionSpec, NormaliserKind, TensorSpec
from ..ir.transfer.engine import Engine, Judge, Task, Transferred
from ..ir.transfer.models import AutoEngine, EngineSettings, ModelEngine, RulesEngine
from ..ir.transfer.rules import bind_tensors
from .candidates import KernelJudge, cost_on
from .compiled import Stages
from .function_text import text_of
from .judging.claims import Claim, SpecClaim
from .judging.functions import FunctionClaim
from .judging.judge import ProgramJudge
from .options import ENGINES
from .specialisers import trace
from .verification import Subject

__all__ = ["ENGINES", "EngineSettings", "Question", "question_of", "transfer_with_engine"]


@dataclass(frozen=True)
class Question:
    """What is to be computed: `spec`, or None where the lift refused for `refusal`; `claim`, which judges ask."""

    name: str
    text: str
    claim: Claim
    tensors: tuple[TensorSpec, ...]
    sizes: dict[str, int]
    spec: AttentionSpec | None = None
    refusal: str = ""

    @property
    def has_lse(self) -> bool:
        """Whether a kernel of it must have a log-sum-exp."""
        return self.spec is not None and self.spec.normaliser.kind is NormaliserKind.SOFTMAX


def transfer_with_engine(  # noqa: PLR0913 - what a command line says
    reference: Program | str,
    spec: Callable[..., Any] | AttentionSpec,
    example: Sequence[torch.Tensor] | None = None,
    engine: str = "llm",
    settings: EngineSettings | None = None,
    *,
    target: str | None = None,
    arch: str | None = None,
) -> Transferred:
    """A verified program for a function, after an expert's program or after foreign source text (CUDA C++).

    spec: the function, with example tensors (q, k, v, *captured), or an AttentionSpec. engine: one of ENGINES. target:
    what the program must lower to, and be ranked on where it runs here; None: the interpreter is enough.

    Raises SettingError for what cannot be asked, ScheduleError or UnsupportedSpec for what the rules cannot do,
    TransferFailed where no candidate was accepted.
    """
    question = question_of(spec, example, must_lift=engine == "rules")
    rank = cost_on(target, arch, example) if target is not None and example is not None else None
    judge = KernelJudge(ProgramJudge(question.claim), question.tensors, question.has_lse, target, arch)
    return engine_named(engine, settings, rank).transfer(task_of(question, reference, judge))


def engine_named(name: str, settings: EngineSettings | None, rank: Callable[[Program], float] | None) -> Engine:
    """The engine. SettingError for a name that is none."""
    if name not in ENGINES:
        raise SettingError(f"engine {name!r}: wanted one of {', '.join(ENGINES)}")
    if name == "rules":
        return RulesEngine(is_judged=False)
    models = ModelEngine(settings or EngineSettings.of(), rank)
    return models if name == "llm" else AutoEngine(RulesEngine(), models)


def question_of(
    spec: Callable[..., Any] | AttentionSpec,
    example: Sequence[torch.Tensor] | None,
    stages: Stages | None = None,
    *,
    must_lift: bool = False,
) -> Question:
    """The question that a function or a spec is. A function that the lift refuses is judged by its own results.

    must_lift: raise what the lift raises.
    """
    if isinstance(spec, AttentionSpec):
        return _lifted(Subject(spec), print_spec(spec))
    if example is None:
        raise UnsupportedSpec("a function needs example tensors (q, k, v, *captured)")
    text = text_of(spec)
    try:
        subject = trace(spec, example, stages or Stages())
    except UnsupportedSpec as refusal:
        if must_lift or not text:
            raise
        name = identifier(str(getattr(spec, "__name__", type(spec).__name__)))
        claim, sizes = FunctionClaim(spec, tuple(example), name), {"D": example[0].shape[3], "Dv": example[2].shape[3]}
        names = check_arguments(spec, example).names
        tensors = tuple(replace(one, name=given) for one, given in zip(claim.tensors, names, strict=True))
        return Question(name, text, claim, tensors, sizes, refusal=str(refusal))
    return _lifted(subject, text or print_spec(subject.spec))


def _lifted(subject: Subject, text: str) -> Question:
    spec = subject.spec
    sizes = {"D": spec.head_dim, "Dv": spec.value_dim}
    return Question(spec.name, text, SpecClaim(subject), spec.tensors, sizes, spec)


def task_of(question: Question, reference: Program | str, judge: Judge) -> Task:
    """The task of a question and a reference. ShapeError and DTypeError for tensors that no program takes."""
    return Task(
        name=question.name,
        tensors=question.tensors,
        function=question.text,
        judge=judge,
        spec=question.spec,
        refusal=question.refusal,
        reference=None if isinstance(reference, str) else fitted(reference, question),
        source=reference if isinstance(reference, str) else "",
        sizes=question.sizes,
    )


def fitted(reference: Program, question: Question) -> Program:
    """An expert's program with the question's element type, D and Dv; as it is where it has other parameters."""
    sizes = question.sizes
    plain = AttentionSpec(reference.name, question.tensors[0].dtype, sizes["D"], sizes["Dv"])
    try:
        return bind_tensors(reference, plain)
    except ScheduleError:
        return reference
