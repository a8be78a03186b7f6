"""`while s < end: …; s += step` as a counted loop, which it is."""

from __future__ import annotations

from .text import Block, Operation


def counted(blocks: list[Block]) -> None:
    """Write every scf.while that counts as scf.for, in all regions.

    rewrite:
        scf.while (%s = %low, %x = %x0) {                   scf.for %s = %low to %end step %step iter_args(%x = %x0)
            %c = arith.cmpi slt, %s, %end                   {
            scf.condition(%c) %s, %x                 ->         …
        } do { …; scf.yield %s + %step, %new }                  scf.yield %new }
    needs: the end and the step are the same in every step.
    """
    for block in blocks:
        for position, operation in enumerate(block.operations):
            for region in operation.regions:
                counted(region)
            if operation.name == "scf.while":
                block.operations[position] = _as_for(operation) or operation


def _as_for(operation: Operation) -> Operation | None:
    if len(operation.regions) != 2 or any(len(region) != 1 for region in operation.regions):
        return None
    (test,), (body,) = operation.regions
    formal, initial = operation.operands[0::2], operation.operands[1::2]
    if len(test.operations) != 2 or len(initial) != len(formal) or len(body.arguments) != len(formal):
        return None
    comparison, condition = test.operations
    plain = comparison.name == "arith.cmpi" and comparison.words[0] == "slt" and comparison.operands[0] in formal
    if not plain or condition.operands[1:] != formal or comparison.operands[1] in formal:
        return None
    at = formal.index(comparison.operands[0])
    names, last = [name for name, _ in body.arguments], body.operations[-1]
    step = _step(body, names[at], last.operands[at])
    if step is None:
        return None
    others = [n for n in range(len(formal)) if n != at]
    carried = [name for n in others for name in (names[n], initial[n])]
    yields = [last.operands[n] for n in others]
    closing = Operation("scf.yield", [], yields, list(yields), [last.types[n] for n in others], [], last.place)
    inner = Block("", [], [*body.operations[:-1], closing])
    operands = [names[at], initial[at], comparison.operands[1], step, *carried]
    results = [operation.results[n] for n in others]
    return Operation("scf.for", results, operands, list(operands), [], [[inner]], operation.place)


def _step(body: Block, counter: str, following: str) -> str | None:
    """What a step adds to the counter, made before the loop."""
    made = {result: op for op in body.operations for result in op.results}
    maker = made.get(following)
    if maker is None or maker.name != "arith.addi" or counter not in maker.operands:
        return None
    others = [name for name in maker.operands if name != counter]
    return others[0] if len(others) == 1 and others[0] not in made else None
