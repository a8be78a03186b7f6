"""The derivative of a scalar expression with respect to one variable or load, rule by rule.

Each node is visited once, arguments first, so that a derivative is at most a constant times as large as its
expression, however often parts are shared; and it uses the nodes of the forward again: tanh(u)' = 1 - tanh(u)^2
holds the same tanh(u).

Where the mathematics leaves a choice, it is torch autograd's:

    abs at 0                            0
    max(x, 0.0) at 0                    0, as relu; clamp(min=0) lifts to the same node, and PyTorch gives it 1
    max(x, c), min(x, c) at c           1 elsewhere, as clamp (min(x, 0.0) too); hardtanh lifts to the same, and has 0
    max(x, y), min(x, y) where equal    half each, as torch.maximum and torch.minimum
    x ** 0 by x, 0 ** y by y            0
    floor, sign, comparisons, conversions to and from integers    0
    conversions between float types     1, as if nothing were rounded

A branch that is not taken adds nothing, and what a bound holds back stays zero even where it would be multiplied
by something infinite or NaN, as in sqrt(max(x, 0.0)). Autograd gives NaN there.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..algebra import is_const, number, simplify
from ..dtypes import Kind
from ..errors import UnsupportedSpec
from ..expr import Expr, Op, apply, const, select, walk

ZERO, HALF, ONE, TWO, MINUS_ONE = (const(x) for x in (0.0, 0.5, 1.0, 2.0, -1.0))
LN2 = math.log(2.0)
DIFFERENTIABLE = frozenset({Op.VAR, Op.LOAD})

Partial = Callable[..., Expr]
Choice = Callable[[Expr, list[Expr]], Expr]


def derivative(expr: Expr, by: Expr) -> Expr:
    """d expr / d by, simplified. `by`: a FLOAT variable, or one LOAD; other loads count as independent of it.

    Raises UnsupportedSpec for anything else to differentiate by, and where expr calls a region with it.
    """
    if by.op not in DIFFERENTIABLE or by.kind is not Kind.FLOAT:
        raise UnsupportedSpec(f"there is no derivative by {by!r}: it is no floating variable or element of a tensor")
    slopes: dict[Expr, Expr] = {}
    for node in walk(expr):
        slopes[node] = ONE if node is by else _slope(node, [slopes[arg] for arg in node.args])
    return simplify(slopes[expr])


def _slope(e: Expr, slopes: list[Expr]) -> Expr:
    """The derivative of a node from those of its arguments."""
    if e.kind is not Kind.FLOAT or all(slope is ZERO for slope in slopes):
        return ZERO
    if e.op in CHOICES:
        return CHOICES[e.op](e, slopes)
    if e.op not in PARTIALS:
        raise UnsupportedSpec(f"there is no derivative of {e!r}: a region is inlined before it is differentiated")
    total = ZERO
    for partial, slope in zip(PARTIALS[e.op], slopes, strict=True):
        if slope is not ZERO:
            total = _sum(total, _product(partial(e, *e.args), slope))
    return total


# Sums, products and choices of slopes; one that is zero somewhere is where(c, x, 0), with a single such choice outside


def _sum(x: Expr, y: Expr) -> Expr:
    """x + y; x + x -> 2 * x; where(c, x, 0) + where(c, y, 0) -> where(c, x + y, 0)."""
    if x is ZERO or y is ZERO:
        return y if x is ZERO else x
    if x is y:
        return _product(TWO, x)
    if _is_partly_zero(x) and _is_partly_zero(y) and x.args[0] is y.args[0]:
        return _choose(x.args[0], _sum(x.args[1], y.args[1]), ZERO)
    return x + y


def _product(factor: Expr, slope: Expr) -> Expr:
    """factor * slope, where zero stays zero: f * where(c, x, 0) -> where(c, f * x, 0); 1 / y * x is x / y."""
    if factor is ZERO or slope is ZERO:
        return ZERO
    if factor is ONE:
        return slope
    if _is_partly_zero(slope):
        return _choose(slope.args[0], _product(factor, slope.args[1]), ZERO)
    if _is_partly_zero(factor):
        return _choose(factor.args[0], _product(factor.args[1], slope), ZERO)
    return slope / factor.args[1] if factor.op is Op.DIV and factor.args[0] is ONE else factor * slope


def _choose(condition: Expr, then: Expr, otherwise: Expr) -> Expr:
    """where(c, x, y); where(a, where(b, x, 0), 0) -> where(a and b, x, 0); where(c, 0, x) -> where(not c, x, 0)."""
    if then is otherwise:
        return then
    if then is ZERO:
        return _choose(~condition, otherwise, ZERO)
    if otherwise is ZERO and _is_partly_zero(then):
        return select(condition & then.args[0], then.args[1], ZERO)
    return select(condition, then, otherwise)


def _is_partly_zero(slope: Expr) -> bool:
    return slope.op is Op.SELECT and slope.args[2] is ZERO


# Functions: the derivative by each argument, from the result r and the arguments


def _power_by_base(r: Expr, x: Expr, y: Expr) -> Expr:
    """y * x ** (y - 1); 0 where y is 0."""
    if is_const(y, 0):
        return ZERO
    slope = y * apply(Op.POW, x, y - 1.0)
    return slope if is_const(y) else _choose(apply(Op.NE, y, ZERO), slope, ZERO)


def _power_by_exponent(r: Expr, x: Expr, y: Expr) -> Expr:
    """x ** y * log(x); 0 where x is 0 and y is not negative."""
    slope = r * apply(Op.LOG, x)
    if is_const(x) and number(x) > 0:
        return slope
    return _choose(apply(Op.NE, x, ZERO) | (y < 0.0), slope, ZERO)


PARTIALS: dict[Op, tuple[Partial, ...]] = {
    Op.ADD: (lambda r, x, y: ONE, lambda r, x, y: ONE),                 # (x + y)' = x' + y'
    Op.SUB: (lambda r, x, y: ONE, lambda r, x, y: MINUS_ONE),           # (x - y)' = x' - y'
    Op.MUL: (lambda r, x, y: y, lambda r, x, y: x),                     # (x * y)' = y x' + x y'
    Op.DIV: (lambda r, x, y: 1.0 / y, lambda r, x, y: -r / y),          # (x / y)' = x' / y - (x / y) / y y'
    Op.POW: (_power_by_base, _power_by_exponent),                       # (x ** y)' = y x ** (y-1) x' + x ** y log(x) y'
    Op.NEG: (lambda r, x: MINUS_ONE,),                                  # (-x)' = -x'
    Op.EXP: (lambda r, x: r,),                                          # exp(x)' = exp(x) x'
    Op.EXP2: (lambda r, x: r * LN2,),                                   # exp2(x)' = exp2(x) log(2) x'
    Op.LOG: (lambda r, x: 1.0 / x,),                                    # log(x)' = x' / x
    Op.LOG2: (lambda r, x: 1.0 / LN2 / x,),                             # log2(x)' = x' / (log(2) x)
    Op.SQRT: (lambda r, x: 0.5 / r,),                                   # sqrt(x)' = x' / (2 sqrt(x))
    Op.RSQRT: (lambda r, x: r * r * r * -0.5,),                         # rsqrt(x)' = -rsqrt(x) ** 3 / 2 x'
    Op.TANH: (lambda r, x: 1.0 - r * r,),                               # tanh(x)' = (1 - tanh(x) ** 2) x'
    Op.SIGMOID: (lambda r, x: r * (1.0 - r),),                          # sigmoid(x)' = sigmoid(x) (1 - sigmoid(x)) x'
    Op.ERF: (lambda r, x: apply(Op.EXP, -(x * x)) * (2.0 / math.sqrt(math.pi)),),  # 2 / sqrt(pi) exp(-x ** 2) x'
    Op.SIN: (lambda r, x: apply(Op.COS, x),),                           # sin(x)' = cos(x) x'
    Op.COS: (lambda r, x: -apply(Op.SIN, x),),                          # cos(x)' = -sin(x) x'
    Op.FLOOR: (lambda r, x: ZERO,),                                     # floor(x)' = 0
    Op.CAST: (lambda r, x: ONE,),                                       # f16(x)' = x'
}  # fmt: skip


# Choices: the derivative of what is chosen


def _absolute(e: Expr, slopes: list[Expr]) -> Expr:
    """abs(x)' = where(x != 0, where(x < 0, -x', x'), 0)."""
    (x,), (slope,) = e.args, slopes
    return _choose(apply(Op.NE, x, ZERO), select(x < 0.0, _product(MINUS_ONE, slope), slope), ZERO)


