"""The gradient of one captured tensor: a kernel for each of its terms, whose sums are added up in the terms' order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...ir.errors import LoweringError, ScheduleError, UnsupportedSpec
from ...ir.gradient import Backward, Term
from ...ir.printer import print_expr
from ...ir.program import Program, ScatterAdd, statements
from ...ir.spec import AttentionSpec
from ...ir.transfer import pack_operands, retile, set_launch
from ...ir.transfer.captured import PAIRS, form_of, transfer_captured
from ...ir.transfer.captured_places import OUT, Target, place_sums
from ...ir.transfer.captured_tables import gather_pairs
from ...lowering import TARGETS
from ...schedules.tuning import choose_backward
from ..arguments import bind_sizes
from ..compiled import Compiled, Stages, lower_program
from ..references import reference_program
from .gradient import Known, arguments

__all__ = ["CapturedKernel", "compile_captured", "compile_term"]


@dataclass(frozen=True, slots=True)
class CapturedKernel:
    """The compiled terms of backward.captured[tensor]; `position` is that tensor's among the captured ones."""

    spec: AttentionSpec
    position: int
    terms: tuple[Compiled, ...]

    def __call__(self, tensors: Sequence[torch.Tensor], known: Known) -> torch.Tensor:
        """The gradient, in new memory of the captured tensor's type and shape."""
        captured = tensors[3 + self.position]
        sizes = bind_sizes(self.spec.tensors, tensors)
        if not captured.numel() or 0 in (sizes["B"], sizes["Hq"], sizes["M"], sizes["N"]):
            return torch.zeros(captured.shape, dtype=captured.dtype, device=captured.device)
        total: torch.Tensor | None = None
        for term in self.terms:
            found = term.run(arguments(term, tensors, known), {**term.fixed, **sizes})[OUT]
            total = found if total is None else total.add_(found)
        assert total is not None
        return total.to(captured.dtype)


def compile_captured(
    backward: Backward, tensor: int, target: str, arch: str | None = None, *, stages: Stages | None = None
) -> CapturedKernel:
    """Backward of a spec -> the gradient of backward.captured[tensor], for one target. Nothing is built yet.

    Raises UnsupportedSpec for a term that the target has no way to add up.
    """
    gradient = backward.captured[tensor]
    numbers = range(len(gradient.terms))
    terms = tuple(compile_term(backward, (tensor, number), target, arch, stages=stages) for number in numbers)
    return CapturedKernel(backward.spec, backward.spec.captured.index(gradient.tensor), terms)


def compile_term(
    backward: Backward, place: tuple[int, int], target: str, arch: str | None = None, *, stages: Stages | None = None
) -> Compiled:
    """Term `place[1]` of backward.captured[place[0]] -> program -> source, for one target."""
    stages = stages or Stages()
    arch = arch or TARGETS[target].default_arch()
    gradient = backward.captured[place[0]]
    how = choose_backward(backward.spec, target, arch)
    with stages.stage("transfer"):
        program, renamed = transfer_captured(reference_program(form_of(gradient.terms[place[1]])), backward, *place)
        known = renamed.captured[place[0]]
        sums = set_launch(retile(program, _tiles(program, dict(how.tiles))), how.warps, how.stages)
        where = Target(known.tensor, known.terms[place[1]])
        program = place_sums(sums, where)
        program = pack_operands(program) if how.is_packed else program
    try:
        return lower_program(program, target, arch, spec=renamed.spec, stages=stages)
    except LoweringError as error:
        if not _scatters(program):
            raise
        refusal = _refusal(gradient.tensor.name, gradient.terms[place[1]], target)
        if form_of(where.term) != PAIRS:
            raise refusal from error
    try:
        with stages.stage("transfer"):
            program = gather_pairs(sums, where)
        return lower_program(program, target, arch, spec=renamed.spec, stages=stages)
    except ScheduleError as error:
        raise refusal from error


def _tiles(program: Program, wanted: dict[str, int]) -> dict[str, int]:
    """The tiles of those variables that a program has."""
    from ...ir.shapes import infer

    known = infer(program).tiles
    return {name: size for name, size in wanted.items() if name in known}


def _scatters(program: Program) -> bool:
    return any(isinstance(s, ScatterAdd) for s in statements(program.body))


def _refusal(name: str, term: Term, target: str) -> UnsupportedSpec:
    place = ", ".join(print_expr(index) for index in term.indices)
    return UnsupportedSpec(
        f"the gradient of captured tensor {name}: {name}[{place}] is read at computed places, where several pairs "
        f"meet; target {target} has no scatter_add",
        hint=f"pass {name}.detach(), or compile for the cpu target",
    )
