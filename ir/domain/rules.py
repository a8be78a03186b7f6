"""The table of interval rules: for every operation on numbers, the bounds of its result."""

from __future__ import annotations

from ..dtypes import DType, Kind
from ..expr import Expr, Op, cast, const
from .arithmetic import absolute, add, choice, extreme, multiply, negate
from .floats import divide, from_zero_up, increasing, power, wave
from .fold import TRUE, choose
from .integers import bit_and, bit_or, floor_divide, remainder, shift
from .interval import UNKNOWN, ZERO, Context, Interval, Rule, mapped

_SMALL_INTEGERS = {DType.I8: (-128, 127), DType.U8: (0, 255), DType.I16: (-32768, 32767)}


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
    low, high = mapped(lambda b: cast(b, dtype), x.low), mapped(lambda b: cast(b, dtype), x.high)
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
    return Interval(mapped(lambda b: cast(b, dtype), x.low), mapped(lambda b: cast(b, dtype), x.high))


RULES: dict[Op, Rule] = {
    Op.ADD: add,
    Op.SUB: add,
    Op.MUL: multiply,
    Op.NEG: negate,
    Op.ABS: absolute,
    Op.MIN: extreme,
    Op.MAX: extreme,
    Op.SELECT: choice,
    Op.FLOORDIV: floor_divide,
    Op.MOD: remainder,
    Op.BITAND: bit_and,
    Op.BITOR: bit_or,
    Op.BITXOR: bit_or,
    Op.SHL: shift,
    Op.SHR: shift,
    Op.CAST: _convert,
    Op.DIV: divide,
    Op.POW: power,
    Op.EXP: increasing,
    Op.EXP2: increasing,
    Op.TANH: increasing,
    Op.SIGMOID: increasing,
    Op.ERF: increasing,
    Op.FLOOR: increasing,
    Op.SQRT: from_zero_up,
    Op.RSQRT: from_zero_up,
    Op.LOG: from_zero_up,
    Op.LOG2: from_zero_up,
    Op.SIN: wave,
    Op.COS: wave,
}
