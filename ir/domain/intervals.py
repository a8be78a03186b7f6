"""Interval rules: for every numeric operation, the bounds of its result over a box, as scalar expressions.

Bounds of integers are exact values (None: unbounded). Bounds of floats enclose what any target may compute:
each rounded operation widens them a little, since targets contract, reassociate and approximate. `sane` is
the condition under which no element is NaN; where it fails the bounds mean nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..dtypes import DType, Kind
from ..expr import Expr, Op, apply, cast, const
from .fold import TRUE, all_of, choose, maximum, minimum
from .linear import Linear, is_nonnegative, literal

_RELATIVE = 2.0**-18
_ABSOLUTE = 1e-30
_SMALL_INTEGERS = {DType.I8: (-128, 127), DType.U8: (0, 255), DType.I16: (-32768, 32767)}
ZERO = const(0)


@dataclass(frozen=True, slots=True)
class Interval:
    """Elements lie in [low, high] where `sane` holds; `is_finite`: none can be infinite."""

    low: Expr | None
    high: Expr | None
    sane: Expr = TRUE
    is_finite: bool = True

    @property
    def is_nonnegative(self) -> bool:
        """Whether the lower bound is known to be at least 0."""
        if self.low is None:
            return False
        if self.low.kind is Kind.FLOAT:
            return _is_nonnegative_float(self.low)
        return is_nonnegative(self.low)


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known of a predicate over a box: whether it may hold somewhere, must hold everywhere."""

    may: Expr
    must: Expr


class Context(Protocol):
    """What a rule may ask: the bounds of operands, the truth of conditions."""

    def interval(self, e: Expr) -> Interval: ...

    def truth(self, e: Expr) -> Truth: ...

    def depends(self, e: Expr) -> bool: ...


Rule = Callable[[Context, Expr], Interval]

UNKNOWN = Interval(None, None)
UNKNOWN_FLOAT = Interval(None, None, const(False), False)


def _is_nonnegative_float(e: Expr) -> bool:
    if e.op is Op.CONST:
        return float(e.attr) >= 0  # type: ignore[arg-type]
    if e.op is Op.CAST:
        return e.args[0].kind is Kind.INT and is_nonnegative(e.args[0])
    if e.op is Op.MAX:
        return any(map(_is_nonnegative_float, e.args))
    return e.op in (Op.ABS, Op.EXP, Op.EXP2, Op.SQRT, Op.SIGMOID)


def _map(f: Callable[[Expr], Expr], bound: Expr | None) -> Expr | None:
    return None if bound is None else f(bound)


def _both(f: Callable[[Expr, Expr], Expr], left: Expr | None, right: Expr | None) -> Expr | None:
    return None if left is None or right is None else f(left, right)


def _finite(x: Interval) -> Expr:
    """The condition under which no element is infinite or NaN."""
    if x.is_finite:
        return x.sane
    if x.low is None or x.high is None:
        return const(False)
    if x.low is x.high:
        return apply(Op.LT, apply(Op.ABS, x.low), math.inf)
    return all_of(x.sane, apply(Op.LT, -math.inf, x.low), apply(Op.LT, x.high, math.inf))


# Widening of float bounds


def _widened(low: Expr | None, high: Expr | None, sane: Expr, is_finite: bool) -> Interval:
    return Interval(_map(_below, low), _map(_above, high), sane, is_finite)


def _below(x: Expr) -> Expr:
    return _slack(x, minimum, -1)


def _above(x: Expr) -> Expr:
    return _slack(x, maximum, 1)


def _slack(x: Expr, extreme: Callable[..., Expr], sign: int) -> Expr:
    if x.op is Op.CONST:
        value = float(x.attr)  # type: ignore[arg-type]
        return const(value + sign * (abs(value) * _RELATIVE + _ABSOLUTE)) if math.isfinite(value) else x
    if _is_nonnegative_float(x):
        return x * (1 + sign * _RELATIVE) + sign * _ABSOLUTE
    return extreme(x * (1 - _RELATIVE), x * (1 + _RELATIVE)) + sign * _ABSOLUTE


