"""Interval rules of functions of floats: monotone ones, division, powers and waves."""

from __future__ import annotations

import math

from ..dtypes import Kind
from ..expr import Expr, Op, apply, const
from .arithmetic import magnitude
from .fold import TRUE, all_of, any_of, maximum, minimum
from .interval import UNKNOWN_FLOAT, ZERO, Context, Interval, finite, mapped, widened


def divide(context: Context, e: Expr) -> Interval:
    x, y = context.interval(e.args[0]), context.interval(e.args[1])
    if context.depends(e.args[1]) or y.low is None or y.high is None or x.low is None or x.high is None:
        return UNKNOWN_FLOAT
    if y.low is not y.high:
        return _by_rounded(x, y, tuple(apply(Op.DIV, a, b) for a in (x.low, x.high) for b in (y.low, y.high)))
    low, high = apply(Op.DIV, x.low, y.low), apply(Op.DIV, x.high, y.low)
    if not y.is_nonnegative:
        low, high = minimum(low, high), maximum(low, high)
    zero = const(0.0) if y.low.kind is Kind.FLOAT else ZERO
    nonzero = TRUE if y.low.op is Op.CONST and y.low.attr else apply(Op.NE, y.low, zero)
    sane = all_of(finite(x), finite(y), nonzero)
    return widened(low, high, sane, x.is_finite and nonzero is TRUE)


def _by_rounded(x: Interval, y: Interval, ends: tuple[Expr, ...]) -> Interval:
    """x / y for a divisor that is known up to rounding; `ends` are the quotients of all bounds."""
    zero = const(0.0)
    nonzero = [] if y.low is None or y.high is None else [apply(Op.LT, zero, y.low), apply(Op.LT, y.high, zero)]
    return widened(minimum(*ends), maximum(*ends), all_of(finite(x), finite(y), any_of(*nonzero)), False)


def power(context: Context, e: Expr) -> Interval:
    """x ** p for a literal p > 0: even powers through |x|, odd ones directly, others where x >= 0."""
    base, exponent = context.interval(e.args[0]), e.args[1]
    value = float(exponent.attr) if exponent.op is Op.CONST else 0.0  # type: ignore[arg-type]
    if not 0 < value < math.inf or base.low is None or base.high is None:
        return UNKNOWN_FLOAT
    domain = TRUE
    if value % 2 == 0:
        base = magnitude(base, e.args[0].kind)
    elif value != int(value):
        base, domain = _from_zero(base, e.args[0].kind)
    power = _monotone(Op.POW, base, exponent)
    return widened(power.low, power.high, all_of(base.sane, domain), False)


def _monotone(op: Op, x: Interval, *rest: Expr) -> Interval:
    low, high = (mapped(lambda b: apply(op, b, *rest), bound) for bound in (x.low, x.high))
    return Interval(low, high, x.sane)


def _from_zero(x: Interval, kind: Kind) -> tuple[Interval, Expr]:
    """The part of an interval that is not negative, and the condition that it is all of it."""
    zero = ZERO if kind is Kind.INT else const(0.0)
    if x.is_nonnegative or x.low is None:
        return x, TRUE if x.low is not None else const(False)
    clipped = Interval(maximum(x.low, zero), mapped(lambda b: maximum(b, zero), x.high), x.sane, x.is_finite)
    return clipped, apply(Op.LE, zero, x.low)


def increasing(context: Context, e: Expr) -> Interval:
    """exp, tanh and the like: bounds of the argument give bounds of the value."""
    x = context.interval(e.args[0])
    y = _monotone(e.op, x)
    if e.op is Op.FLOOR:
        return Interval(y.low, y.high, x.sane, x.is_finite)
    bounded = e.op in (Op.TANH, Op.SIGMOID, Op.ERF)
    return widened(y.low, y.high, x.sane, bounded)


def from_zero_up(context: Context, e: Expr) -> Interval:
    """sqrt, log and rsqrt: defined from zero up."""
    x, domain = _from_zero(context.interval(e.args[0]), e.args[0].kind)
    y = _monotone(e.op, x)
    low, high = (y.high, y.low) if e.op is Op.RSQRT else (y.low, y.high)
    return widened(low, high, all_of(x.sane, domain), e.op is Op.SQRT and x.is_finite)


def wave(context: Context, e: Expr) -> Interval:
    x = context.interval(e.args[0])
    return widened(const(-1.0), const(1.0), finite(x), False)
