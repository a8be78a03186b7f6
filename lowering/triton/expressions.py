"""Expressions as Triton text: one table of operations, broadcasting by axis name, float32 arithmetic.

The text is asked for in an order of axes: whatever lacks some of them is computed small and then widened, so
`acc * rescale` over [m, Dv] becomes `acc * rescale[:, None]`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ...ir.domain.linear import is_nonnegative
from ...ir.dtypes import DType, Kind
from ...ir.evaluate import evaluate
from ...ir.expr import Expr, Op, const, free_vars, transform
from ...ir.printer import ATOM, COMPARE, INFIX, UNARY
from ...ir.shapes import COMPUTED, Shapes, TileType

TRITON_TYPES = {
    DType.F64: "tl.float64", DType.F32: "tl.float32", DType.BF16: "tl.bfloat16", DType.F16: "tl.float16",
    DType.I64: "tl.int64", DType.I32: "tl.int32", DType.I16: "tl.int16", DType.I8: "tl.int8",
    DType.U8: "tl.uint8", DType.BOOL: "tl.int1",
}  # fmt: skip

CALLS: dict[Op, str] = {
    Op.ABS: "tl.abs({0})", Op.MIN: "tl.minimum({0}, {1})", Op.MAX: "tl.maximum({0}, {1})",
    Op.POW: "power({0}, {1})", Op.EXP: "tl.exp({0})", Op.EXP2: "tl.exp2({0})", Op.LOG: "tl.log({0})",
    Op.LOG2: "tl.log2({0})", Op.SQRT: "tl.sqrt({0})", Op.RSQRT: "tl.rsqrt({0})", Op.TANH: "tanh({0})",
    Op.SIGMOID: "tl.sigmoid({0})", Op.ERF: "tl.erf({0})", Op.SIN: "tl.sin({0})", Op.COS: "tl.cos({0})",
    Op.FLOOR: "tl.floor({0})", Op.SELECT: "tl.where({0}, {1}, {2})",
}  # fmt: skip
FLOAT_CALLS: dict[Op, str] = {Op.MIN: "minimum({0}, {1})", Op.MAX: "maximum({0}, {1})"}
FLOOR_CALLS: dict[Op, str] = {Op.FLOORDIV: "floor_divide({0}, {1})", Op.MOD: "floor_modulo({0}, {1})"}

# Tiles of these types are widened before arithmetic; every other type is computed in as it is.
WIDENED = {
    DType.BF16: DType.F32, DType.F16: DType.F32, DType.F64: DType.F32,
    DType.I16: DType.I32, DType.I8: DType.I32, DType.U8: DType.I32,
}  # fmt: skip


def folded(expr: Expr, sizes: Mapping[str, int]) -> Expr:
    """The expression with fixed sizes as literals, literals computed, and logic with a literal decided."""
    return transform(expr, lambda node: _fold(node, sizes))


def _fold(node: Expr, sizes: Mapping[str, int]) -> Expr | None:
    if node.op is Op.VAR and str(node.attr) in sizes:
        return const(sizes[str(node.attr)])
    if node.op in (Op.LOAD, Op.CALL) or not node.args:
        return None
    if all(arg.op is Op.CONST for arg in node.args) and (node.op is not Op.CAST or node.attr is DType.F32):
        return const(evaluate(node, {}, {}, float_type=np.float64).item())
    rule = _FOLDS.get(node.op)
    return rule(*node.args) if rule else None


def _fold_and(left: Expr, right: Expr) -> Expr | None:
    for one, other in ((left, right), (right, left)):
        if one.op is Op.CONST:
            return other if one.attr else one
    return None


def _fold_or(left: Expr, right: Expr) -> Expr | None:
    for one, other in ((left, right), (right, left)):
        if one.op is Op.CONST:
            return one if one.attr else other
    return None


def _fold_select(condition: Expr, then: Expr, otherwise: Expr) -> Expr | None:
    if condition.op is Op.CONST:
        return then if condition.attr else otherwise
    return None


def _fold_add(left: Expr, right: Expr) -> Expr | None:
    if left is const(0):
        return right
    return left if right is const(0) else None


_FOLDS: dict[Op, Callable[..., Expr | None]] = {
    Op.ADD: _fold_add,  # 0 + n -> n, of integers
    Op.AND: _fold_and,  # True & x -> x, False & x -> False
    Op.OR: _fold_or,  # False | x -> x, True | x -> True
    Op.SELECT: _fold_select,  # where(True, x, y) -> x
}


@dataclass(slots=True)
class ExpressionWriter:
    """Writes prepared expressions: no LOAD is left in them and every CALL is of a region that became a function.

    `names`: the text of a variable. `index`: the text of a tile variable's indices. `call_parameters`: for each such
    region, which of its arguments the function takes, and the sizes after them. `functions`: collects those of
    functions.py that are called. `may_be_negative`: integer names that are not indices or sizes.
    """

    shapes: Shapes
    names: Callable[[str], str]
    index: Callable[[str], str]
    call_parameters: Mapping[str, tuple[tuple[int, ...], tuple[str, ...]]]
    functions: set[str] = field(default_factory=set)
    may_be_negative: set[str] = field(default_factory=set)

    def axes(self, expr: Expr) -> tuple[str, ...]:
        """Axes that the text of an expression has (of a call: those of the arguments it takes)."""
        if expr.op is Op.VAR:
            return self.shapes.names.get(str(expr.attr), TileType(DType.I32)).axes
        if expr.op is Op.INDEX:
            return (str(expr.attr),)
        args = expr.args
        if expr.op is Op.CALL:
            args = tuple(args[n] for n in self.call_parameters[str(expr.attr)][0])
        parts = [self.axes(arg) for arg in args]
        union = tuple(dict.fromkeys(axis for part in parts for axis in part))
        return next((part for part in parts if len(part) == len(union)), union)

    def text(self, expr: Expr, axes: tuple[str, ...], context: int = COMPARE) -> str:
        """Text of an expression over `axes`, in parentheses if it binds more weakly than `context`."""
        text, strength = self._text(expr, axes)
        return f"({text})" if strength < context else text

    def is_nonnegative(self, expr: Expr) -> bool:
        """Whether an integer is known to be at least 0."""
        return is_nonnegative(expr) and self.may_be_negative.isdisjoint(free_vars(expr))

    def _text(self, expr: Expr, axes: tuple[str, ...]) -> tuple[str, int]:
        own = self.axes(expr)
        if own and set(own) != set(axes):
            narrow = self.text(expr, tuple(axis for axis in axes if axis in own), ATOM)
            return f"{narrow}[{widening(axes, own)}]", ATOM
        if expr.op is Op.CONST:
            return literal(expr.attr)
        if expr.op is Op.VAR:
            return self._transposed(self.names(str(expr.attr)), own, axes), ATOM
        if expr.op is Op.INDEX:
            return self.index(str(expr.attr)), ATOM
        if expr.op is Op.CAST:
            return self._cast(expr, axes), ATOM
        if expr.op is Op.CALL:
            return self._call(expr, axes), ATOM
        return self._operation(expr, axes)

    @staticmethod
    def _transposed(name: str, own: tuple[str, ...], axes: tuple[str, ...]) -> str:
        if not own or own == axes:
            return name
        order = ", ".join(str(own.index(axis)) for axis in axes)
        return f"tl.trans({name})" if len(own) == 2 else f"tl.permute({name}, {order})"

    def _operation(self, expr: Expr, axes: tuple[str, ...]) -> tuple[str, int]:
        op, args = expr.op, expr.args
        template = self._template(expr)
        if template is not None:
            name = template.partition("(")[0]
            if "." not in name:
                self.functions.add(name)
            is_float = expr.kind is Kind.FLOAT and op is not Op.SELECT
            return template.format(*(self._operand(arg, axes, COMPARE, is_float) for arg in args)), ATOM
        if op in (Op.NOT, Op.NEG):
            return f"{'~' if op is Op.NOT else '-'}{self._operand(args[0], axes, UNARY)}", UNARY
        symbol, strength = INFIX[op]
        left_context = strength + 1 if strength == COMPARE else strength
        left, right = self._operand(args[0], axes, left_context), self._operand(args[1], axes, strength + 1)
        return f"{left} {symbol} {right}", strength

    def _template(self, expr: Expr) -> str | None:
        if expr.op in FLOOR_CALLS and not all(self.is_nonnegative(arg) for arg in expr.args):
            return FLOOR_CALLS[expr.op]
        if expr.kind is Kind.FLOAT and expr.op in FLOAT_CALLS:
            return FLOAT_CALLS[expr.op]
        return CALLS.get(expr.op)

    def _operand(self, expr: Expr, axes: tuple[str, ...], context: int, is_float: bool = False) -> str:
        """An operand in the type arithmetic is done in; `is_float` makes integers floats."""
        if is_float and expr.op is Op.CONST and expr.kind is Kind.INT:
            return self.text(const(float(expr.attr)), axes, context)  # type: ignore[arg-type]
        wide = WIDENED.get(self.dtype(expr))
        if is_float and expr.kind is Kind.INT:
            wide = DType.F32
        if wide is None:
            return self.text(expr, axes, context)
        return f"{self.text(expr, axes, ATOM)}.to({TRITON_TYPES[wide]})"

    def dtype(self, expr: Expr) -> DType:
        """The type of the text's value."""
        if expr.op is Op.VAR and str(expr.attr) in self.shapes.names:
            return self.shapes.names[str(expr.attr)].dtype
        if expr.op is Op.CAST and isinstance(expr.attr, DType):
            return expr.attr
        return COMPUTED[expr.kind]

    def _cast(self, expr: Expr, axes: tuple[str, ...]) -> str:
        (value,), dtype = expr.args, expr.attr
        assert isinstance(dtype, DType)
        if value.op is Op.CONST:
            return f"tl.cast({self.text(value, axes)}, {TRITON_TYPES[dtype]})"
        if dtype is DType.BOOL:
            return f"({self._operand(value, axes, COMPARE + 1)} != 0)"
        is_computed = value.kind is Kind.INT and value.op is not Op.VAR  # in 32 bits or in 64
        if dtype is self.dtype(value) and not is_computed:
            return self.text(value, axes, ATOM)
        return f"{self.text(value, axes, ATOM)}.to({TRITON_TYPES[dtype]})"

    def _call(self, expr: Expr, axes: tuple[str, ...]) -> str:
        name = str(expr.attr)
        positions, sizes = self.call_parameters[name]
        args = [self._operand(expr.args[n], axes, COMPARE) for n in positions]
        return f"{self.names(name)}({', '.join([*args, *(self.names(size) for size in sizes)])})"


def widening(axes: tuple[str, ...], own: tuple[str, ...]) -> str:
    """The index that widens a tile of `own` axes to `axes`: `:, None`."""
    return ", ".join(":" if axis in own else "None" for axis in axes)


def literal(value: object) -> tuple[str, int]:
    """A number as Triton text, and how strongly it binds."""
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")', ATOM
    text = repr(value)
    return text, UNARY if text.startswith("-") else ATOM
