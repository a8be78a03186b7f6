"""Elementwise operators of PyTorch, one row each: how the element of the result follows from the operands'."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..algebra import number
from ..dtypes import Kind
from ..expr import Expr, Op, apply, const, select
from .value import as_kind

Rule = Callable[..., Expr]
INFINITY = const(math.inf)
WORD = 32  # bits
UNIT, COUNT = const(1.0), const(1)
TWENTY, HUNDREDTH = const(20.0), const(0.01)  # defaults of softplus and leaky_relu in PyTorch


def _unary(op: Op) -> Rule:
    return lambda x: apply(op, as_kind(x, Kind.FLOAT))


def _binary(op: Op) -> Rule:
    return lambda x, y: apply(op, *_joined(x, y))


def _right_shift(x: Expr, by: Expr) -> Expr:
    """x >> by, where 32 and more leave the sign, as 31 does: words have 32 bits here, and up to 64 in torch."""
    x, by = _joined(x, by)
    most = by.args[1] if by.op is Op.MOD else by
    is_small = most.op is Op.CONST and number(most) <= WORD - (most is by)
    return apply(Op.SHR, x, by if is_small else apply(Op.MIN, by, const(WORD - 1)))


def _joined(*operands: Expr) -> tuple[Expr, ...]:
    """Operands brought to the widest kind among them; truth values count as integers."""
    kinds = {operand.kind for operand in operands}
    wanted = Kind.FLOAT if Kind.FLOAT in kinds else Kind.INT
    return tuple(as_kind(operand, wanted) for operand in operands)


def _compare(op: Op, is_swapped: bool = False) -> Rule:
    def rule(x: Expr, y: Expr) -> Expr:
        if x.kind is Kind.BOOL and y.kind is Kind.BOOL and op in (Op.EQ, Op.NE):
            differ = apply(Op.XOR, x, y)
            return differ if op is Op.NE else apply(Op.NOT, differ)
        x, y = _joined(x, y)
        return apply(op, y, x) if is_swapped else apply(op, x, y)

    return rule


def _logic(logical: Op, bitwise: Op) -> Rule:
    def rule(x: Expr, y: Expr) -> Expr:
        if x.kind is Kind.BOOL and y.kind is Kind.BOOL:
            return apply(logical, x, y)
        return apply(bitwise, *_joined(x, y))

    return rule


def _logical(op: Op) -> Rule:
    return lambda x, y: apply(op, as_kind(x, Kind.BOOL), as_kind(y, Kind.BOOL))


def _scaled(op: Op) -> Rule:
    """x op alpha * y."""

    def rule(x: Expr, y: Expr, alpha: Expr = COUNT) -> Expr:
        x, y, alpha = _joined(x, y, alpha)
        return apply(op, x, y if alpha.attr == 1 else y * alpha)

    return rule


def _rsub(x: Expr, y: Expr, alpha: Expr = COUNT) -> Expr:
    return _scaled(Op.SUB)(y, x, alpha)


def _divide(x: Expr, y: Expr, rounding_mode: Any = None) -> Expr:
    if rounding_mode is None:
        return apply(Op.DIV, as_kind(x, Kind.FLOAT), as_kind(y, Kind.FLOAT))
    x, y = _joined(x, y)
    if x.kind is Kind.INT and rounding_mode == "floor":
        return apply(Op.FLOORDIV, x, y)
    if x.kind is Kind.INT:  # truncated: the sign of the quotient times the quotient of the magnitudes
        size = apply(Op.FLOORDIV, apply(Op.ABS, x), apply(Op.ABS, y))
        return select(apply(Op.XOR, x < 0, y < 0), -size, size)
    quotient = apply(Op.DIV, x, y)
    floor = apply(Op.FLOOR, quotient)
    return floor if rounding_mode == "floor" else select(quotient < 0.0, -apply(Op.FLOOR, -quotient), floor)


def _floor_divide(x: Expr, y: Expr) -> Expr:
    return _divide(x, y, "floor")


def _remainder(x: Expr, y: Expr) -> Expr:
    x, y = _joined(x, y)
    if x.kind is Kind.INT:
        return apply(Op.MOD, x, y)
    return x - y * apply(Op.FLOOR, apply(Op.DIV, x, y))


def _power(x: Expr, y: Expr) -> Expr:
    """Small whole exponents become products."""
    if y.op is Op.CONST and y.attr in (1, 2, 3, 4):
        product = x if x.kind is not Kind.BOOL else as_kind(x, Kind.INT)
        factor = product
        for _ in range(int(y.attr) - 1):
            product = product * factor
        return product
    if y.op is Op.CONST and y.attr == 0.5:
        return apply(Op.SQRT, as_kind(x, Kind.FLOAT))
    if y.op is Op.CONST and y.attr == -0.5:
        return apply(Op.RSQRT, as_kind(x, Kind.FLOAT))
    return apply(Op.POW, as_kind(x, Kind.FLOAT), as_kind(y, Kind.FLOAT))


def _clamp(x: Expr, low: Expr | None = None, high: Expr | None = None) -> Expr:
    if low is not None:
        x = apply(Op.MAX, *_joined(x, low))
    return apply(Op.MIN, *_joined(x, high)) if high is not None else x


def _where(condition: Expr, x: Expr, y: Expr) -> Expr:
    condition = as_kind(condition, Kind.BOOL)
    if condition.op is Op.NE and condition.args == (y, y):
        return y  # where(isnan(y), x, y): NaN comes from rows that keep nothing, and those are 0 by definition
    if x.kind is Kind.BOOL and y.kind is Kind.BOOL:
        return apply(Op.OR, apply(Op.AND, condition, x), apply(Op.AND, apply(Op.NOT, condition), y))
    return select(condition, *_joined(x, y))


def _masked_fill(x: Expr, mask: Expr, value: Expr) -> Expr:
    return _where(mask, as_kind(value, x.kind), x)


def _sign(x: Expr) -> Expr:
    zero, one = (const(0), const(1)) if x.kind is Kind.INT else (const(0.0), const(1.0))
    return select(zero < x, one, select(x < zero, -one, x))


def _absolute(x: Expr) -> Expr:
    return x if x.kind is Kind.BOOL else apply(Op.ABS, x)


def _negate(x: Expr) -> Expr:
    return apply(Op.NEG, x)


def _round_down(x: Expr) -> Expr:
    return x if x.kind is Kind.INT else apply(Op.FLOOR, x)


def _round_up(x: Expr) -> Expr:
    return x if x.kind is Kind.INT else -apply(Op.FLOOR, -x)


def _truncate(x: Expr) -> Expr:
    return x if x.kind is Kind.INT else select(x < 0.0, -apply(Op.FLOOR, -x), apply(Op.FLOOR, x))


def _not(x: Expr) -> Expr:
    if x.kind is Kind.BOOL:
        return apply(Op.NOT, x)
    return const(-1) - x  # two's complement


def _logical_not(x: Expr) -> Expr:
    return apply(Op.NOT, as_kind(x, Kind.BOOL))


def _relu(x: Expr) -> Expr:
    return apply(Op.MAX, x, const(0) if x.kind is Kind.INT else const(0.0))


def _silu(x: Expr) -> Expr:
    return x * apply(Op.SIGMOID, x)


def _gelu(x: Expr, approximate: Any = "none") -> Expr:
    if approximate == "tanh":
        inner = (x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)
        return x * 0.5 * (apply(Op.TANH, inner) + 1.0)
    return x * 0.5 * (apply(Op.ERF, x * math.sqrt(0.5)) + 1.0)


def _elu(x: Expr, alpha: Expr = UNIT, scale: Expr = UNIT, input_scale: Expr = UNIT) -> Expr:
    alpha, scale, input_scale = (as_kind(e, Kind.FLOAT) for e in (alpha, scale, input_scale))
    return select(x > 0.0, x * scale, (apply(Op.EXP, x * input_scale) - 1.0) * alpha * scale)


def _softplus(x: Expr, beta: Expr = UNIT, threshold: Expr = TWENTY) -> Expr:
    scaled = x * as_kind(beta, Kind.FLOAT)
    soft = apply(Op.DIV, apply(Op.LOG, apply(Op.EXP, scaled) + 1.0), as_kind(beta, Kind.FLOAT))
    return select(scaled > as_kind(threshold, Kind.FLOAT), x, soft)


def _leaky_relu(x: Expr, slope: Expr = HUNDREDTH) -> Expr:
    return select(x > 0.0, x, x * as_kind(slope, Kind.FLOAT))


def _log_sigmoid(x: Expr) -> Expr:
    return -apply(Op.LOG, apply(Op.EXP, -x) + 1.0)


def _nan_to_num(x: Expr, *_: Any) -> Expr:
    """NaN comes from rows that keep nothing, and those are 0 by definition of AttentionSpec."""
    return x


def _is_inf(x: Expr) -> Expr:
    return apply(Op.EQ, apply(Op.ABS, x), INFINITY)


def _identity(x: Expr) -> Expr:
    return x


def _add_product(x: Expr, y: Expr, z: Expr, value: Expr = COUNT) -> Expr:
    return _scaled(Op.ADD)(x, _binary(Op.MUL)(y, z), value)


def _add_quotient(x: Expr, y: Expr, z: Expr, value: Expr = COUNT) -> Expr:
    return _scaled(Op.ADD)(x, _divide(y, z), value)


def _between(x: Expr, y: Expr, weight: Expr) -> Expr:
    return x + as_kind(weight, Kind.FLOAT) * (y - x)


ELEMENTWISE: dict[str, Rule] = {
    "add": _scaled(Op.ADD), "sub": _scaled(Op.SUB), "rsub": _rsub, "mul": _binary(Op.MUL), "div": _divide,
    "true_divide": _divide, "floor_divide": _floor_divide, "remainder": _remainder, "pow": _power,
    "square": lambda x: x * x, "reciprocal": lambda x: apply(Op.DIV, const(1.0), as_kind(x, Kind.FLOAT)),
    "minimum": _binary(Op.MIN), "maximum": _binary(Op.MAX), "fmin": _binary(Op.MIN), "fmax": _binary(Op.MAX),
    "clamp": _clamp, "clamp_min": _clamp, "clamp_max": lambda x, high: _clamp(x, None, high), "clip": _clamp,
    "neg": _negate, "abs": _absolute, "sign": _sign, "floor": _round_down, "ceil": _round_up, "trunc": _truncate,
    "exp": _unary(Op.EXP), "exp2": _unary(Op.EXP2), "log": _unary(Op.LOG), "log2": _unary(Op.LOG2),
    "sqrt": _unary(Op.SQRT), "rsqrt": _unary(Op.RSQRT), "tanh": _unary(Op.TANH), "sigmoid": _unary(Op.SIGMOID),
    "erf": _unary(Op.ERF), "sin": _unary(Op.SIN), "cos": _unary(Op.COS),
    "expm1": lambda x: apply(Op.EXP, x) - 1.0, "log1p": lambda x: apply(Op.LOG, x + 1.0),
    "log10": lambda x: apply(Op.LOG, as_kind(x, Kind.FLOAT)) * (1 / math.log(10)),
    "relu": _relu, "silu": _silu, "gelu": _gelu, "elu": _elu, "softplus": _softplus, "leaky_relu": _leaky_relu,
    "log_sigmoid_forward": _log_sigmoid, "hardtanh": _clamp,
    "lt": _compare(Op.LT), "le": _compare(Op.LE), "eq": _compare(Op.EQ), "ne": _compare(Op.NE),
    "gt": _compare(Op.LT, is_swapped=True), "ge": _compare(Op.LE, is_swapped=True),
    "bitwise_and": _logic(Op.AND, Op.BITAND), "bitwise_or": _logic(Op.OR, Op.BITOR),
    "bitwise_xor": _logic(Op.XOR, Op.BITXOR), "bitwise_not": _not,
    "__and__": _logic(Op.AND, Op.BITAND), "__or__": _logic(Op.OR, Op.BITOR), "__xor__": _logic(Op.XOR, Op.BITXOR),
    "logical_and": _logical(Op.AND), "logical_or": _logical(Op.OR), "logical_xor": _logical(Op.XOR),
    "logical_not": _logical_not,
    "bitwise_left_shift": _binary(Op.SHL), "bitwise_right_shift": _right_shift,
    "__lshift__": _binary(Op.SHL), "__rshift__": _right_shift,
    "where": _where, "masked_fill": _masked_fill, "nan_to_num": _nan_to_num,
    "isnan": lambda x: apply(Op.NE, x, x), "isinf": _is_inf,
    "clone": _identity, "contiguous": _identity, "_to_copy": _identity, "to": _identity, "copy": lambda x, y: y,
    "fill": lambda x, y: y, "addcmul": _add_product, "addcdiv": _add_quotient, "lerp": _between,
}  # fmt: skip
"""By the operator's name without overload; every operand arrives as an expression, settings as they are."""