# Arithmetic of either kind


def _add(context: Context, e: Expr) -> Interval:
    x, y = (context.interval(arg) for arg in e.args)
    if e.op is Op.SUB:
        y = Interval(_map(_minus, y.high), _map(_minus, y.low), y.sane, y.is_finite)
    low, high = _both(_plus, x.low, y.low), _both(_plus, x.high, y.high)
    if e.kind is Kind.INT:
        return Interval(low, high)
    sane = all_of(_finite(x), _finite(y))
    return _widened(low, high, sane, x.is_finite and y.is_finite)


def _plus(x: Expr, y: Expr) -> Expr:
    total = apply(Op.ADD, x, y)
    return Linear.of(total).expr() if total.kind is Kind.INT else total


def _minus(x: Expr) -> Expr:
    if x.kind is Kind.INT:
        return Linear.of(x).scaled(-1).expr()
    return const(-float(x.attr)) if x.op is Op.CONST else -x  # type: ignore[arg-type]


def _times(x: Expr, y: Expr) -> Expr:
    product = apply(Op.MUL, x, y)
    return Linear.of(product).expr() if product.kind is Kind.INT else product


def _negate(context: Context, e: Expr) -> Interval:
    x = context.interval(e.args[0])
    return Interval(_map(_minus, x.high), _map(_minus, x.low), x.sane, x.is_finite)


def _absolute(context: Context, e: Expr) -> Interval:
    return _magnitude(context.interval(e.args[0]), e.kind)


def _magnitude(x: Interval, kind: Kind) -> Interval:
    if x.is_nonnegative:
        return x
    zero = ZERO if kind is Kind.INT else const(0.0)
    low = maximum(*(bound for bound in (x.low, _map(_minus, x.high)) if bound is not None), zero)
    return Interval(low, _both(lambda a, b: maximum(b, _minus(a)), x.low, x.high), x.sane, x.is_finite)


def _multiply(context: Context, e: Expr) -> Interval:
    x, y = (context.interval(arg) for arg in e.args)
    if e.args[0] is e.args[1]:
        x = y = _magnitude(x, e.kind)
    low, high = _product(x, y)
    if e.kind is Kind.INT:
        return Interval(low, high)
    sane = all_of(_finite(x), _finite(y))
    return _widened(low, high, sane, x.is_finite and y.is_finite)


def _product(x: Interval, y: Interval) -> tuple[Expr | None, Expr | None]:
    if x.is_nonnegative and y.is_nonnegative:
        return _both(_times, x.low, y.low), _both(_times, x.high, y.high)
    if y.is_nonnegative and y.low is y.high:
        x, y = y, x
    if x.is_nonnegative and x.low is x.high:
        return _both(_times, x.low, y.low), _both(_times, x.low, y.high)
    corners = [_both(_times, a, b) for a in (x.low, x.high) for b in (y.low, y.high)]
    known = [corner for corner in corners if corner is not None]
    return (minimum(*known), maximum(*known)) if len(known) == len(corners) else (None, None)


def _extreme(context: Context, e: Expr) -> Interval:
    extreme = minimum if e.op is Op.MIN else maximum
    x, y = (context.interval(arg) for arg in e.args)
    bounds = []
    for a, b, loose in ((x.low, y.low, Op.MAX), (x.high, y.high, Op.MIN)):
        known = [bound for bound in (a, b) if bound is not None]
        bounds.append(extreme(*known) if len(known) == 2 or (known and e.op is loose) else None)
    return Interval(bounds[0], bounds[1], all_of(x.sane, y.sane), x.is_finite and y.is_finite)


def _choice(context: Context, e: Expr) -> Interval:
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
    return Interval(e, e, sane, False) if is_exact else _widened(e, e, sane, False)


# Integers


