"""Operations that work element by element: a table from TTIR's names to expressions, with constants folded."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable

from ...dtypes import DType, Kind
from ...expr import COMPARISON, Expr, Op, apply, as_expr, cast, const, select

Build = Callable[..., Expr]
LIBDEVICE = {
    "tanh": Op.TANH, "exp": Op.EXP, "exp2": Op.EXP2, "log": Op.LOG, "log2": Op.LOG2, "sqrt": Op.SQRT,
    "rsqrt": Op.RSQRT, "erf": Op.ERF, "sin": Op.SIN, "cos": Op.COS, "floor": Op.FLOOR, "fabs": Op.ABS,
    "pow": Op.POW, "fmax": Op.MAX, "fmin": Op.MIN, "fast_expf": Op.EXP, "fast_logf": Op.LOG, "fast_log2f": Op.LOG2,
    "fast_tanhf": Op.TANH, "fast_sinf": Op.SIN, "fast_cosf": Op.COS, "fast_powf": Op.POW,
}  # fmt: skip


def of(op: Op) -> Build:
    """An operation, folded where all operands are numbers."""
    return lambda *args: folded(op, *args)


def folded(op: Op, *operands: Expr | float) -> Expr:
    """`op` on its operands, with what needs no computing computed."""
    args = tuple(as_expr(operand) for operand in operands)
    if op in FLOAT_FOLDS and all(arg.op is Op.CONST for arg in args):
        return _number(FLOAT_FOLDS[op], args)
    known = _neutral(op, args)
    if known is not None:
        return known
    return _function(apply(op, *args))


def _number(compute: Callable[..., float], args: tuple[Expr, ...]) -> Expr:
    values = [arg.attr for arg in args]
    try:
        value = compute(*values)
    except (ValueError, ZeroDivisionError, OverflowError):
        return apply(_BY_FOLD[compute], *args)
    return const(single(value) if isinstance(value, float) else value)


def single(value: float) -> float:
    """The shortest decimal that is the same float32."""
    if not math.isfinite(value):
        return value
    try:
        packed = struct.pack("<f", value)
    except OverflowError:
        return value
    for digits in range(6, 10):
        short = float(f"{value:.{digits}g}")
        if struct.pack("<f", short) == packed:
            return short
    return value


FLOAT_FOLDS: dict[Op, Callable[..., float]] = {
    Op.ADD: lambda a, b: a + b,
    Op.SUB: lambda a, b: a - b,
    Op.MUL: lambda a, b: a * b,
    Op.DIV: lambda a, b: a / b,
    Op.NEG: lambda a: -a,
    Op.MAX: max,
    Op.MIN: min,
    Op.SQRT: math.sqrt,
    Op.RSQRT: lambda a: 1.0 / math.sqrt(a),
    Op.EXP: math.exp,
    Op.EXP2: lambda a: 2.0**a,
    Op.LOG: math.log,
    Op.LOG2: math.log2,
}
_BY_FOLD = {compute: op for op, compute in FLOAT_FOLDS.items()}


def _is(expr: Expr, value: float) -> bool:
    return expr.op is Op.CONST and expr.kind is not Kind.BOOL and expr.attr == value


def _neutral(op: Op, args: tuple[Expr, ...]) -> Expr | None:
    """x + 0 -> x, x * 1 -> x, 0 - x -> -x, x & true -> x, where(true, a, b) -> a."""
    if op is Op.ADD:
        return args[1] if _is(args[0], 0) else args[0] if _is(args[1], 0) else None
    if op is Op.SUB:
        return args[0] if _is(args[1], 0) else apply(Op.NEG, args[1]) if _is(args[0], 0) else None
    if op is Op.MUL:
        return args[1] if _is(args[0], 1) else args[0] if _is(args[1], 1) else None
    if op is Op.DIV and _is(args[1], 1):
        return args[0]
    if op in (Op.AND, Op.OR):
        for one, other in (args, args[::-1]):
            if one.op is Op.CONST:
                return other if bool(one.attr) == (op is Op.AND) else one
        return args[0] if args[0] is args[1] else None
    if op is Op.SELECT:
        if args[0].op is Op.CONST:
            return args[1] if args[0].attr else args[2]
        return args[1] if args[1] is args[2] else None
    return None


def _function(expr: Expr) -> Expr:
    """1 / (1 + exp(-x)) -> sigmoid(x)."""
    if expr.op is Op.DIV and _is(expr.args[0], 1):
        inner = _beside(expr.args[1], Op.ADD, 1)
        if inner is not None and inner.op is Op.EXP and inner.args[0].op is Op.NEG:
            return apply(Op.SIGMOID, inner.args[0].args[0])
    return expr


def _beside(expr: Expr, op: Op, value: float) -> Expr | None:
    """The other operand where one is that number."""
    if expr.op is not op:
        return None
    return expr.args[1] if _is(expr.args[0], value) else expr.args[0] if _is(expr.args[1], value) else None


def compared(predicate: str) -> Build:
    """A comparison by TTIR's predicate (slt, oge, une, …)."""
    plain = predicate if predicate in ("eq", "ne") else predicate[1:]
    table: dict[str, Build] = {
        "lt": lambda a, b: apply(Op.LT, a, b),
        "le": lambda a, b: apply(Op.LE, a, b),
        "gt": lambda a, b: apply(Op.LT, b, a),
        "ge": lambda a, b: apply(Op.LE, b, a),
        "eq": lambda a, b: apply(Op.EQ, a, b),
        "ne": lambda a, b: apply(Op.NE, a, b),
    }
    build = table[plain]

    def compare(a: Expr, b: Expr) -> Expr:
        if a.op is Op.CONST and b.op is Op.CONST:
            return const(bool(_COMPARE[plain](a.attr, b.attr)))
        return build(a, b)

    return compare


