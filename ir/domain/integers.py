"""Interval rules of integer division, remainders and bits."""

from __future__ import annotations

from ..expr import Expr, Op, apply, const
from .arithmetic import plus
from .fold import TRUE, choose, maximum, minimum
from .interval import UNKNOWN, ZERO, Context, Interval, both, mapped
from .linear import Linear, is_nonnegative, literal


def floor_divide(context: Context, e: Expr) -> Interval:
    x, divisor = context.interval(e.args[0]), e.args[1]
    value = literal(divisor)
    if context.depends(divisor) or value == 0 or not (is_nonnegative(divisor) or value):
        return UNKNOWN
    first, last = (mapped(lambda b: _quotient(b, divisor), bound) for bound in (x.low, x.high))
    return Interval(first, last) if value is None or value > 0 else Interval(last, first)


def _quotient(bound: Expr, divisor: Expr) -> Expr:
    above, below = literal(bound), literal(divisor)
    if above is not None and below:
        return const(above // below)
    return bound if below == 1 else apply(Op.FLOORDIV, bound, divisor)


def remainder(context: Context, e: Expr) -> Interval:
    """x % d for d > 0: exact while the quotient does not change over the box, else 0 .. d - 1."""
    x, divisor = context.interval(e.args[0]), e.args[1]
    if context.depends(divisor) or literal(divisor) == 0 or not is_nonnegative(divisor):
        return UNKNOWN
    top = (Linear.of(divisor) - 1).expr()
    if x.low is None or x.high is None:
        return Interval(ZERO, top)
    first, last = _quotient(x.low, divisor), _quotient(x.high, divisor)
    same = TRUE if first is last else apply(Op.EQ, first, last)
    low, high = (apply(Op.MOD, bound, divisor) for bound in (x.low, x.high))
    return Interval(choose(same, low, ZERO), choose(same, high, top))


def bit_and(context: Context, e: Expr) -> Interval:
    """x & (2**k - 1) is x % 2**k; otherwise at most the least operand that is not negative."""
    for x, mask in (e.args, e.args[::-1]):
        value = literal(mask)
        if value is not None and value >= 0 and (value + 1) & value == 0:
            return context.interval(apply(Op.MOD, x, value + 1))
    known = [x for x in (context.interval(arg) for arg in e.args) if x.is_nonnegative]
    tops = [x.high for x in known if x.high is not None]
    return Interval(ZERO if known else None, minimum(*tops) if tops else None)


def bit_or(context: Context, e: Expr) -> Interval:
    """At least the greatest operand (or), at most the sum of both; for operands that are not negative."""
    x, y = (context.interval(arg) for arg in e.args)
    if not (x.is_nonnegative and y.is_nonnegative):
        return UNKNOWN
    low = both(maximum, x.low, y.low) if e.op is Op.BITOR else ZERO
    return Interval(low, both(plus, x.high, y.high))


def shift(context: Context, e: Expr) -> Interval:
    places = literal(e.args[1])
    if places is None or not 0 <= places < 63:
        return UNKNOWN
    op = Op.MUL if e.op is Op.SHL else Op.FLOORDIV
    return context.interval(apply(op, e.args[0], 1 << places))
