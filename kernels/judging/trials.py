"""The list of inputs that every candidate is tried on, and a few more around what one candidate's own text says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...ir.edit import expressions
from ...ir.expr import Op, walk
from ...ir.program import Program, statements
from ..cases import Case, tile_sizes
from ..oracle import Truth
from .claims import Claim
from .inputs import Inputs
from .words import Words

__all__ = ["Trial", "own_inputs", "shared_inputs"]

SHARED = (
    Case(1, 1, 1, 1),
    Case(1, 1, 17, 65),
    Case(2, 2, 33, 33),
    Case(1, 2, 65, 129),
    Case(2, 1, 65, 65),
    Case(1, 1, 40, 40, content="indicator"),
    Case(1, 1, 131, 131, content="masked_rows"),
    Case(1, 1, 40, 17),
    Case(1, 1, 90, 90, content="rising"),
    Case(1, 1, 40, 40, content="sunken"),
    Case(1, 1, 65, 65, content="large"),
    Case(1, 1, 17, 0),
)
LONGEST = 131  # what the list above reaches
MOST_LENGTH = 1100  # of a case made for a constant
MOST_OWN = 3
SQUARE = 300  # longer ones of a candidate's own have few rows
FEW_ROWS = 9


@dataclass(slots=True)
class Trial:
    """One case: its inputs, what should come out, and the words of what came out."""

    inputs: Inputs
    truths: Mapping[str, Truth]
    words: Words = field(default_factory=Words)


def shared_inputs(claim: Claim) -> list[Inputs]:
    """The same for every candidate, so that their signatures can be compared; constants of the function are crossed."""
    crossed = [c + 3 for c in claim.constants if LONGEST <= c + 3 <= MOST_LENGTH]
    lengths = sorted({crossed[0], crossed[-1]}) if crossed else []
    cases = [*SHARED, *claim.own, *(Case(1, 1, length, length) for length in lengths)]
    return _drawn(claim, cases, [])


def own_inputs(claim: Claim, program: Program, shared: list[Inputs]) -> list[Inputs]:
    """Around tiles that are larger than the shared list knows, and around constants that the function does not have."""
    m, n = tile_sizes(program)
    cases = []
    if max(m, n) > 64:
        cases += [Case(1, 1, min(m + 1, MOST_LENGTH), min(2 * n + 1, MOST_LENGTH))]
    found = {node.attr for s in statements(program.body) for e in expressions(s) for node in walk(e)
             if node.op is Op.CONST}  # fmt: skip
    found |= {node.attr for region in program.regions for node in walk(region.body) if node.op is Op.CONST}
    foreign = {c + 3 for c in found if type(c) is int} - {c + 3 for c in claim.constants}
    lengths = sorted(length for length in foreign if LONGEST <= length <= MOST_LENGTH)
    cases += [Case(1, 1, length if length <= SQUARE else FEW_ROWS, length) for length in lengths[-MOST_OWN:]]
    return _drawn(claim, cases, shared)


def _drawn(claim: Claim, cases: list[Case], known: list[Inputs]) -> list[Inputs]:
    """Each case that the claim allows once."""
    names = {inputs.name for inputs in known}
    drawn: dict[str, Inputs] = {}
    for case in cases:
        inputs = claim.draw(case)
        if inputs.name not in names and claim.allows(inputs):
            drawn.setdefault(inputs.name, inputs)
    return list(drawn.values())
