"""Intervals: bounds of a number over a box as scalar expressions, and how float bounds are widened.

Bounds of integers are exact values (None: unbounded). Bounds of floats enclose what any target may compute:
each rounded operation widens them a little, since targets contract, reassociate and approximate. `sane` is
the condition under which no element is NaN; where it fails the bounds mean nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..dtypes import Kind
from ..expr import Expr, Op, apply, const
from .fold import TRUE, all_of, maximum, minimum
from .linear import is_nonnegative

_RELATIVE = 2.0**-18
_ABSOLUTE = 1e-30
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


def mapped(f: Callable[[Expr], Expr], bound: Expr | None) -> Expr | None:
    return None if bound is None else f(bound)


def both(f: Callable[[Expr, Expr], Expr], left: Expr | None, right: Expr | None) -> Expr | None:
    return None if left is None or right is None else f(left, right)


def finite(x: Interval) -> Expr:
    """The condition under which no element is infinite or NaN."""
    if x.is_finite:
        return x.sane
    if x.low is None or x.high is None:
        return const(False)
    if x.low is x.high:
        return apply(Op.LT, apply(Op.ABS, x.low), math.inf)
    return all_of(x.sane, apply(Op.LT, -math.inf, x.low), apply(Op.LT, x.high, math.inf))


def widened(low: Expr | None, high: Expr | None, sane: Expr, is_finite: bool) -> Interval:
    return Interval(mapped(_below, low), mapped(_above, high), sane, is_finite)


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


def _is_nonnegative_float(e: Expr) -> bool:
    if e.op is Op.CONST:
        return float(e.attr) >= 0  # type: ignore[arg-type]
    if e.op is Op.CAST:
        return e.args[0].kind is Kind.INT and is_nonnegative(e.args[0])
    if e.op is Op.MAX:
        return any(map(_is_nonnegative_float, e.args))
    return e.op in (Op.ABS, Op.EXP, Op.EXP2, Op.SQRT, Op.SIGMOID)
