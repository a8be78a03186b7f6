"""Loads ahead by hand: a loop carries the tile that the step before has loaded; each step loads its own instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...expr import Expr, Op, const, free_vars, substitute, var
from .naming import source_name
from .values import Access, Value

if TYPE_CHECKING:
    from .reader import Reader
    from .text import Operation


@dataclass(slots=True)
class Ahead:
    """A tile that a loop carries: the load before the loop, the one in it, and the load that stands for both.

    `choice`: the scf.if that the load is in, where the last step loads nothing.
    """

    first: Operation
    following: Operation
    access: Access
    value: Value
    choice: Operation | None = None


def loads_ahead(reader: Reader, operation: Operation, formal: list[str], initial: list[str]) -> dict[str, Ahead]:
    """Carried tiles by their names in the loop's body: loaded before the loop, and again for the next step."""
    block = operation.regions[0][0]
    last = block.operations[-1]
    found: dict[str, Ahead] = {}
    if last.name != "scf.yield" or len(last.operands) != len(formal) or _writes(block.operations):
        return found
    for position, (inner, outer, new) in enumerate(zip(formal, initial, last.operands, strict=True)):
        first, (following, choice) = reader.uses.makers.get(outer), _made(reader, new, block.operations)
        if first is None or following is None or first.name != "tt.load":
            continue
        is_apart = len(reader.uses.users[new]) == 1 and len(reader.uses.users[outer]) == 1
        old = reader.value(outer)
        if not is_apart or reader.uses.users.get(operation.results[position]) or not old.is_data or not old.shape:
            continue
        name = reader.names.fresh(source_name(reader.function, following))
        axes = reader.axes.of_shape(old.shape)
        reader.rank[name] = sum(width > 1 for width in old.shape)
        reader.loaded[name] = old.element
        access = Access("load", "", const(0), axes, None, old.element, None, name)
        value = Value(old.shape, old.element, var(name, old.expr.kind), axes)
        found[inner] = Ahead(first, following, access, value, choice)
    return _whole_choices(found)


def _made(reader: Reader, name: str, body: list[Operation]) -> tuple[Operation | None, Operation | None]:
    """The load that makes a value, in a loop's body or in the first branch of a choice there, and the choice."""
    maker = reader.uses.makers.get(name)
    if maker is None or maker not in body:
        return None, None
    if maker.name == "tt.load":
        return maker, None
    if maker.name != "scf.if" or len(maker.regions) != 2:
        return None, None
    inside = maker.regions[0][0].operations
    load = reader.uses.makers.get(inside[-1].operands[maker.results.index(name)])
    return (load, maker) if load is not None and load.name == "tt.load" and load in inside else (None, None)


def _whole_choices(found: dict[str, Ahead]) -> dict[str, Ahead]:
    """Without the tiles of choices that have other results as well."""
    choices = {id(one.choice): one.choice for one in found.values() if one.choice is not None}
    for key, choice in choices.items():
        tiles = [name for name, one in found.items() if id(one.choice) == key]
        if len(tiles) != len(choice.results):
            for name in tiles:
                del found[name]
    return found


def _writes(operations: list[Operation]) -> bool:
    return any(
        op.name in ("tt.store", "tt.atomic_rmw") or any(_writes(block.operations) for r in op.regions for block in r)
        for op in operations
    )


def read_step(reader: Reader, operations: list[Operation], ahead: dict[str, Ahead]) -> None:
    """Read a loop's body but for the loads ahead; of choices of loads, what computes their places."""
    left_out = [one.following for one in ahead.values()]
    choices = [one.choice for one in ahead.values() if one.choice is not None]
    for operation in operations:
        if operation in choices:
            read_step(reader, operation.regions[0][0].operations, ahead)
        elif operation.name != "scf.yield" and operation not in left_out:
            reader.operation(operation)


def settle(reader: Reader, token: str, bounds: list[Expr], ahead: Ahead) -> None:
    """Write the load of a step: what the step before loads for the next, one step earlier.

    Raises UnsupportedKernel where the load before the loop is of another place.
    """
    before = substitute_step(token)
    pointer, first = (reader.value(op.operands[0]) for op in (ahead.following, ahead.first))
    offset = before(reader.integers.resolve(pointer.expr))
    both = ahead.following, ahead.first
    masks = [reader.value(op.operands[1]).expr if len(op.operands) > 1 else None for op in both]
    mask = None if masks[0] is None else before(reader.integers.resolve(masks[0]))
    start = {token: const(0)}
    if ahead.choice is not None and not _is_next(reader, reader.value(ahead.choice.operands[0]).expr, token, bounds):
        raise reader.fail(ahead.choice, "a tile is loaded for the next step where something else holds than that there "
                          "is a next step")  # fmt: skip
    same = pointer.base == first.base and _same(reader, substitute(offset, start), first.expr)
    if not same or not _is_same_mask(reader, mask, masks[1], start):
        raise reader.fail(ahead.following, "a tile that is carried to the next step is not loaded from the place that "
                          "follows the first one's; load it in the step that uses it")  # fmt: skip
    access = ahead.access
    assert pointer.base is not None
    access.tensor, access.element = pointer.base, pointer.element
    access.offset = reader.on_axes(Value(pointer.shape, pointer.element, offset), access.axes)
    access.mask = None if mask is None else reader.on_axes(Value(pointer.shape, "i1", mask), access.axes)
    if len(ahead.following.operands) > 2:
        access.other = reader.value(ahead.following.operands[2]).expr
    unread = reader.value(ahead.first.results[0]).expr.attr
    reader.body[:] = [item for item in reader.body if not (isinstance(item, Access) and item.name == unread)]
    access.place = reader.function.places.line(ahead.following.place)
    reader.note(f"what is loaded ahead at {access.place} is loaded in the step that uses it: stages= is for that")


def substitute_step(token: str) -> Callable[[Expr], Expr]:
    """An expression of step t as one of step t - 1."""

    def before(expr: Expr) -> Expr:
        return substitute(expr, {token: var(token) - 1}) if token in free_vars(expr) else expr

    return before


def _is_next(reader: Reader, condition: Expr, token: str, bounds: list[Expr]) -> bool:
    """Whether a condition says that a step follows: low + (t + 1) * step < high."""
    if condition.op is not Op.LT:
        return False
    low, high, step = bounds
    left = reader.integers.resolve(condition.args[1] - condition.args[0])
    return _same(reader, left, high - (low + (var(token) + 1) * step))


def _same(reader: Reader, a: Expr, b: Expr) -> bool:
    return reader.integers.poly(a) == reader.integers.poly(b)


def _is_same_mask(reader: Reader, mask: Expr | None, first: Expr | None, start: dict[str, Expr]) -> bool:
    """Whether the mask at the first step is that of the load before the loop."""
    if mask is None or first is None:
        return mask is first
    return reader.integers.simplify(substitute(mask, start)) is reader.integers.simplify(first)
