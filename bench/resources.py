"""Suite `resources`: what generated Triton kernels cost on each architecture, cross-compiled on any machine.

Dense kernels of every variant; those for decoding, ragged and paged sequences, and backward, of the first ones.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import torch

from ..ir.errors import TilewrightError
from ..ir.gradient import differentiate
from ..ir.spec import AttentionSpec
from ..ir.transfer import retile
from ..ir.transfer.backward import transfer_backward
from ..kernels.compiled import compile_spec
from ..kernels.references import reference_program
from ..schedules.backward_tuning import backward_tiles
from ..schedules.tuning import DENSE, SPLIT, SPLIT_PAGED
from .cases import Case
from .forward import case_of
from .implementations import TILEWRIGHT
from .measure import Session
from .rows import Row

__all__ = ["ARCHITECTURES", "resource_cases", "resources"]

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
HEAD_DIMS = (64, 128)
VARIANTS = ("full", "causal", "window", "softcap", "alibi", "documents")
FORMS = (SPLIT, SPLIT_PAGED, "flash_ragged", "flash_paged")  # beside the dense one
FORM_VARIANTS = ("full", "causal")
BACKWARD_FORMS = ("flash_backward", "flash_backward_split")
HELD_TO_NO_SPILLS = 64  # head dim of backward kernels; wider ones tell the bytes that they spill
LENGTH = 128  # of the example tensors; kernels are the same for every length


def resource_cases() -> list[Case]:
    """Every variant of suite `forward` in bfloat16 at both head dims."""
    return [case_of(variant, "bf16", (1, 8, LENGTH), head_dim) for variant in VARIANTS for head_dim in HEAD_DIMS]


def resources(session: Session) -> list[Row]:
    """A row per case and architecture; extra: registers, spills, shared_bytes, tensor_core_instructions, …"""
    return [row for case in resource_cases() for row in _rows(session, case)]


def _rows(session: Session, case: Case) -> list[Row]:
    from ..ir.lift import lift

    session.say(f"resources: {case}")
    spec = lift(case.variant.spec, case.inputs(torch.device("cpu")).tensors)
    rows = []
    forms = (DENSE, *FORMS, *BACKWARD_FORMS) if case.variant.name in FORM_VARIANTS else (DENSE,)
    for form, arch in itertools.product(forms, ARCHITECTURES):
        prefix = "" if form == DENSE else f"{form.removeprefix('flash_').replace('_', '-')}-"
        name = f"{prefix}{case.variant.name}-D{case.shape.D}-{case.dtype}-{arch}"
        row = replace(session.row("resources", name, TILEWRIGHT, dtype=case.dtype), target="triton")
        try:
            rows.append(replace(row, extra=_compiled(spec, arch, form)))
        except TilewrightError as error:
            rows.append(replace(row, error=str(error)))
    return rows


def _compiled(spec: AttentionSpec, arch: str, form: str) -> dict[str, float]:
    from ..lowering.triton.report import compile_report

    if form in BACKWARD_FORMS:
        return _compiled_backward(spec, arch, form)
    program = compile_spec(spec, "triton", arch, form=form).program
    (report,) = compile_report(program, arch)
    names = ("registers", "spills", "shared_bytes", "tensor_core_instructions", "warps", "stages")
    return {name: getattr(report, name) for name in names}


def _compiled_backward(spec: AttentionSpec, arch: str, form: str) -> dict[str, float]:
    """The most that any of the form's kernels takes, and the fewest tensor-core instructions of those with products."""
    from ..lowering.triton.report import compile_report

    width = max(spec.head_dim, spec.value_dim)
    rows, columns = backward_tiles(spec.dtype, width, arch, form)
    program = transfer_backward(reference_program(form), differentiate(spec))
    reports = compile_report(retile(program, {"m": rows, "n": columns}), arch)
    products = [report for report in reports if report.tensor_core_instructions]
    most = ("registers", "spills", "spill_bytes", "shared_bytes", "warps", "stages")
    found = {name: max(getattr(report, name) for report in products) for name in most}
    if width > HELD_TO_NO_SPILLS:
        del found["spills"]
    fewest = min(report.tensor_core_instructions for report in products)
    return {**found, "rows": rows, "columns": columns, "tensor_core_instructions": fewest}
