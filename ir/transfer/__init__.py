"""Transfer: an expert's program and a spec -> a program that computes the spec the expert's way."""

from __future__ import annotations

from dataclasses import dataclass

from ..program import Program
from ..spec import AttentionSpec
from .packing import pack_operands
from .rules import transfer as transfer_semantics
from .tiling import retile, set_launch

__all__ = ["Orchestration", "pack_operands", "retile", "set_launch", "transfer", "transfer_semantics"]


@dataclass(frozen=True, slots=True)
class Orchestration:
    """What transfer changes of HOW: tiles (by tile variable), warps of a block, pipeline stages, packed operands."""

    tiles: tuple[tuple[str, int], ...] = ()
    warps: int | None = None
    stages: int = 1
    is_packed: bool = False


def transfer(reference: Program, spec: AttentionSpec, how: Orchestration | None = None) -> Program:
    """The reference's orchestration with the spec's semantics, adjusted by `how`.

    Raises ScheduleError when the reference lacks what a pass needs.
    """
    program = transfer_semantics(reference, spec)
    if how is None:
        return program
    program = retile(program, dict(how.tiles))
    program = set_launch(program, how.warps, how.stages)
    return pack_operands(program) if how.is_packed else program