_COMPARE: dict[str, Callable[[object, object], bool]] = {
    "lt": lambda a, b: a < b,  # type: ignore[operator]
    "le": lambda a, b: a <= b,  # type: ignore[operator]
    "gt": lambda a, b: a > b,  # type: ignore[operator]
    "ge": lambda a, b: a >= b,  # type: ignore[operator]
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
}


def logic(op: Op, bits: Op) -> Build:
    """`and`, `or`, `xor` on truth values; bits of integers."""

    def build(a: Expr, b: Expr) -> Expr:
        if op is Op.XOR and b.op is Op.CONST and b.kind is Kind.BOOL:
            return negated(a) if b.attr else a
        return folded(op if a.kind is Kind.BOOL else bits, a, b)

    return build


def negated(condition: Expr) -> Expr:
    """not condition, as the opposite comparison where there is one."""
    if condition.op is Op.CONST:
        return const(not condition.attr)
    if condition.op in COMPARISON and all(arg.kind is Kind.INT for arg in condition.args):
        a, b = condition.args
        opposite = {Op.LT: (Op.LE, b, a), Op.LE: (Op.LT, b, a), Op.EQ: (Op.NE, a, b), Op.NE: (Op.EQ, a, b)}
        return apply(*opposite[condition.op])
    return apply(Op.NOT, condition)


def as_number(value: Expr) -> Expr:
    """A truth value as 0 or 1; numbers as they are."""
    return select(value, 1, 0) if value.kind is Kind.BOOL else value


def to_float(value: Expr) -> Expr:
    """An integer as a float."""
    if value.op is Op.CONST and value.kind is Kind.INT:
        return const(float(value.attr))  # type: ignore[arg-type]
    return cast(as_number(value), DType.F32)


