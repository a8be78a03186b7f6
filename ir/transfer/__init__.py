"""Transfer: an expert's program and a spec -> a program that computes the spec the expert's way."""

from __future__ import annotations

from dataclasses import dataclass

from ..program import Program
from ..spec import AttentionSpec
from .packing import pack_operands
from .recognise import Recognised, is_reference, recognise
from .rules import transfer as transfer_semantics
from .tiling import join_parts, retile, set_launch

__all__ = [
    "Orchestration", "Recognised", "join_parts", "pack_operands", "recognise", "retile", "set_launch", "transfer",
    "transfer_semantics",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Orchestration:
    """What transfer changes of HOW: tiles (by tile variable), warps of a block, pipeline stages, packed operands.

    is_joined: a mask's whole and masked tiles are visited in one order, for targets that tell them apart themselves.
    """

    tiles: tuple[tuple[str, int], ...] = ()
    warps: int | None = None
    stages: int = 1
    is_packed: bool = False
    is_joined: bool = False


def transfer(reference: Program, spec: AttentionSpec, how: Orchestration | None = None) -> Program:
    """The reference's orchestration with the spec's semantics, adjusted by `how`.

    A reference in other words than ours (lifted, hand-written) is recognised first. Raises ScheduleError when it is not
    understood, or lacks what a pass needs.
    """
    if not is_reference(reference):
        reference = recognise(reference).reference
    program = transfer_semantics(reference, spec)
    if how is None:
        return program
    program = join_parts(program) if how.is_joined else program
    program = retile(program, dict(how.tiles))
    program = set_launch(program, how.warps, how.stages)
    return pack_operands(program) if how.is_packed else program
