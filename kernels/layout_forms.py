"""Programs for sequences of any length: an expert program for the layout, tiles for the target."""

from __future__ import annotations

from dataclasses import replace

from ..ir.edit import name_bound
from ..ir.expr import Expr, Op, load, transform
from ..ir.program import Program, statements
from ..ir.spec import AttentionSpec
from ..ir.transfer import transfer
from ..lowering import TARGETS
from ..schedules.tuning import DECODE, SPLIT_PAGED, choose
from .compiled import Compiled, Stages, lower_program
from .references import reference_program

__all__ = ["compile_layout"]

# For few rows: heads that share keys are packed, keys are split, and read where they lie.
FEW_FORMS = {("flash_paged", "cpu"): "flash_decode_paged", ("flash_paged", "triton"): SPLIT_PAGED}


def compile_layout(
    spec: AttentionSpec, form: str, target: str, arch: str | None, few: bool, stages: Stages
) -> Compiled:
    """Spec -> program of the form -> source. Nothing is built yet. Raises LoweringError and ScheduleError."""
    arch = arch or TARGETS[target].default_arch()
    form = FEW_FORMS.get((form, target), form) if few else form
    how = choose(spec, target, arch, DECODE if few and target == "cpu" else form)
    reference = reference_program(form)
    with stages.stage("transfer"):
        program = transfer(reference, _without_clashes(spec, reference), how)
    return lower_program(program, target, arch, spec=spec, stages=stages)


def _without_clashes(spec: AttentionSpec, reference: Program) -> AttentionSpec:
    """The spec with captured tensors renamed whose names the expert program has for something else."""
    taken = {p.name for p in reference.params} | {r.name for r in reference.regions}
    taken |= {str(name_bound(s)) for s in statements(reference.body)}
    names = {t.name: f"captured_{t.name}" for t in spec.captured if t.name in taken}
    if not names:
        return spec

    def renamed(expr: Expr) -> Expr:
        return transform(expr, lambda e: load(names[str(e.attr)], e.args, e.kind) if _is_of(e, names) else None)

    def optional(expr: Expr | None) -> Expr | None:
        return None if expr is None else renamed(expr)

    rule = spec.normaliser
    normaliser = replace(
        rule, sink=optional(rule.sink), weight=optional(rule.weight), after=optional(rule.after)
    )
    captured = tuple(replace(t, name=names.get(t.name, t.name)) for t in spec.captured)
    return replace(
        spec, captured=captured, score=renamed(spec.score), keep=renamed(spec.keep), normaliser=normaliser
    )


def _is_of(expr: Expr, names: dict[str, str]) -> bool:
    return expr.op is Op.LOAD and str(expr.attr) in names
