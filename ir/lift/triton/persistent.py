"""Persistent grids: a few instances that take tiles p, p + P, p + 2 P, … become one instance for each tile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...expr import Expr, Op, const, var
from .poly import added, scaled

if TYPE_CHECKING:
    from .reader import Reader
    from .text import Operation

THROUGH = ("arith.extsi", "arith.trunci", "arith.index_cast")


def taken_apart(reader: Reader, operation: Operation) -> bool:
    """Read a loop over the tiles of an instance as the body of one instance for each; False where it is no such loop.

    rewrite:
        p = program_id(0)                                  p = program_id(0), of T
        for t in range(p, T, num_programs(0)):      ->     body of t = p
            body
    needs: nothing else reads the instance's number, and the loop carries nothing but t.
    """
    counter, low, high, step, *pairs = operation.operands
    formal, initial = pairs[0::2], pairs[1::2][: len(pairs[0::2])]
    bounds = [reader.value(name).expr for name in (low, high, step)]
    if not formal:
        program, number, total = _program(reader, bounds[0]), low, bounds[1]
        is_stride = program is not None and _same(reader, bounds[2], reader.integers.extents[program])
        tile = counter
    elif len(formal) == 1 and bounds[0] is const(0) and bounds[2] is const(1):
        program, number, tile = _program(reader, reader.value(initial[0]).expr), initial[0], formal[0]
        found = None if program is None else _share(reader, bounds[1], program)
        is_stride = found is not None and _goes_up(reader, operation, tile, program or "")
        total = bounds[1] if found is None else found
    else:
        return False
    if program is None or not is_stride or not _is_all(reader, program, number, operation):
        return False
    reader.integers.extents[program] = total
    reader.values[tile] = reader.value(number)
    if tile is not counter:
        reader.values[counter] = reader.value(low)
    for inner in operation.regions[0][0].operations:
        if inner.name != "scf.yield":
            reader.operation(inner)
    reader.note(f"instances take tiles in turns at {reader.function.places.line(operation.place)}: the program has an "
                "instance for each tile")  # fmt: skip
    return True


def _program(reader: Reader, expr: Expr) -> str | None:
    """The grid's number that an expression is, whole and not yet divided."""
    name = str(expr.attr) if expr.op is Op.VAR else ""
    return name if name in reader.programs and name not in reader.integers.meaning else None


def _same(reader: Reader, a: Expr, b: Expr) -> bool:
    return reader.integers.poly(a) == reader.integers.poly(b)


def _share(reader: Reader, count: Expr, program: str) -> Expr | None:
    """T where a count is T // P, and one more for the first T % P instances."""
    if count.op is not Op.SELECT or count.args[0].op is not Op.LT or count.args[0].args[0] is not var(program):
        return None
    rest, fewer, instances = count.args[0].args[1], count.args[2], reader.integers.extents[program]
    difference = added(reader.integers.poly(count.args[1]), scaled(reader.integers.poly(fewer), -1))
    is_quotient = fewer.op is Op.FLOORDIV and rest.op is Op.MOD and difference == {(): 1}
    if not is_quotient or fewer.args[0] is not rest.args[0]:
        return None
    return fewer.args[0] if all(_same(reader, e.args[1], instances) for e in (fewer, rest)) else None


def _goes_up(reader: Reader, operation: Operation, tile: str, program: str) -> bool:
    """Whether a loop yields its one number with the number of instances added."""
    (result,) = operation.regions[0][0].operations[-1].operands
    maker = reader.uses.makers.get(result)
    if maker is None or maker.name != "arith.addi" or tile not in maker.operands:
        return False
    (other,) = [name for name in maker.operands if name != tile] or [tile]
    return other in reader.values and _same(reader, reader.value(other).expr, reader.integers.extents[program])


def _is_all(reader: Reader, program: str, number: str, operation: Operation) -> bool:
    """Whether the instance's number is read by this loop alone, or by what counts its tiles."""
    seen = [name for name, value in reader.values.items() if value.expr is var(program) and value.base is None]
    for name in seen:
        for user, _, _ in reader.uses.users.get(name, ()):
            is_count = user.name == "arith.cmpi" and _counts(reader, user, operation)
            if user is not operation and user.name not in THROUGH and not is_count:
                return False
    return number in seen


def _counts(reader: Reader, comparison: Operation, operation: Operation) -> bool:
    """Whether a comparison is for the count of a loop's tiles: `if pid < T % P: count += 1`."""
    users = reader.uses.users.get(comparison.results[0], ())
    ends = {operation.operands[2]}
    return all(user.name in ("arith.select", "scf.if") and ends & set(user.results) for user, _, _ in users)