def _bound(e: Expr, slopes: list[Expr]) -> Expr:
    """max(x, y)' = where(x > y, x', where(x < y, y', (x' + y') / 2)); min the other way round."""
    (x, y), (dx, dy) = e.args, slopes
    if dx is ZERO:
        (x, y), (dx, dy) = (y, x), (dy, dx)
    if is_const(y):
        return _choose(_within(e.op, x, y), dx, ZERO)
    x_wins, y_wins = (y < x, x < y) if e.op is Op.MAX else (x < y, y < x)
    half = _product(HALF, _sum(dx, dy))
    if dy is ZERO:
        return _choose(~y_wins, select(x_wins, dx, half), ZERO)
    return select(x_wins, dx, select(y_wins, dy, half))


def _within(op: Op, x: Expr, bound: Expr) -> Expr:
    """Where max(x, c) or min(x, c) passes a change of x on: relu does not at 0, clamp does at its bounds."""
    if op is Op.MIN:
        return x <= bound
    return bound < x if number(bound) == 0 else bound <= x


def _select(e: Expr, slopes: list[Expr]) -> Expr:
    """where(c, x, y)' = where(c, x', y')."""
    return ZERO if _is_sign(e) else _choose(e.args[0], slopes[1], slopes[2])


def _is_sign(e: Expr) -> bool:
    """Whether this is where(0 < x, 1, where(x < 0, -1, x)), the lifted sign of x: a last x is 0, or NaN."""
    condition, then, inner = e.args
    if inner.op is not Op.SELECT or not is_const(simplify(then)) or not is_const(simplify(inner.args[1])):
        return False
    x = inner.args[2]
    return condition is apply(Op.LT, ZERO, x) and inner.args[0] is apply(Op.LT, x, ZERO)


CHOICES: dict[Op, Choice] = {Op.ABS: _absolute, Op.MIN: _bound, Op.MAX: _bound, Op.SELECT: _select}
