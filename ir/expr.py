"""Scalar expressions: one interned node type for score functions, mask predicates and tile arithmetic.

Equal expressions are the same object, so `is` compares them and hashing costs nothing. Constructors do
not simplify; `algebra.py` does. Applied to tiles, an expression acts element by element and broadcasts
by axis name.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Union
from weakref import WeakValueDictionary

from .dtypes import DType, Kind


class Op(Enum):
    """Operations of scalar expressions; `value` is the name in text."""

    # leaves
    CONST = "const"  # attr: int | float | bool
    VAR = "var"  # attr: name of a parameter, size, index or tile
    INDEX = "index"  # attr: tile variable; the global indices of its rows
    LOAD = "load"  # attr: tensor name; args: indices
    CALL = "call"  # attr: region name; args: its arguments
    # arithmetic
    ADD = "+"
    SUB = "-"
    MUL = "*"
    DIV = "/"
    FLOORDIV = "//"
    MOD = "%"
    NEG = "neg"
    ABS = "abs"
    MIN = "min"
    MAX = "max"
    POW = "pow"
    # functions of one float
    EXP = "exp"
    EXP2 = "exp2"
    LOG = "log"
    LOG2 = "log2"
    SQRT = "sqrt"
    RSQRT = "rsqrt"
    TANH = "tanh"
    SIGMOID = "sigmoid"
    ERF = "erf"
    SIN = "sin"
    COS = "cos"
    FLOOR = "floor"
    # comparison
    LT = "<"
    LE = "<="
    EQ = "=="
    NE = "!="
    # logic on truth values
    AND = "and"
    OR = "or"
    XOR = "xor"
    NOT = "not"
    # bits of integers
    BITAND = "&"
    BITOR = "|"
    BITXOR = "^"
    SHL = "<<"
    SHR = ">>"
    # choice and conversion
    SELECT = "where"  # args: condition, then, else
    CAST = "cast"  # attr: DType


ARITHMETIC = frozenset({Op.ADD, Op.SUB, Op.MUL, Op.NEG, Op.ABS, Op.MIN, Op.MAX})
INTEGER = frozenset({Op.FLOORDIV, Op.MOD, Op.BITAND, Op.BITOR, Op.BITXOR, Op.SHL, Op.SHR})
UNARY_FLOAT = frozenset(
    {Op.EXP, Op.EXP2, Op.LOG, Op.LOG2, Op.SQRT, Op.RSQRT, Op.TANH, Op.SIGMOID, Op.ERF, Op.SIN, Op.COS, Op.FLOOR}
)
FLOATING = UNARY_FLOAT | {Op.DIV, Op.POW}
COMPARISON = frozenset({Op.LT, Op.LE, Op.EQ, Op.NE})
LOGIC = frozenset({Op.AND, Op.OR, Op.XOR, Op.NOT})

Const = int | float | bool
ExprLike = Union["Expr", int, float, bool]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Expr:
    """One node. Build with the functions below or the operators, never directly."""

    op: Op
    args: tuple[Expr, ...]
    attr: object
    kind: Kind

    def __add__(self, other: ExprLike) -> Expr:
        return apply(Op.ADD, self, other)

    def __radd__(self, other: ExprLike) -> Expr:
        return apply(Op.ADD, other, self)

    def __sub__(self, other: ExprLike) -> Expr:
        return apply(Op.SUB, self, other)

    def __rsub__(self, other: ExprLike) -> Expr:
        return apply(Op.SUB, other, self)

    def __mul__(self, other: ExprLike) -> Expr:
        return apply(Op.MUL, self, other)

    def __rmul__(self, other: ExprLike) -> Expr:
        return apply(Op.MUL, other, self)

    def __truediv__(self, other: ExprLike) -> Expr:
        return apply(Op.DIV, self, other)

    def __rtruediv__(self, other: ExprLike) -> Expr:
        return apply(Op.DIV, other, self)

    def __floordiv__(self, other: ExprLike) -> Expr:
        return apply(Op.FLOORDIV, self, other)

    def __mod__(self, other: ExprLike) -> Expr:
        return apply(Op.MOD, self, other)

    def __neg__(self) -> Expr:
        return apply(Op.NEG, self)

    def __lt__(self, other: ExprLike) -> Expr:
        return apply(Op.LT, self, other)

    def __le__(self, other: ExprLike) -> Expr:
        return apply(Op.LE, self, other)

    def __gt__(self, other: ExprLike) -> Expr:
        return apply(Op.LT, other, self)

    def __ge__(self, other: ExprLike) -> Expr:
        return apply(Op.LE, other, self)

    def __and__(self, other: ExprLike) -> Expr:
        return apply(Op.AND if self.kind is Kind.BOOL else Op.BITAND, self, other)

    def __or__(self, other: ExprLike) -> Expr:
        return apply(Op.OR if self.kind is Kind.BOOL else Op.BITOR, self, other)

    def __invert__(self) -> Expr:
        return apply(Op.NOT, self)

    def __repr__(self) -> str:
        from .printer import print_expr

        return print_expr(self)


_interned: WeakValueDictionary[tuple[object, ...], Expr] = WeakValueDictionary()


def _intern(op: Op, args: tuple[Expr, ...], attr: object, kind: Kind) -> Expr:
    tag: object = struct.pack("<d", attr) if isinstance(attr, float) else attr
    key = (op, args, tag, kind)
    found = _interned.get(key)
    if found is None:
        found = _interned[key] = Expr(op, args, attr, kind)
    return found


def const(value: Const) -> Expr:
    """A literal; its kind follows from its Python type. All NaNs are one NaN."""
    if isinstance(value, bool):
        return _intern(Op.CONST, (), value, Kind.BOOL)
    if isinstance(value, int):
        return _intern(Op.CONST, (), value, Kind.INT)
    return _intern(Op.CONST, (), math.nan if math.isnan(value) else float(value), Kind.FLOAT)


def var(name: str, kind: Kind = Kind.INT) -> Expr:
    """A named scalar or tile: a region parameter, a size, a loop variable, a computed tile."""
    return _intern(Op.VAR, (), name, kind)


def index(tile_variable: str) -> Expr:
    """The global indices covered by the current tile of a tile loop; an INT tile with that axis."""
    return _intern(Op.INDEX, (), tile_variable, Kind.INT)


def load(tensor: str, indices: tuple[ExprLike, ...], kind: Kind) -> Expr:
    """One element of a tensor per element of the indices."""
    return _intern(Op.LOAD, tuple(as_expr(i) for i in indices), tensor, kind)


def call(region: str, args: tuple[ExprLike, ...], kind: Kind) -> Expr:
    """A region applied to arguments."""
    return _intern(Op.CALL, tuple(as_expr(a) for a in args), region, kind)


def cast(value: ExprLike, dtype: DType) -> Expr:
    """The value rounded to `dtype` (floats), truncated (float to int) or widened (int to float)."""
    return _intern(Op.CAST, (as_expr(value),), dtype, dtype.kind)


def select(condition: ExprLike, then: ExprLike, otherwise: ExprLike) -> Expr:
    """`then` where the condition holds, else `otherwise`."""
    return apply(Op.SELECT, condition, then, otherwise)


def as_expr(value: ExprLike) -> Expr:
    """The expression itself, or a literal made of a Python number."""
    return value if isinstance(value, Expr) else const(value)


def apply(op: Op, *operands: ExprLike) -> Expr:
    """`op` on its operands. Raises TypeError when their kinds do not fit the operation."""
    args = tuple(as_expr(operand) for operand in operands)
    return _intern(op, args, None, _result_kind(op, args))


def _result_kind(op: Op, args: tuple[Expr, ...]) -> Kind:
    kinds = [arg.kind for arg in args]
    if op in COMPARISON:
        return Kind.BOOL
    if op is Op.SELECT:
        _require(kinds[0] is Kind.BOOL, op, kinds)
        return _join(op, kinds[1:])
    if op in LOGIC:
        _require(all(kind is Kind.BOOL for kind in kinds), op, kinds)
        return Kind.BOOL
    if op in INTEGER:
        _require(all(kind is Kind.INT for kind in kinds), op, kinds)
        return Kind.INT
    if op in FLOATING:
        _require(Kind.BOOL not in kinds, op, kinds)
        return Kind.FLOAT
    _require(op in ARITHMETIC and Kind.BOOL not in kinds, op, kinds)
    return _join(op, kinds)


def _join(op: Op, kinds: list[Kind]) -> Kind:
    if len(set(kinds)) == 1:
        return kinds[0]
    _require(Kind.BOOL not in kinds, op, kinds)
    return Kind.FLOAT


def _require(fits: bool, op: Op, kinds: list[Kind]) -> None:
    if not fits:
        raise TypeError(f"{op.value} does not take operands of kinds {', '.join(k.value for k in kinds)}")


def walk(root: Expr) -> Iterator[Expr]:
    """Every distinct node below `root`, arguments before users."""
    seen: set[Expr] = set()
    stack: list[tuple[Expr, bool]] = [(root, False)]
    while stack:
        node, ready = stack.pop()
        if node in seen:
            continue
        if ready:
            seen.add(node)
            yield node
            continue
        stack.append((node, True))
        stack.extend((arg, False) for arg in reversed(node.args))


def rebuild(node: Expr, args: tuple[Expr, ...]) -> Expr:
    """The same operation on other arguments; the kind is derived again where the arguments decide it."""
    if args == node.args:
        return node
    if node.op in (Op.LOAD, Op.CALL, Op.CAST):
        return _intern(node.op, args, node.attr, node.kind)
    return apply(node.op, *args)


def transform(root: Expr, replace: Callable[[Expr], Expr | None]) -> Expr:
    """Rebuild bottom-up; `replace` gives a new node or None to keep the rebuilt one."""
    done: dict[Expr, Expr] = {}
    for node in walk(root):
        new = rebuild(node, tuple(done[arg] for arg in node.args))
        done[node] = replace(new) or new
    return done[root]


def substitute(root: Expr, values: Mapping[str, Expr]) -> Expr:
    """Replace named variables by expressions."""
    return transform(root, lambda e: values.get(str(e.attr)) if e.op is Op.VAR else None)


def free_vars(root: Expr) -> frozenset[str]:
    """Names of all variables."""
    return frozenset(str(node.attr) for node in walk(root) if node.op is Op.VAR)


def loads(root: Expr) -> tuple[Expr, ...]:
    """All distinct LOAD nodes, in order of evaluation."""
    return tuple(node for node in walk(root) if node.op is Op.LOAD)