TABLE: dict[str, Build] = {
    "arith.addf": of(Op.ADD), "arith.subf": of(Op.SUB), "arith.mulf": of(Op.MUL), "arith.divf": of(Op.DIV),
    "tt.precise_divf": of(Op.DIV), "arith.negf": of(Op.NEG), "tt.precise_sqrt": of(Op.SQRT),
    "arith.maxnumf": of(Op.MAX), "arith.maximumf": of(Op.MAX),
    "arith.minnumf": of(Op.MIN), "arith.minimumf": of(Op.MIN),
    "math.exp": of(Op.EXP), "math.exp2": of(Op.EXP2), "math.log": of(Op.LOG), "math.log2": of(Op.LOG2),
    "math.sqrt": of(Op.SQRT), "math.rsqrt": of(Op.RSQRT), "math.tanh": of(Op.TANH), "math.erf": of(Op.ERF),
    "math.sin": of(Op.SIN), "math.cos": of(Op.COS), "math.floor": of(Op.FLOOR), "math.absf": of(Op.ABS),
    "math.absi": of(Op.ABS), "math.powf": of(Op.POW),
    "math.fma": lambda a, b, c: folded(Op.ADD, folded(Op.MUL, a, b), c),
    "tt.clampf": lambda x, low, high: folded(Op.MIN, folded(Op.MAX, x, low), high),
    "arith.addi": of(Op.ADD), "arith.subi": of(Op.SUB), "arith.muli": of(Op.MUL),
    "arith.maxsi": of(Op.MAX), "arith.maxui": of(Op.MAX), "arith.minsi": of(Op.MIN), "arith.minui": of(Op.MIN),
    "arith.shli": lambda a, b: _shifted(a, b, Op.SHL), "arith.shrsi": lambda a, b: _shifted(a, b, Op.SHR),
    "arith.shrui": lambda a, b: _shifted(a, b, Op.SHR),
    "arith.andi": logic(Op.AND, Op.BITAND), "arith.ori": logic(Op.OR, Op.BITOR), "arith.xori": logic(Op.XOR, Op.BITXOR),
    "arith.select": of(Op.SELECT),
    "arith.extf": lambda x: x, "arith.extsi": as_number, "arith.extui": as_number, "arith.index_cast": lambda x: x,
    "arith.sitofp": to_float, "arith.uitofp": to_float,
    "tt.bitcast": lambda x: x,
}  # fmt: skip


def _shifted(value: Expr, by: Expr, op: Op) -> Expr:
    """A shift by a number is a product or a quotient."""
    if by.op is Op.CONST and isinstance(by.attr, int) and 0 <= by.attr < 31:
        return apply(Op.MUL if op is Op.SHL else Op.FLOORDIV, value, 1 << by.attr)
    return apply(op, value, by)


def library_function(symbol: str) -> Build | None:
    """The expression of a function of CUDA's library, `__nv_tanhf`; None for what has none."""
    name = symbol.strip('"').removeprefix("__nv_")
    op = LIBDEVICE.get(name) or LIBDEVICE.get(name.removesuffix("f"))
    return None if op is None else of(op)


def is_identity(expr: Expr) -> bool:
    """Whether a tile's elements, over `lane.0` and `lane.1`, are one where these are equal and zero elsewhere."""
    while expr.op is Op.CAST:
        expr = expr.args[0]
    if expr.op is not Op.SELECT or expr.args[0].op not in (Op.EQ, Op.NE):
        return False
    condition, then, other = expr.args
    one, zero = (then, other) if condition.op is Op.EQ else (other, then)
    return _is(one, 1) and _is(zero, 0) and {a.attr for a in condition.args if a.op is Op.VAR} == {"lane.0", "lane.1"}


def literal(text: str, element: str) -> Expr:
    """A constant of the IR's text."""
    if text in ("true", "false"):
        return const(text == "true")
    if element == "i1":
        return const(bool(int(text)))
    if element.startswith("i"):
        return const(int(text, 0))
    if text.startswith("0x"):
        bits = int(text, 16)
        if element == "bf16":
            return const(struct.unpack("<f", struct.pack("<I", bits << 16))[0])
        code, wide = {"f16": ("e", "H"), "f32": ("f", "I"), "f64": ("d", "Q")}[element]
        return const(struct.unpack(f"<{code}", struct.pack(f"<{wide}", bits))[0])
    return const(single(float(text)))
