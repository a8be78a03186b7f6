"""Loads ahead by hand: a loop carries the tile that the step before has loaded; each step loads its own instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...expr import Expr, const, free_vars, substitute, var
from .naming import source_name
from .values import Access, Value

if TYPE_CHECKING:
    from .reader import Reader
    from .text import Operation


@dataclass(slots=True)
class Ahead:
    """A tile that a loop carries: the load before the loop, the one in it, and the load that stands for both."""

    first: Operation
    following: Operation
    access: Access
    value: Value


def loads_ahead(reader: Reader, operation: Operation, formal: list[str], initial: list[str]) -> dict[str, Ahead]:
    """Carried tiles by their names in the loop's body: loaded before the loop, and again for the next step."""
    block = operation.regions[0][0]
    last = block.operations[-1]
    found: dict[str, Ahead] = {}
    if last.name != "scf.yield" or len(last.operands) != len(formal):
        return found
    for position, (inner, outer, new) in enumerate(zip(formal, initial, last.operands, strict=True)):
        first, following = reader.uses.makers.get(outer), reader.uses.makers.get(new)
        if first is None or following is None or {first.name, following.name} != {"tt.load"}:
            continue
        is_apart = len(reader.uses.users[new]) == 1 and len(reader.uses.users[outer]) == 1
        if following not in block.operations or not is_apart or reader.uses.users.get(operation.results[position]):
            continue
        old = reader.value(outer)
        if not old.is_data or len(old.shape) == 0:
            continue
        name = reader.names.fresh(source_name(reader.function, following))
        axes = reader.axes.of_shape(old.shape)
        reader.rank[name] = sum(width > 1 for width in old.shape)
        reader.loaded[name] = old.element
        access = Access("load", "", const(0), axes, None, old.element, None, name)
        found[inner] = Ahead(first, following, access, Value(old.shape, old.element, var(name, old.expr.kind), axes))
    return found


def settle(reader: Reader, token: str, ahead: Ahead) -> None:
    """Write the load of a step: what the step before loads for the next, one step earlier.

    Raises UnsupportedKernel where the load before the loop is of another place.
    """
    before = substitute_step(token)
    pointer, first = (reader.value(op.operands[0]) for op in (ahead.following, ahead.first))
    offset = before(reader.integers.resolve(pointer.expr))
    masks = [reader.value(op.operands[1]).expr if len(op.operands) > 1 else None for op in (ahead.following, ahead.first)]
    mask = None if masks[0] is None else before(reader.integers.resolve(masks[0]))
    start = {token: const(0)}
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
    access.place = reader.function.places.line(ahead.following.place)
    reader.note(f"the tile loaded ahead at {access.place} is loaded in the step that uses it; stages= say how far ahead")


def substitute_step(token: str):  # type: ignore[no-untyped-def]
    """An expression of step t as one of step t - 1."""

    def before(expr: Expr) -> Expr:
        return substitute(expr, {token: var(token) - 1}) if token in free_vars(expr) else expr

    return before


def _same(reader: Reader, a: Expr, b: Expr) -> bool:
    return reader.integers.poly(a) == reader.integers.poly(b)


def _is_same_mask(reader: Reader, mask: Expr | None, first: Expr | None, start: dict[str, Expr]) -> bool:
    """Whether the mask at the first step is that of the load before the loop."""
    if mask is None or first is None:
        return mask is first
    return reader.integers.simplify(substitute(mask, start)) is reader.integers.simplify(first)
