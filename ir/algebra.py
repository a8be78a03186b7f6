"""Algebra of scalar expressions: rules that keep the meaning, NaN and infinities included.

Rounding may change in the last place (scales are folded); nothing else does. The rules that also assume
something about the numbers, for masks in scores, are in `masks.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .dtypes import DType, Kind
from .evaluate import evaluate
from .expr import Const, Expr, Op, apply, const, rebuild, select
from .integers import add, expression, polynomial
from .rewrite import Rules, rewrite

NEVER_NEGATIVE = frozenset({Op.EXP, Op.EXP2, Op.SIGMOID, Op.SQRT})
TRUE, FALSE = const(True), const(False)


def simplify(expr: Expr) -> Expr:
    """The expression in a shorter form of the same meaning."""
    return rewrite(expr, RULES)


# Literals


def is_const(expr: Expr, value: Const | None = None) -> bool:
    """Whether an expression is a literal, or the literal equal to `value`."""
    return expr.op is Op.CONST and (value is None or expr.attr == value)


def number(expr: Expr) -> float:
    """The value of a literal."""
    assert isinstance(expr.attr, (int, float))
    return expr.attr


def fold(e: Expr) -> Expr | None:
    """f(1, 2) -> its value."""
    if not all(arg.op is Op.CONST for arg in e.args):
        return None
    if e.op in (Op.FLOORDIV, Op.MOD) and is_const(e.args[1], 0):
        return None
    return const(evaluate(e, {}, {}, float_type=np.float64).item())


def fold_choice(e: Expr) -> Expr | None:
    """f(where(c, 1, 2), 3) -> where(c, f(1, 3), f(2, 3))."""
    chosen = [arg for arg in e.args if arg.op is Op.SELECT and all(is_const(a) for a in arg.args[1:])]
    if len(set(chosen)) != 1 or not all(arg is chosen[0] or is_const(arg) for arg in e.args):
        return None
    condition = chosen[0].args[0]
    branches = [
        rebuild(e, tuple(arg.args[n] if arg is chosen[0] else arg for arg in e.args)) for n in (1, 2)
    ]
    return select(condition, *branches)


def compare_choice(e: Expr) -> Expr | None:
    """where(c, x, 1) == 1 -> where(c, x == 1, True)."""
    for choice, other in (e.args, e.args[::-1]):
        is_choice = choice.op is Op.SELECT and any(is_const(branch) for branch in choice.args[1:])
        if is_choice and is_const(other):
            branches = [rebuild(e, tuple(b if arg is choice else arg for arg in e.args)) for b in choice.args[1:]]
            return select(choice.args[0], *branches)
    return None


# Arithmetic


def integer_normal_form(e: Expr) -> Expr | None:
    """i - j + j + 1 -> i + 1."""
    return expression(polynomial(e)) if e.kind is Kind.INT else None


def add_zero(e: Expr) -> Expr | None:
    """x + 0 -> x, 0 + x -> x."""
    x, y = e.args
    return _kept(e, x) if is_const(y, 0) else _kept(e, y) if is_const(x, 0) else None


def _kept(e: Expr, x: Expr) -> Expr | None:
    return x if x.kind is e.kind else None


def subtract_zero(e: Expr) -> Expr | None:
    """x - 0 -> x."""
    return _kept(e, e.args[0]) if is_const(e.args[1], 0) else None


def constant_right(e: Expr) -> Expr | None:
    """1 * x -> x * 1."""
    x, y = e.args
    return apply(e.op, y, x) if is_const(x) and not is_const(y) else None


def multiply_one(e: Expr) -> Expr | None:
    """x * 1 -> x, x / 1 -> x."""
    return _kept(e, e.args[0]) if is_const(e.args[1], 1) else None


def divide_constant(e: Expr) -> Expr | None:
    """x / 4 -> x * 0.25."""
    x, y = e.args
    if not is_const(y) or is_const(x) or number(y) == 0 or not math.isfinite(number(y)):
        return None
    inverse = 1.0 / number(y)
    return x * inverse if math.isfinite(inverse) and inverse != 0 else None


def fold_scale(e: Expr) -> Expr | None:
    """(x * 2.0) * 3.0 -> x * 6.0."""
    x, y = e.args
    if e.kind is not Kind.FLOAT or not is_const(y) or x.op is not Op.MUL or not is_const(x.args[1]):
        return None
    scale = number(x.args[1]) * float(number(y))
    is_exact = math.isfinite(scale) and (scale != 0 or number(y) == 0)
    return x.args[0] * scale if is_exact else None


def scale_of_negative(e: Expr) -> Expr | None:
    """-x * 2.0 -> x * -2.0."""
    x, y = e.args
    return x.args[0] * const(-number(y)) if x.op is Op.NEG and is_const(y) and e.kind is Kind.FLOAT else None


def negate_twice(e: Expr) -> Expr | None:
    """-(-x) -> x, -(x * 2.0) -> x * -2.0."""
    (x,) = e.args
    if x.op is Op.NEG:
        return x.args[0]
    if x.op is Op.MUL and x.kind is Kind.FLOAT and is_const(x.args[1]):
        return x.args[0] * const(-number(x.args[1]))
    return None


def add_negative(e: Expr) -> Expr | None:
    """x + -y -> x - y, x - -y -> x + y."""
    x, y = e.args
    opposite = Op.SUB if e.op is Op.ADD else Op.ADD
    return apply(opposite, x, y.args[0]) if y.op is Op.NEG else None


def absolute_of_sign(e: Expr) -> Expr | None:
    """abs(-x) -> abs(x), abs(abs(x)) -> abs(x), abs(exp(x)) -> exp(x), abs(max(x, 0)) -> max(x, 0)."""
    (x,) = e.args
    is_maximum = x.op is Op.MAX and is_const(x.args[1]) and number(x.args[1]) >= 0
    if x.op in NEVER_NEGATIVE or is_maximum:
        return x
    if x.op in (Op.NEG, Op.ABS):
        return apply(Op.ABS, x.args[0])
    return None


def same_operands(e: Expr) -> Expr | None:
    """min(x, x) -> x, x & x -> x, x | x -> x."""
    return e.args[0] if e.args[0] is e.args[1] else None


def nested_bound(e: Expr) -> Expr | None:
    """min(min(x, 3), 5) -> min(x, 3)."""
    x, y = e.args
    if not is_const(y) or x.op is not e.op or not is_const(x.args[1]) or math.isnan(number(y)):
        return None
    inner = number(x.args[1])
    if math.isnan(inner):
        return None
    return apply(e.op, x.args[0], const(min(inner, number(y)) if e.op is Op.MIN else max(inner, number(y))))


def integer_division(e: Expr) -> Expr | None:
    """x // 1 -> x, x % 1 -> 0."""
    x, y = e.args
    if not is_const(y, 1):
        return None
    return x if e.op is Op.FLOORDIV else const(0)


