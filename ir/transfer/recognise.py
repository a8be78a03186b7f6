"""Recognise: what a foreign program computes, and the canonical program that computes it the same way.

A program is foreign when it has no regions `score` and `keep` that transfer could replace: lifted from somebody's
kernel, written by hand or by a model. It is understood by data flow (package `recognition`), never by its names, and
refused with the line that stopped it where it cannot be.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..program import Fill, Gemm, Let, Load, Program, TileLoop, statements
from ..spec import AttentionSpec, NormaliserKind
from ..verify import verify
from .recognition.coordinates import Places
from .recognition.emit import Emitter
from .recognition.specify import understand
from .recognition.walk import Walker
from .rules import transfer
from .scratch import forward_scratch

__all__ = ["Recognised", "is_reference", "recognise"]


@dataclass(frozen=True, slots=True)
class Recognised:
    """`program` computes `spec` the expert's way. `reference`: the same orchestration, for transfer to start from.

    places: where batches, heads and rows stand in the foreign program's tensors. notes: what was understood that is not
    in the spec, one sentence each.
    """

    program: Program
    spec: AttentionSpec
    reference: Program
    places: Places
    notes: tuple[str, ...] = ()


def has_regions(program: Program) -> bool:
    """Whether a program's score and mask are regions, and its loops visit the mask's domain."""
    names = {region.name for region in program.regions}
    loops = [s for s in statements(program.body) if isinstance(s, TileLoop) and s.where is not None]
    return {"score", "keep"} <= names and bool(loops)


def is_reference(program: Program) -> bool:
    """Whether transfer's passes know their way about a program: its regions, a softmax by the names they look for."""
    bound = {s.name for s in statements(program.body) if isinstance(s, (Let, Fill, Gemm, Load))}
    params = {param.name for param in program.params}
    return has_regions(program) and {"x", "p", "peak", "mass", "share"} <= bound and {"q", "k", "v", "o"} <= params


def recognise(program: Program) -> Recognised:
    """What a forward program computes, and its canonical form.

    A canonical program is returned as it is. Raises ScheduleError, naming the line and what was expected there, for
    what is not understood or does not compute attention; ProgramError for a program that is not valid.
    """
    verify(program)
    program = forward_scratch(program)
    walker = Walker(program)
    walker.run()
    understood = understand(walker)
    spec = understood.spec
    if is_reference(program) and spec.normaliser.kind is NormaliserKind.SOFTMAX:
        return Recognised(program, spec, program, understood.places, tuple(understood.notes))
    emitter = Emitter(understood)
    reference = emitter.program()
    verify(reference)
    notes = tuple(dict.fromkeys([*understood.notes, *emitter.notes]))
    done = program if has_regions(program) else transfer(reference, spec)
    return Recognised(done, spec, reference, understood.places, notes)
