"""The meaning of scalar expressions, on NumPy: every operation element by element, broadcasting.

Floats are computed in `float_type`, integers exactly (int64), truth values as bool. Division by zero,
overflow and NaN follow IEEE; integer division and remainder round towards minus infinity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .dtypes import DType, Kind
from .errors import OutOfBounds, ProgramError
from .expr import Expr, Op, walk

Array = npt.NDArray[Any]
Region = Callable[..., Array]

_erf = np.frompyfunc(math.erf, 1, 1)


def _sigmoid(x: Array) -> Array:
    one = np.asarray(x).dtype.type(1)
    return np.asarray(one / (one + np.exp(-x)))


def _power(x: Array, y: Array) -> Array:
    return np.asarray(np.power(x, y))


UFUNCS: dict[Op, Callable[..., Any]] = {
    Op.ADD: np.add, Op.SUB: np.subtract, Op.MUL: np.multiply, Op.DIV: np.divide,
    Op.FLOORDIV: np.floor_divide, Op.MOD: np.mod, Op.NEG: np.negative, Op.ABS: np.abs,
    Op.MIN: np.minimum, Op.MAX: np.maximum, Op.POW: _power,
    Op.EXP: np.exp, Op.EXP2: np.exp2, Op.LOG: np.log, Op.LOG2: np.log2, Op.SQRT: np.sqrt,
    Op.RSQRT: lambda x: 1 / np.sqrt(x), Op.TANH: np.tanh, Op.SIGMOID: _sigmoid,
    Op.ERF: lambda x: np.asarray(_erf(x), dtype=np.asarray(x).dtype),
    Op.SIN: np.sin, Op.COS: np.cos, Op.FLOOR: np.floor,
    Op.LT: np.less, Op.LE: np.less_equal, Op.EQ: np.equal, Op.NE: np.not_equal,
    Op.AND: np.logical_and, Op.OR: np.logical_or, Op.XOR: np.logical_xor, Op.NOT: np.logical_not,
    Op.BITAND: np.bitwise_and, Op.BITOR: np.bitwise_or, Op.BITXOR: np.bitwise_xor,
    Op.SHL: np.left_shift, Op.SHR: np.right_shift, Op.SELECT: np.where,
}  # fmt: skip

INTEGER_TYPES: dict[DType, type[np.generic]] = {
    DType.I64: np.int64, DType.I32: np.int32, DType.I16: np.int16, DType.I8: np.int8, DType.U8: np.uint8,
}  # fmt: skip


def evaluate(
    expr: Expr,
    env: Mapping[str, Any],
    tensors: Mapping[str, Array],
    regions: Mapping[str, Region] | None = None,
    float_type: type[np.floating[Any]] = np.float32,
) -> Array:
    """Value of `expr`: variables and tile indices from `env`, loads from `tensors`, calls from `regions`.

    All arrays of `env` must broadcast against each other. Raises OutOfBounds for a load outside its
    tensor, even under a choice that is not taken, and ProgramError for an unknown name.
    """
    values: dict[Expr, Array] = {}
    with np.errstate(all="ignore"):
        for node in walk(expr):
            args = [values[arg] for arg in node.args]
            values[node] = _node(node, args, env, tensors, regions or {}, float_type)
    return values[expr]


def _node(
    node: Expr, args: list[Array], env: Mapping[str, Any], tensors: Mapping[str, Array],
    regions: Mapping[str, Region], float_type: type[np.floating[Any]],
) -> Array:  # fmt: skip
    """Value of one node; every FLOAT comes out as `float_type`, every INT as int64."""
    if node.op is Op.CONST:
        return as_kind(_within(node.attr), node.kind, float_type)
    if node.op in (Op.VAR, Op.INDEX):
        return as_kind(_named(env, str(node.attr), "variable"), node.kind, float_type)
    if node.op is Op.LOAD:
        name = str(node.attr)
        return as_kind(_gather(name, _named(tensors, name, "tensor"), args), node.kind, float_type)
    if node.op is Op.CALL:
        return as_kind(_named(regions, str(node.attr), "region")(*args), node.kind, float_type)
    if node.op is Op.CAST:
        assert isinstance(node.attr, DType)
        return as_kind(convert(args[0], node.attr), node.kind, float_type)
    if node.kind is Kind.FLOAT and node.op is not Op.SELECT:
        args = [arg.astype(float_type, copy=False) for arg in args]
    return as_kind(UFUNCS[node.op](*args), node.kind, float_type)


def _within(value: object) -> object:
    """The nearest integer of 64 bits: products of constants may leave them, and still compare as they should."""
    return max(-(1 << 63), min(value, (1 << 63) - 1)) if type(value) is int else value


def _named(table: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in table:
        raise ProgramError("known names", f"{what} {name} has no value; known: {', '.join(table) or 'none'}")
    return table[name]


def as_kind(value: Any, kind: Kind, float_type: type[np.floating[Any]]) -> Array:
    """The value as an array of the type that the kind is computed in."""
    wanted: Any = float_type if kind is Kind.FLOAT else np.int64 if kind is Kind.INT else np.bool_
    return np.asarray(value).astype(wanted, copy=False)


def _gather(name: str, tensor: Array, indices: list[Array]) -> Array:
    if len(indices) != tensor.ndim:
        raise OutOfBounds(f"{name} has {tensor.ndim} dims and is loaded with {len(indices)} indices")
    for axis, (index, size) in enumerate(zip(indices, tensor.shape, strict=True)):
        if index.size and (index.min() < 0 or index.max() >= size):
            raise OutOfBounds(
                f"{name} is loaded at {index.min()}..{index.max()} of axis {axis}, which has size {size}"
            )
    return np.asarray(tensor[tuple(indices)])


def convert(value: Array, dtype: DType) -> Array:
    """The value rounded to what `dtype` can hold; bf16 comes back as float32, which holds it exactly."""
    value = np.asarray(value)
    if dtype is DType.BF16:
        return round_bf16(value)
    if dtype is DType.BOOL:
        return np.asarray(value != 0)
    if dtype in INTEGER_TYPES:
        whole = value if value.dtype.kind in "ib" else np.trunc(value)
        return np.asarray(whole).astype(np.int64).astype(INTEGER_TYPES[dtype])
    return value.astype({DType.F64: np.float64, DType.F32: np.float32, DType.F16: np.float16}[dtype])


def round_bf16(value: Array) -> npt.NDArray[np.float32]:
    """Round to bfloat16 (nearest, ties to even), kept in float32; NaN stays NaN."""
    single = np.ascontiguousarray(value, dtype=np.float32)
    bits = single.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    result = (rounded & np.uint32(0xFFFF0000)).view(np.float32)
    return np.where(np.isnan(single), np.float32(np.nan), result).reshape(np.shape(value))
