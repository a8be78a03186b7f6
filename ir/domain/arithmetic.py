"""Interval rules of arithmetic that integers and floats share."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..dtypes import DType, Kind
from ..expr import Expr, Op, apply, const
from .fold import TRUE, all_of, choose, maximum, minimum
from .interval import ZERO, Context, Interval, both, finite, mapped, widened
from .linear import Linear


def scalar(e: Expr) -> Interval:
    """A value that is the same for all of the box."""
    if e.kind is not Kind.FLOAT:
        return Interval(e, e)
    if e.op is Op.CONST:
        value = float(e.attr)  # type: ignore[arg-type]
        return Interval(e, e, const(not math.isnan(value)), math.isfinite(value))
    if e.op is Op.CAST and e.args[0].kind is not Kind.FLOAT:
        return Interval(e, e, TRUE, e.attr is not DType.F16)
    sane = apply(Op.LE, apply(Op.ABS, e), math.inf)
    is_exact = e.op in (Op.LOAD, Op.VAR, Op.CAST)
    return Interval(e, e, sane, False) if is_exact else widened(e, e, sane, False)


def add(context: Context, e: Expr) -> Interval:
    x, y = (context.interval(arg) for arg in e.args)
    if e.op is Op.SUB:
        y = Interval(mapped(minus, y.high), mapped(minus, y.low), y.sane, y.is_finite)
    low, high = both(plus, x.low, y.low), both(plus, x.high, y.high)
    if e.kind is Kind.INT:
        return Interval(low, high)
    sane = all_of(finite(x), finite(y))
    return widened(low, high, sane, x.is_finite and y.is_finite)


def plus(x: Expr, y: Expr) -> Expr:
    total = apply(Op.ADD, x, y)
    return Linear.of(total).expr() if total.kind is Kind.INT else total


def minus(x: Expr) -> Expr:
    if x.kind is Kind.INT:
        return Linear.of(x).scaled(-1).expr()
    return const(-float(x.attr)) if x.op is Op.CONST else -x  # type: ignore[arg-type]


def times(x: Expr, y: Expr) -> Expr:
    product = apply(Op.MUL, x, y)
    return Linear.of(product).expr() if product.kind is Kind.INT else product


def negate(context: Context, e: Expr) -> Interval:
    x = context.interval(e.args[0])
    return Interval(mapped(minus, x.high), mapped(minus, x.low), x.sane, x.is_finite)


def absolute(context: Context, e: Expr) -> Interval:
    return magnitude(context.interval(e.args[0]), e.kind)


def magnitude(x: Interval, kind: Kind) -> Interval:
    if x.is_nonnegative:
        return x
    zero = ZERO if kind is Kind.INT else const(0.0)
    low = maximum(*(bound for bound in (x.low, mapped(minus, x.high)) if bound is not None), zero)
    return Interval(low, both(lambda a, b: maximum(b, minus(a)), x.low, x.high), x.sane, x.is_finite)


def multiply(context: Context, e: Expr) -> Interval:
    x, y = (context.interval(arg) for arg in e.args)
    if e.args[0] is e.args[1]:
        x = y = magnitude(x, e.kind)
    low, high = _product(x, y)
    if e.kind is Kind.INT:
        return Interval(low, high)
    sane = all_of(finite(x), finite(y))
    return widened(low, high, sane, x.is_finite and y.is_finite)


def _product(x: Interval, y: Interval) -> tuple[Expr | None, Expr | None]:
    if x.is_nonnegative and y.is_nonnegative:
        return both(times, x.low, y.low), both(times, x.high, y.high)
    if y.is_nonnegative and y.low is y.high:
        x, y = y, x
    if x.is_nonnegative and x.low is x.high:
        return both(times, x.low, y.low), both(times, x.low, y.high)
    corners = [both(times, a, b) for a in (x.low, x.high) for b in (y.low, y.high)]
    known = [corner for corner in corners if corner is not None]
    return (minimum(*known), maximum(*known)) if len(known) == len(corners) else (None, None)


def extreme(context: Context, e: Expr) -> Interval:
    extreme = minimum if e.op is Op.MIN else maximum
    x, y = (context.interval(arg) for arg in e.args)
    bounds = []
    for a, b, loose in ((x.low, y.low, Op.MAX), (x.high, y.high, Op.MIN)):
        known = [bound for bound in (a, b) if bound is not None]
        bounds.append(extreme(*known) if len(known) == 2 or (known and e.op is loose) else None)
    return Interval(bounds[0], bounds[1], all_of(x.sane, y.sane), x.is_finite and y.is_finite)


def choice(context: Context, e: Expr) -> Interval:
    """where(c, t, f): the branch that is known, else the hull of both."""
    condition, x, y = context.truth(e.args[0]), context.interval(e.args[1]), context.interval(e.args[2])

    def pick(a: Expr | None, b: Expr | None, extreme: Callable[..., Expr]) -> Expr | None:
        if a is None or b is None:
            return None
        if a is b or condition.may is condition.must:
            return choose(condition.must, a, b)
        return choose(condition.must, a, choose(condition.may, extreme(a, b), b))

    sane, finite = all_of(x.sane, y.sane), x.is_finite and y.is_finite
    return Interval(pick(x.low, y.low, minimum), pick(x.high, y.high, maximum), sane, finite)