def integer_cast(e: Expr) -> Expr | None:
    """i64(x) -> x for an integer x."""
    return e.args[0] if e.attr is DType.I64 and e.args[0].kind is Kind.INT else None


# Comparison


def integer_comparison(e: Expr) -> Expr | None:
    """i - j >= 1 -> j + 1 <= i, i + 1 <= j -> i < j: no negative terms, no constant 1 to spare."""
    if any(arg.kind is not Kind.INT for arg in e.args):
        return None
    difference = add(polynomial(e.args[1]), polynomial(e.args[0]), -1)
    if not difference or set(difference) == {()}:
        return const(_decided(e.op, difference.get((), 0)))
    op = e.op
    if op is Op.LE and difference.get(()) == -1:
        op, difference = Op.LT, add(difference, {(): 1})
    elif op is Op.LT and difference.get(()) == 1:
        op, difference = Op.LE, add(difference, {(): 1}, -1)
    left = expression({m: -c for m, c in difference.items() if c < 0})
    right = expression({m: c for m, c in difference.items() if c > 0})
    if op in (Op.EQ, Op.NE) and repr(right) < repr(left):
        left, right = right, left
    return apply(op, left, right)


def _decided(op: Op, difference: int) -> bool:
    """Whether `left op right` holds when right - left is a known number."""
    table: dict[Op, Callable[[int], bool]] = {
        Op.LT: lambda d: d > 0, Op.LE: lambda d: d >= 0, Op.EQ: lambda d: d == 0, Op.NE: lambda d: d != 0,
    }  # fmt: skip
    return table[op](difference)


# Logic


def not_twice(e: Expr) -> Expr | None:
    """not not x -> x; not (i < j) -> j <= i; not (x == y) -> x != y; not (x and y) -> not x or not y."""
    (x,) = e.args
    if x.op is Op.NOT:
        return x.args[0]
    if x.op in (Op.EQ, Op.NE):
        return apply(Op.NE if x.op is Op.EQ else Op.EQ, *x.args)
    if x.op in (Op.LT, Op.LE) and all(arg.kind is Kind.INT for arg in x.args):
        return apply(Op.LE if x.op is Op.LT else Op.LT, x.args[1], x.args[0])
    if x.op in (Op.AND, Op.OR):
        opposite = Op.OR if x.op is Op.AND else Op.AND
        return apply(opposite, *(apply(Op.NOT, arg) for arg in x.args))
    return None


def logic_literal(e: Expr) -> Expr | None:
    """x and True -> x, x and False -> False, x or True -> True, x or False -> x."""
    x, y = e.args
    neutral = TRUE if e.op is Op.AND else FALSE
    if is_const(x):
        x, y = y, x
    if not is_const(y):
        return None
    return x if y is neutral else y


def exclusive_literal(e: Expr) -> Expr | None:
    """x xor True -> not x, x xor False -> x, x xor x -> False."""
    x, y = e.args
    if x is y:
        return FALSE
    if is_const(x):
        x, y = y, x
    if not is_const(y):
        return None
    return apply(Op.NOT, x) if y is TRUE else x


