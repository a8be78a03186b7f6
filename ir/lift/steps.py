"""Integers rounded from floats, such as logarithmic distance buckets, as exact choices between thresholds.

i64(log(f32(n) / 8) / log(16) * 8) changes value where the logarithm meets an integer; a kernel whose
logarithm differs in the last bit would take another bucket there. So the function's own operations are run
once in PyTorch for n = 0, 1, 2, … and the places where the result changes are kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..algebra import is_const, number
from ..dtypes import DType, Kind
from ..expr import Expr, Op, apply, const, rebuild, select, walk

LARGEST = 1 << 17  # positions that are tried one by one
FAR = tuple(1 << power for power in range(18, 24))  # and some beyond, up to where float32 is exact
MOST_STEPS = 64
LOWEST = -(1 << 31)

TORCH: dict[Op, Any] = {
    Op.ADD: torch.add, Op.SUB: torch.sub, Op.MUL: torch.mul, Op.DIV: torch.div, Op.NEG: torch.neg,
    Op.ABS: torch.abs, Op.LOG: torch.log, Op.LOG2: torch.log2, Op.EXP: torch.exp, Op.EXP2: torch.exp2,
    Op.SQRT: torch.sqrt, Op.RSQRT: torch.rsqrt, Op.POW: torch.pow, Op.FLOOR: torch.floor, Op.TANH: torch.tanh,
    Op.MIN: torch.minimum, Op.MAX: torch.maximum,
}  # fmt: skip


def exact_steps(e: Expr) -> Expr:
    """Every rounded function of one nonnegative integer replaced by a choice between its values."""
    if not any(_is_rounding(node) for node in walk(e)):
        return e
    if e.kind is Kind.INT and (e.op is Op.MIN or _is_rounding(e)):
        found = _staircase(e)
        if found is not None:
            return found
    return rebuild(e, tuple(exact_steps(arg) for arg in e.args))


def _is_rounding(e: Expr) -> bool:
    return e.op is Op.CAST and e.kind is Kind.INT and e.args[0].kind is Kind.FLOAT


def _staircase(e: Expr) -> Expr | None:
    """The choice that equals e, when e is a function of one integer >= 0 with few steps."""
    inputs = {node.args[0] for node in walk(e) if node.op is Op.CAST and node.args[0].kind is Kind.INT}
    if len(inputs) != 1:
        return None
    (n,) = inputs
    if not is_nonnegative(n) or not _is_closed(e, n):
        return None
    values = _values(e, n, torch.arange(LARGEST))
    changes = (values[1:] != values[:-1]).nonzero().flatten().tolist()
    far = _values(e, n, torch.tensor(FAR))
    if len(changes) > MOST_STEPS or bool((far != values[-1]).any()):
        return None
    result = const(int(values[-1]))
    for change in reversed(changes):
        before = int(values[change])
        if before > LOWEST:  # below: log(0), which no table has a row for
            result = select(apply(Op.LE, n, const(change)), const(before), result)
    return result


def is_nonnegative(n: Expr) -> bool:
    """Whether an integer is >= 0 by its form: abs(x), max(x, 0), -min(x, 0)."""
    if n.op is Op.NEG:
        inner = n.args[0]
        return inner.op is Op.MIN and any(is_const(arg) and number(arg) <= 0 for arg in inner.args)
    return n.op is Op.ABS or (n.op is Op.MAX and any(is_const(arg) and number(arg) >= 0 for arg in n.args))


def _is_closed(e: Expr, n: Expr) -> bool:
    """Whether e is made of n and literals with operations that can be run."""
    if e is n or e.op is Op.CONST:
        return True
    runs = e.op in TORCH or (e.op is Op.CAST and e.attr in (DType.F32, DType.F64, DType.I64, DType.I32))
    return runs and all(_is_closed(arg, n) for arg in e.args)


def _values(e: Expr, n: Expr, numbers: Tensor) -> Tensor:
    """e at the given values of n, by PyTorch in float32."""
    with torch.utils._python_dispatch._disable_current_modes():
        values: Tensor = _value(e, n, numbers) + torch.zeros_like(numbers)
        return values


def _value(e: Expr, n: Expr, numbers: Tensor) -> Any:
    if e is n:
        return numbers
    if e.op is Op.CONST:
        return e.attr
    args = [_value(arg, n, numbers) for arg in e.args]
    if e.op is Op.CAST:
        return args[0].to(torch.int64 if e.kind is Kind.INT else torch.float32)
    if e.op in (Op.MIN, Op.MAX):
        args = [torch.as_tensor(arg) for arg in args]
    return TORCH[e.op](*args)
