"""Splitting a masked score into the predicate of what is kept and the score of what is kept.

Here a score of -1e9 or less means "left out": its weight is zero in every float type unless a whole row is
left out, and such a row is zero by the definition of AttentionSpec.
"""

from __future__ import annotations

from collections.abc import Callable

from ..algebra import is_const, number, simplify
from ..dtypes import Kind
from ..expr import Expr, Op, apply, const, select, transform

LEFT_OUT = -1e9
TRUE, FALSE = const(True), const(False)
ZERO = const(0.0)
Split = tuple[Expr, Expr]


def split_score(score: Expr, is_mask: Callable[[Expr], bool]) -> Split:
    """(keep, score): `is_mask` says which conditions may go into keep (those that do not read the scores)."""
    keep, rest = _split(simplify(score), is_mask)
    keep = _decided(simplify(keep))
    return keep, simplify(assume(rest, conjuncts(keep)))


def _split(e: Expr, is_mask: Callable[[Expr], bool]) -> Split:
    handler = SPLITS.get(e.op)
    return handler(e, is_mask) if handler is not None else (TRUE, e)


def is_left_out(e: Expr) -> bool:
    """Whether an expression is a literal that means "left out"."""
    return e.op is Op.CONST and e.kind is not Kind.BOOL and number(e) <= LEFT_OUT


def _of_literal(e: Expr, _: Callable[[Expr], bool]) -> Split:
    return (FALSE, const(0.0)) if is_left_out(e) else (TRUE, e)


def _of_choice(e: Expr, is_mask: Callable[[Expr], bool]) -> Split:
    condition, then, otherwise = e.args
    if not is_mask(condition):
        apart = _apart(e, is_mask)
        return (TRUE, e) if apart is None else _of_choice(apart, is_mask)
    keep_then, then = _split(then, is_mask)
    keep_else, otherwise = _split(otherwise, is_mask)
    if keep_then is TRUE and keep_else is TRUE:
        return TRUE, e
    if keep_else is FALSE:
        return _and(condition, keep_then), then
    if keep_then is FALSE:
        return _and(apply(Op.NOT, condition), keep_else), otherwise
    keep = apply(Op.OR, _and(condition, keep_then), _and(apply(Op.NOT, condition), keep_else))
    return keep, select(condition, then, otherwise)


def _apart(e: Expr, is_mask: Callable[[Expr], bool]) -> Expr | None:
    """where(a or b, x, y) -> where(a, x, where(b, x, y)) for a mask a, and the same for a and b."""
    condition, then, otherwise = e.args
    if condition.op not in (Op.AND, Op.OR):
        return None
    parts = chain(condition, condition.op)
    masks = [part for part in parts if is_mask(part)]
    if not masks:
        return None
    rest = [part for part in parts if part not in masks]
    mask = _joined(condition.op, masks)
    inner = select(_joined(condition.op, rest), then, otherwise)
    return select(mask, then, inner) if condition.op is Op.OR else select(mask, inner, otherwise)


def _joined(op: Op, parts: list[Expr]) -> Expr:
    total = parts[0]
    for part in parts[1:]:
        total = apply(op, total, part)
    return total


def chain(condition: Expr, op: Op) -> list[Expr]:
    """The operands of nested ANDs or ORs, in order."""
    return [p for arg in condition.args for p in chain(arg, op)] if condition.op is op else [condition]


def _and(a: Expr, b: Expr) -> Expr:
    return b if a is TRUE else a if b is TRUE else apply(Op.AND, a, b)


def _of_sum(e: Expr, is_mask: Callable[[Expr], bool]) -> Split:
    keep_x, x = _split(e.args[0], is_mask)
    keep_y, y = _split(e.args[1], is_mask)
    return _and(keep_x, keep_y), apply(Op.ADD, x, y)


def _of_difference(e: Expr, is_mask: Callable[[Expr], bool]) -> Split:
    keep_x, x = _split(e.args[0], is_mask)
    keep_y, y = _split(simplify(-e.args[1]), is_mask)
    return _and(keep_x, keep_y), apply(Op.SUB, x, e.args[1]) if keep_y is TRUE else x + y


def _of_product(e: Expr, is_mask: Callable[[Expr], bool]) -> Split:
    x, y = e.args
    both = _both_chosen(x, y) if e.op is Op.MUL else None
    if both is not None:
        return _split(both, is_mask)
    if is_const(y) and number(y) > 0:
        keep, x = _split(x, is_mask)
        return keep, apply(e.op, x, y)
    return TRUE, e


def _both_chosen(x: Expr, y: Expr) -> Expr | None:
    """where(a, x, 0) * where(b, 1, 0) -> where(a and b, x, 0): a mask of finfo.min times a mask of ones."""
    if x.op is not Op.SELECT or y.op is not Op.SELECT or x.kind is not Kind.FLOAT:
        return None
    if not is_const(x.args[2], 0.0) or not is_const(y.args[2], 0.0):
        return None
    if is_const(x.args[1], 1.0):
        x, y = y, x
    condition = x.args[0] if x.args[0] is y.args[0] else apply(Op.AND, x.args[0], y.args[0])
    return simplify(select(condition, x.args[1], ZERO)) if is_const(y.args[1], 1.0) else None


def _of_bound(e: Expr, is_mask: Callable[[Expr], bool]) -> Split:
    """A lower bound of finfo.min changes nothing that is kept."""
    x, y = e.args
    return _split(x, is_mask) if is_left_out(y) else (TRUE, e)


SPLITS: dict[Op, Callable[[Expr, Callable[[Expr], bool]], Split]] = {
    Op.CONST: _of_literal, Op.SELECT: _of_choice, Op.ADD: _of_sum, Op.SUB: _of_difference, Op.MUL: _of_product,
    Op.DIV: _of_product, Op.MAX: _of_bound,
}  # fmt: skip


def conjuncts(condition: Expr) -> list[Expr]:
    """The conditions that must all hold, in order."""
    return [] if condition is TRUE else chain(condition, Op.AND)


def _decided(keep: Expr) -> Expr:
    """Every condition where the others hold, from the first one on."""
    parts = conjuncts(keep)
    for n, part in enumerate(parts):
        parts[n] = simplify(assume(part, [other for other in parts if other is not part]))
    return simplify(_joined(Op.AND, parts)) if parts else keep


def assume(e: Expr, facts: list[Expr]) -> Expr:
    """The expression where the facts hold."""
    decided = dict.fromkeys(facts, TRUE) | {simplify(apply(Op.NOT, fact)): FALSE for fact in facts}
    return transform(e, decided.get)