def repeated_operand(e: Expr) -> Expr | None:
    """(x and y) and x -> x and y; (x or y) and x -> x; (not x) and x -> False."""
    for one, other in (e.args, e.args[::-1]):
        terms = _chain(one, e.op)
        if other in terms and len(terms) > 1:
            return one
        if one.op is (Op.OR if e.op is Op.AND else Op.AND) and other in one.args:
            return other
        if any(apply(Op.NOT, other) is t or apply(Op.NOT, t) is other for t in terms):
            return const(e.op is Op.OR)
    return None


def _chain(e: Expr, op: Op) -> list[Expr]:
    return [part for arg in e.args for part in _chain(arg, op)] if e.op is op else [e]


def logic_of_choice(e: Expr) -> Expr | None:
    """where(c, True, False) -> c, where(c, x, False) -> c and x, for truth values."""
    condition, then, otherwise = e.args
    if e.kind is not Kind.BOOL:
        return None
    if is_const(then):
        return apply(Op.OR, condition, otherwise) if then.attr else apply(Op.AND, ~condition, otherwise)
    if is_const(otherwise):
        return apply(Op.OR, ~condition, then) if otherwise.attr else apply(Op.AND, condition, then)
    return None


# Choice


def choice_decided(e: Expr) -> Expr | None:
    """where(True, x, y) -> x, where(c, x, x) -> x."""
    condition, then, otherwise = e.args
    if is_const(condition):
        return _kept(e, then if condition.attr else otherwise)
    return then if then is otherwise else None


def choice_negated(e: Expr) -> Expr | None:
    """where(not c, x, y) -> where(c, y, x)."""
    condition, then, otherwise = e.args
    return select(condition.args[0], otherwise, then) if condition.op is Op.NOT else None


def choice_repeated(e: Expr) -> Expr | None:
    """where(c, where(c, x, y), z) -> where(c, x, z), and the same in the other branch."""
    condition, then, otherwise = e.args
    if then.op is Op.SELECT and then.args[0] is condition:
        return _same_kind(e, select(condition, then.args[1], otherwise))
    if otherwise.op is Op.SELECT and otherwise.args[0] is condition:
        return _same_kind(e, select(condition, then, otherwise.args[2]))
    return None


def _same_kind(e: Expr, new: Expr) -> Expr | None:
    return new if new.kind is e.kind else None


def choice_joined(e: Expr) -> Expr | None:
    """where(a, where(b, x, y), y) -> where(a and b, x, y), and the three mirror images."""
    a, then, otherwise = e.args
    if then.op is Op.SELECT:
        b, x, y = then.args
        if y is otherwise:
            return select(apply(Op.AND, a, b), x, y)
        if x is otherwise:
            return select(apply(Op.AND, a, ~b), y, x)
    if otherwise.op is Op.SELECT:
        b, x, y = otherwise.args
        if x is then:
            return select(apply(Op.OR, a, b), x, y)
        if y is then:
            return select(apply(Op.AND, ~a, b), x, y)
    return None


RULES: Rules = {
    Op.ADD: (fold, fold_choice, integer_normal_form, add_zero, constant_right, add_negative),
    Op.SUB: (fold, fold_choice, integer_normal_form, subtract_zero, add_negative),
    Op.MUL: (fold, fold_choice, integer_normal_form, constant_right, multiply_one, fold_scale, scale_of_negative),
    Op.NEG: (fold, fold_choice, integer_normal_form, negate_twice),
    Op.DIV: (fold, fold_choice, multiply_one, divide_constant),
    Op.FLOORDIV: (fold, fold_choice, integer_division),
    Op.MOD: (fold, fold_choice, integer_division),
    Op.ABS: (fold, fold_choice, absolute_of_sign),
    Op.MIN: (fold, fold_choice, constant_right, same_operands, nested_bound),
    Op.MAX: (fold, fold_choice, constant_right, same_operands, nested_bound),
    Op.LT: (fold, fold_choice, compare_choice, integer_comparison),
    Op.LE: (fold, fold_choice, compare_choice, integer_comparison),
    Op.EQ: (fold, fold_choice, compare_choice, integer_comparison),
    Op.NE: (fold, fold_choice, compare_choice, integer_comparison),
    Op.NOT: (fold, not_twice),
    Op.AND: (fold, logic_literal, same_operands, repeated_operand),
    Op.OR: (fold, logic_literal, same_operands, repeated_operand),
    Op.XOR: (fold, exclusive_literal),
    Op.SELECT: (choice_decided, logic_of_choice, choice_negated, choice_repeated, choice_joined),
    Op.CAST: (fold, fold_choice, integer_cast),
    **dict.fromkeys((Op.EXP, Op.EXP2, Op.SIGMOID, Op.TANH), (fold, fold_choice)),
    **dict.fromkeys((Op.POW, Op.LOG, Op.LOG2, Op.SQRT, Op.RSQRT, Op.ERF, Op.SIN, Op.COS, Op.FLOOR), (fold,)),
    **dict.fromkeys((Op.BITAND, Op.BITOR, Op.BITXOR, Op.SHL, Op.SHR), (fold,)),
}  # fmt: skip
