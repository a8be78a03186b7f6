"""Constructors that fold: logic, comparisons, minima and choices come out small."""

from __future__ import annotations

from functools import reduce

from ..dtypes import Kind
from ..expr import Expr, Op, apply, const, select
from .linear import Linear, never_greater, never_positive

TRUE, FALSE = const(True), const(False)


def flat(op: Op, items: tuple[Expr, ...]) -> list[Expr]:
    """Operands of nested `op`s, each once, in order."""
    found: dict[Expr, None] = {}
    for item in items:
        parts = flat(op, item.args) if item.op is op else [item]
        found.update(dict.fromkeys(parts))
    return list(found)


def conjuncts(e: Expr) -> list[Expr]:
    """What must hold together for `e` to hold; nothing for True."""
    return [item for item in flat(Op.AND, (e,)) if item is not TRUE]


def disjuncts(e: Expr) -> list[Expr]:
    """What `e` is the union of; nothing for False."""
    return [item for item in flat(Op.OR, (e,)) if item is not FALSE]


def all_of(*items: Expr) -> Expr:
    """The conjunction."""
    return _joined(Op.AND, items)


def any_of(*items: Expr) -> Expr:
    """The disjunction."""
    return _joined(Op.OR, items)


def _joined(op: Op, items: tuple[Expr, ...]) -> Expr:
    """a & (a | b) is a, a & (not a | b) is a & b, a & not a is False; for `or` the other way round."""
    unit, other = (TRUE, Op.OR) if op is Op.AND else (FALSE, Op.AND)
    parts = [item for item in flat(op, items) if item is not unit]
    opposites = {negated(part) for part in parts if part.op is not other}
    if negated(unit) in parts or opposites.intersection(parts):
        return negated(unit)
    kept = []
    for part in parts:
        inner = flat(other, (part,)) if part.op is other else []
        if any(item in parts for item in inner):
            continue
        rest = [item for item in inner if item not in opposites]
        kept.append(part if len(rest) == len(inner) else _joined(other, tuple(rest)))
    return reduce(lambda a, b: apply(op, a, b), kept) if kept else unit


def negated(e: Expr) -> Expr:
    """The negation; comparisons of integers turn round."""
    if e.op is Op.CONST:
        return const(not e.attr)
    if e.op is Op.NOT:
        return e.args[0]
    if e.op in (Op.LT, Op.LE) and all(arg.kind is Kind.INT for arg in e.args):
        return apply(Op.LE if e.op is Op.LT else Op.LT, e.args[1], e.args[0])
    if e.op is Op.AND:
        return any_of(*(negated(arg) for arg in e.args))
    if e.op is Op.OR:
        return all_of(*(negated(arg) for arg in e.args))
    return apply(Op.NOT, e)


def is_at_most_zero(form: Linear) -> Expr:
    """form <= 0, with every term on the side where it is positive."""
    if not form.terms:
        return const(form.constant <= 0)
    if never_positive(form):
        return TRUE
    if never_positive(form.scaled(-1) + 1):
        return FALSE
    left = Linear(tuple((atom, k) for atom, k in form.terms if k > 0), 0)
    right = Linear(tuple((atom, -k) for atom, k in form.terms if k < 0), 0)
    if form.constant == 1:
        return apply(Op.LT, left.expr(), right.expr())
    if form.constant > 0 and left.terms:
        left = left + form.constant
    else:
        right = right - form.constant
    return apply(Op.LE, left.expr(), right.expr())


def minimum(*items: Expr) -> Expr:
    """The least of some numbers of one kind."""
    return _extreme(Op.MIN, items)


def maximum(*items: Expr) -> Expr:
    """The greatest of some numbers of one kind."""
    return _extreme(Op.MAX, items)


def _extreme(op: Op, items: tuple[Expr, ...]) -> Expr:
    """Without what is known to be no better than another; a literal comes last."""
    kept: list[Expr] = []
    for item in flat(op, items):
        if any(_is_no_better(op, item, other) for other in kept):
            continue
        kept = [other for other in kept if not _is_no_better(op, other, item)] + [item]
    kept.sort(key=lambda item: item.op is Op.CONST)
    return reduce(lambda a, b: apply(op, a, b), kept)


def _is_no_better(op: Op, item: Expr, other: Expr) -> bool:
    least, greatest = (other, item) if op is Op.MIN else (item, other)
    if least.op is Op.CONST and greatest.op is Op.CONST:
        return bool(least.attr <= greatest.attr)  # type: ignore[operator]
    return least.kind is Kind.INT and greatest.kind is Kind.INT and never_greater(least, greatest)


def choose(condition: Expr, then: Expr, otherwise: Expr) -> Expr:
    """`then` where the condition holds, else `otherwise`."""
    if condition.op is Op.CONST:
        return then if condition.attr else otherwise
    return then if then is otherwise else select(condition, then, otherwise)
