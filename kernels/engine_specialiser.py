"""Compiled forms whose programs language models wrote: made once per signature, judged, built, verified as built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..ir.errors import DTypeError, ScheduleError, ShapeError, TilewrightError, UnsupportedSpec, VerificationError
from ..ir.evaluate import Array
from ..ir.interpreter import interpret
from ..ir.program import Program
from ..ir.spec import AttentionSpec
from ..ir.transfer import retile, set_launch
from ..ir.transfer.engine import Transferred
from ..ir.transfer.models import ModelEngine
from ..lowering import TARGETS
from ..schedules.tuning import choose
from .arguments import DEVICES, Signature, bind_sizes, signature_of
from .candidates import KernelJudge, as_run, cost_on
from .compiled import Compiled, Stages, lower_program
from .dtypes import as_array
from .engines import Question, question_of, task_of
from .gradients.gradients import Gradients
from .judging.judge import ProgramJudge
from .kernel import Specialiser
from .machine import runs_here
from .options import Options
from .references import reference_program
from .report import CaseResult, Report
from .specialisers import FunctionSpecialiser, SpecSpecialiser, check_fits
from .verification import Subject, verify_compiled

__all__ = ["AutoSpecialiser", "ModelSpecialiser"]


@dataclass
class Form:
    """One kernel, what it computes, and the signature of the tensors that it was made with."""

    compiled: Compiled
    question: Question
    target: str
    signature: Signature
    gradients: Gradients | None = None

    def fits(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether it serves these tensors, whatever their lengths."""
        try:
            if self.question.spec is not None:
                check_fits(self.question.spec, tensors)
            bind_sizes(self.compiled.inputs, tensors)
        except (ShapeError, DTypeError):
            return False
        return replace(signature_of(tensors), captured=()) == replace(self.signature, captured=())


class ModelSpecialiser:
    """Asks models for the program of a function or spec, once for all tensors that a form fits, on each target."""

    def __init__(self, what: Callable[..., Any] | AttentionSpec, options: Options) -> None:
        self._what = what
        self._options = options
        self._table: dict[str, list[Form]] = {}

    def specialise(self, tensors: Sequence[torch.Tensor]) -> Compiled:
        """The compiled form for these tensors."""
        return self._form(tensors).compiled

    def gradients(self, tensors: Sequence[torch.Tensor]) -> Gradients:
        """What differentiates the form: its spec's derivative."""
        form = self._form(tensors)
        if form.gradients is None:
            form.gradients = self._gradients(form, tensors)
        return form.gradients

    def _form(self, tensors: Sequence[torch.Tensor]) -> Form:
        target = self._options.resolve_target(tensors[0].device.type)
        forms = self._table.setdefault(target, [])
        found = next((form for form in forms if form.fits(tensors)), None)
        if found is None:
            found = self._make(tensors, target)
            forms.append(found)
        return found

    def _make(self, tensors: Sequence[torch.Tensor], target: str) -> Form:
        stages, options = Stages(), self._options
        question = question_of(self._what, tensors, stages)
        if question.spec is None and options.backward:
            raise UnsupportedSpec(
                f"backward=True needs a function that can be lifted, and {question.name} cannot: {question.refusal}",
                hint="compile it without backward=True; its forward may still be made by engine 'llm'",
            )
        arch = options.arch or TARGETS[target].default_arch()
        inner = ProgramJudge(question.claim)
        judge = KernelJudge(inner, question.tensors, question.has_lse, target, arch)
        assert options.engine_settings is not None
        engine = ModelEngine(options.engine_settings, cost_on(target, arch, tensors))
        with stages.stage("transfer"):
            program = options.source or expert(question.spec, target, arch, options.reference)
            made = engine.transfer(task_of(question, program, judge))
        compiled = lower_program(as_run(made.program, target), target, arch, spec=question.spec, stages=stages)
        if options.verify:
            with stages.stage("verify"):
                compiled.report = with_notes(self._report(compiled, question, inner, tensors), made)
            if not compiled.report.verified:
                raise VerificationError(f"{question.name} for {target}: {compiled.report}")
        return Form(compiled, question, target, signature_of(tensors))

    def _report(
        self, compiled: Compiled, question: Question, judge: ProgramJudge, tensors: Sequence[torch.Tensor]
    ) -> Report:
        """As built, against the function; in the interpreter where the target does not run here."""
        is_built = runs_here(compiled.lowered.target)
        if question.spec is not None and is_built:
            return verify_compiled(compiled, self._subject(question.spec, tensors))
        return on_cases(compiled, judge, is_built=is_built)

    def _subject(self, spec: AttentionSpec, tensors: Sequence[torch.Tensor]) -> Subject:
        if isinstance(self._what, AttentionSpec):
            return Subject(spec)
        return Subject(spec, self._what, tuple(tensor.detach() for tensor in tensors))

    def _gradients(self, form: Form, tensors: Sequence[torch.Tensor]) -> Gradients:
        spec = form.question.spec
        if spec is None:
            raise UnsupportedSpec(
                f"{form.question.name} has no gradients: it cannot be lifted; {form.question.refusal}"
            )
        return Gradients(self._subject(spec, tensors), form.target, self._options, lambda _: form.compiled)


