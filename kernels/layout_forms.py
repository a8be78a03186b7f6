"""Programs for sequences of any length: an expert program for the layout, tiles for the target."""

from __future__ import annotations

from ..ir.spec import AttentionSpec
from ..ir.transfer import Orchestration, transfer
from ..lowering import TARGETS
from ..schedules.tuning import choose
from .compiled import Compiled, Stages, lower_program
from .references import reference_program

__all__ = ["compile_layout"]

FEW_TILES = (("m", 16), ("n", 128))  # few rows: keys are read where they lie, in no packed copy


def compile_layout(
    spec: AttentionSpec, form: str, target: str, arch: str | None, few: bool, stages: Stages
) -> Compiled:
    """Spec -> program of the form -> source. Nothing is built yet. Raises LoweringError and ScheduleError."""
    arch = arch or TARGETS[target].default_arch()
    how = Orchestration(FEW_TILES) if few else choose(spec, target, arch)
    with stages.stage("transfer"):
        program = transfer(reference_program(form), spec, how)
    return lower_program(program, target, arch, spec=spec, stages=stages)