def _floor_divide(context: Context, e: Expr) -> Interval:
    x, divisor = context.interval(e.args[0]), e.args[1]
    value = literal(divisor)
    if context.depends(divisor) or value == 0 or not (is_nonnegative(divisor) or value):
        return UNKNOWN
    first, last = (_map(lambda b: _quotient(b, divisor), bound) for bound in (x.low, x.high))
    return Interval(first, last) if value is None or value > 0 else Interval(last, first)


def _quotient(bound: Expr, divisor: Expr) -> Expr:
    above, below = literal(bound), literal(divisor)
    if above is not None and below:
        return const(above // below)
    return bound if below == 1 else apply(Op.FLOORDIV, bound, divisor)


def _remainder(context: Context, e: Expr) -> Interval:
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


def _bit_and(context: Context, e: Expr) -> Interval:
    """x & (2**k - 1) is x % 2**k; otherwise at most the least operand that is not negative."""
    for x, mask in (e.args, e.args[::-1]):
        value = literal(mask)
        if value is not None and value >= 0 and (value + 1) & value == 0:
            return context.interval(apply(Op.MOD, x, value + 1))
    known = [x for x in (context.interval(arg) for arg in e.args) if x.is_nonnegative]
    tops = [x.high for x in known if x.high is not None]
    return Interval(ZERO if known else None, minimum(*tops) if tops else None)


def _bit_or(context: Context, e: Expr) -> Interval:
    """At least the greatest operand (or), at most the sum of both; for operands that are not negative."""
    x, y = (context.interval(arg) for arg in e.args)
    if not (x.is_nonnegative and y.is_nonnegative):
        return UNKNOWN
    low = _both(maximum, x.low, y.low) if e.op is Op.BITOR else ZERO
    return Interval(low, _both(_plus, x.high, y.high))


def _shift(context: Context, e: Expr) -> Interval:
    places = literal(e.args[1])
    if places is None or not 0 <= places < 63:
        return UNKNOWN
    op = Op.MUL if e.op is Op.SHL else Op.FLOORDIV
    return context.interval(apply(op, e.args[0], 1 << places))


# Conversions


def _convert(context: Context, e: Expr) -> Interval:
    source, dtype = e.args[0], e.attr
    assert isinstance(dtype, DType)
    if source.kind is Kind.BOOL:
        truth = context.truth(source)
        one, none = (const(1), ZERO) if dtype.kind is Kind.INT else (const(1.0), const(0.0))
        return Interval(choose(truth.must, one, none), choose(truth.may, one, none))
    x = context.interval(source)
    if dtype.kind is Kind.INT:
        return _to_integer(x, source.kind, dtype)
    low, high = _map(lambda b: cast(b, dtype), x.low), _map(lambda b: cast(b, dtype), x.high)
    return Interval(low, high, x.sane, x.is_finite and dtype is not DType.F16)


def _to_integer(x: Interval, kind: Kind, dtype: DType) -> Interval:
    """Narrow integers wrap, so only their range is known; other values are assumed to fit."""
    if dtype in _SMALL_INTEGERS:
        low, high = _SMALL_INTEGERS[dtype]
        return Interval(const(low), const(high))
    if kind is Kind.INT:
        return x
    if x.sane is not TRUE or not x.is_finite:
        return UNKNOWN
    return Interval(_map(lambda b: cast(b, dtype), x.low), _map(lambda b: cast(b, dtype), x.high))


# Functions of floats


def _divide(context: Context, e: Expr) -> Interval:
    x, y = context.interval(e.args[0]), context.interval(e.args[1])
    if context.depends(e.args[1]) or y.low is None or x.low is None or x.high is None:
        return UNKNOWN_FLOAT
    low, high = apply(Op.DIV, x.low, y.low), apply(Op.DIV, x.high, y.low)
    if not y.is_nonnegative:
        low, high = minimum(low, high), maximum(low, high)
    zero = const(0.0) if y.low.kind is Kind.FLOAT else ZERO
    nonzero = TRUE if y.low.op is Op.CONST and y.low.attr else apply(Op.NE, y.low, zero)
    sane = all_of(_finite(x), _finite(y), nonzero)
    return _widened(low, high, sane, x.is_finite and nonzero is TRUE)


def _power(context: Context, e: Expr) -> Interval:
    """x ** p for a literal p > 0: even powers through |x|, odd ones directly, others where x >= 0."""
    base, exponent = context.interval(e.args[0]), e.args[1]
    value = float(exponent.attr) if exponent.op is Op.CONST else 0.0  # type: ignore[arg-type]
    if not 0 < value < math.inf or base.low is None or base.high is None:
        return UNKNOWN_FLOAT
    domain = TRUE
    if value % 2 == 0:
        base = _magnitude(base, e.args[0].kind)
    elif value != int(value):
        base, domain = _from_zero(base, e.args[0].kind)
    power = _monotone(Op.POW, base, exponent)
    return _widened(power.low, power.high, all_of(base.sane, domain), False)


def _monotone(op: Op, x: Interval, *rest: Expr) -> Interval:
    low, high = (_map(lambda b: apply(op, b, *rest), bound) for bound in (x.low, x.high))
    return Interval(low, high, x.sane)


def _from_zero(x: Interval, kind: Kind) -> tuple[Interval, Expr]:
    """The part of an interval that is not negative, and the condition that it is all of it."""
    zero = ZERO if kind is Kind.INT else const(0.0)
    if x.is_nonnegative or x.low is None:
        return x, TRUE if x.low is not None else const(False)
    clipped = Interval(maximum(x.low, zero), _map(lambda b: maximum(b, zero), x.high), x.sane, x.is_finite)
    return clipped, apply(Op.LE, zero, x.low)


def _increasing(context: Context, e: Expr) -> Interval:
    """exp, tanh and the like: bounds of the argument give bounds of the value."""
    x = context.interval(e.args[0])
    y = _monotone(e.op, x)
    if e.op is Op.FLOOR:
        return Interval(y.low, y.high, x.sane, x.is_finite)
    bounded = e.op in (Op.TANH, Op.SIGMOID, Op.ERF)
    return _widened(y.low, y.high, x.sane, bounded)


def _from_zero_up(context: Context, e: Expr) -> Interval:
    """sqrt, log and rsqrt: defined from zero up."""
    x, domain = _from_zero(context.interval(e.args[0]), e.args[0].kind)
    y = _monotone(e.op, x)
    low, high = (y.high, y.low) if e.op is Op.RSQRT else (y.low, y.high)
    return _widened(low, high, all_of(x.sane, domain), e.op is Op.SQRT and x.is_finite)


def _wave(context: Context, e: Expr) -> Interval:
    x = context.interval(e.args[0])
    return _widened(const(-1.0), const(1.0), _finite(x), False)


RULES: dict[Op, Rule] = {
    Op.ADD: _add,
    Op.SUB: _add,
    Op.MUL: _multiply,
    Op.NEG: _negate,
    Op.ABS: _absolute,
    Op.MIN: _extreme,
    Op.MAX: _extreme,
    Op.SELECT: _choice,
    Op.FLOORDIV: _floor_divide,
    Op.MOD: _remainder,
    Op.BITAND: _bit_and,
    Op.BITOR: _bit_or,
    Op.BITXOR: _bit_or,
    Op.SHL: _shift,
    Op.SHR: _shift,
    Op.CAST: _convert,
    Op.DIV: _divide,
    Op.POW: _power,
    Op.EXP: _increasing,
    Op.EXP2: _increasing,
    Op.TANH: _increasing,
    Op.SIGMOID: _increasing,
    Op.ERF: _increasing,
    Op.FLOOR: _increasing,
    Op.SQRT: _from_zero_up,
    Op.RSQRT: _from_zero_up,
    Op.LOG: _from_zero_up,
    Op.LOG2: _from_zero_up,
    Op.SIN: _wave,
    Op.COS: _wave,
}