class AutoSpecialiser:
    """The rules' forms; models' where the rules refuse the function."""

    def __init__(self, what: Callable[..., Any] | AttentionSpec, options: Options) -> None:
        is_spec = isinstance(what, AttentionSpec)
        self._rules: Specialiser = SpecSpecialiser(what, options) if is_spec else FunctionSpecialiser(what, options)  # type: ignore[arg-type]
        self._models = ModelSpecialiser(what, options)
        self._refused: dict[Signature, str] = {}
        self._is_foreign = bool(options.source)

    def specialise(self, tensors: Sequence[torch.Tensor]) -> Compiled:
        """By rules, by models for what the rules refuse; the report says which."""
        signature = signature_of(tensors)
        if self._is_foreign:
            self._refused.setdefault(signature, "they do not read source in another language")
        if signature not in self._refused:
            try:
                compiled = self._rules.specialise(tensors)
            except (ScheduleError, UnsupportedSpec) as refusal:
                self._refused[signature] = f"{type(refusal).__name__}: {refusal}"
            else:
                return noted(compiled, "program by engine rules")
        compiled = self._models.specialise(tensors)
        return noted(compiled, f"the rules refused: {self._refused[signature]}")

    def gradients(self, tensors: Sequence[torch.Tensor]) -> Gradients:
        """Of whichever engine's form serves these tensors."""
        self.specialise(tensors)
        refused = signature_of(tensors) in self._refused
        return (self._models if refused else self._rules).gradients(tensors)


def expert(spec: AttentionSpec | None, target: str, arch: str, reference: Program | None = None) -> Program:
    """The expert's forward program: the one given, or ours in the tiles of the target."""
    program = reference or reference_program()
    if spec is None or reference is not None:
        return program
    how = choose(spec, target, arch)
    return set_launch(retile(program, dict(how.tiles)), how.warps, how.stages)


def with_notes(report: Report, made: Transferred) -> Report:
    """A report that says who wrote the program, and where the transcript is."""
    kept = [] if made.transcript is None else [f"transcript: {made.transcript}"]
    return replace(report, notes=(*report.notes, f"program by engine {made.engine}", *made.notes, *kept))


def noted(compiled: Compiled, note: str) -> Compiled:
    """The same form, its report with one more note."""
    if compiled.report is not None and note not in compiled.report.notes:
        compiled.report = replace(compiled.report, notes=(*compiled.report.notes, note))
    return compiled


def on_cases(compiled: Compiled, judge: ProgramJudge, *, is_built: bool) -> Report:
    """A kernel on the cases of its judge, as built or in the interpreter."""
    rows = []
    for inputs in judge.cases:
        truths = judge.expect(inputs)
        try:
            got = _built(compiled, inputs.tensors) if is_built else _meant(compiled.program, inputs.tensors)
        except TilewrightError as error:
            rows.append(CaseResult(inputs.name, error=float("inf"), note=str(error).splitlines()[0]))
            continue
        for output, values in got.items():
            if output in truths:
                truth = truths[output]
                rows.append(CaseResult(inputs.name, output, truth.error(values), truth.budget))
    return Report(tuple(rows), method="built kernel" if is_built else "program in the interpreter")


def _built(compiled: Compiled, tensors: Sequence[torch.Tensor]) -> Mapping[str, Array]:
    moved = [tensor.to(DEVICES[compiled.lowered.target]) for tensor in tensors]
    sizes = {**compiled.fixed, **bind_sizes(compiled.inputs, moved)}
    return {name: as_array(out.double()) for name, out in compiled.run(moved, sizes).items()}


def _meant(program: Program, tensors: Sequence[torch.Tensor]) -> Mapping[str, Array]:
    names = [param.name for param in program.params if not param.is_output]
    arguments = {name: as_array(tensor) for name, tensor in zip(names, tensors, strict=True)}
    return {name: np.asarray(values, np.float64) for name, values in interpret(program, arguments).items()}
