"""Reading scalar expressions from Python syntax trees. Text is data: nothing here evaluates it."""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass, field

from .dtypes import DTYPES, Kind
from .errors import ParseError
from .expr import INTEGER, LOGIC, Expr, Op, apply, call, cast, const, index, load, var

BINARY: dict[type[ast.operator], Op] = {
    ast.Add: Op.ADD, ast.Sub: Op.SUB, ast.Mult: Op.MUL, ast.Div: Op.DIV, ast.FloorDiv: Op.FLOORDIV,
    ast.Mod: Op.MOD, ast.LShift: Op.SHL, ast.RShift: Op.SHR,
}  # fmt: skip
BITWISE: dict[type[ast.operator], tuple[Op, Op]] = {
    ast.BitAnd: (Op.AND, Op.BITAND), ast.BitOr: (Op.OR, Op.BITOR), ast.BitXor: (Op.XOR, Op.BITXOR),
}  # fmt: skip
COMPARE: dict[type[ast.cmpop], tuple[Op, bool]] = {
    ast.Lt: (Op.LT, False), ast.LtE: (Op.LE, False), ast.Gt: (Op.LT, True), ast.GtE: (Op.LE, True),
    ast.Eq: (Op.EQ, False), ast.NotEq: (Op.NE, False),
}  # fmt: skip
INFIX_ONLY = {Op.ADD, Op.SUB, Op.MUL, Op.DIV, Op.FLOORDIV, Op.MOD, Op.LT, Op.LE, Op.EQ, Op.NE, Op.CAST}
FUNCTIONS = {
    op.value: op
    for op in Op
    if op.value.isidentifier()
    and op not in INFIX_ONLY | INTEGER | LOGIC | {Op.CONST, Op.VAR, Op.INDEX, Op.LOAD, Op.CALL}
}
ARITY = {Op.SELECT: 3, Op.MIN: 2, Op.MAX: 2, Op.POW: 2}
NAMED_CONSTANTS = {"inf": math.inf, "nan": math.nan}
STATEMENT_WORDS = {
    "load", "store", "copy", "copy_async", "alloc", "barriers", "zeros", "full", "gemm", "gemm_async", "tile", "tiles",
    "grid", "range", "role", "commit", "wait_group", "arrive", "wait", "sync", "reduce_add", "reduce_max",
    "reduce_sum", "out", "program", "attention",
}  # fmt: skip
RESERVED = {*FUNCTIONS, *NAMED_CONSTANTS, *DTYPES, *STATEMENT_WORDS, "index", "int", "float"}


@dataclass(slots=True)
class Scope:
    """The names that an expression may use."""

    kinds: dict[str, Kind] = field(default_factory=dict)  # scalars and tiles
    tensors: dict[str, Kind] = field(default_factory=dict)  # things that are indexed
    regions: dict[str, Kind] = field(default_factory=dict)  # things that are called
    tiles: set[str] = field(default_factory=set)  # tile variables

    def copy(self) -> Scope:
        """An independent copy, for a nested scope."""
        return Scope(dict(self.kinds), dict(self.tensors), dict(self.regions), set(self.tiles))


def fail(node: ast.AST, found: str, wanted: str) -> ParseError:
    """A parse error at a node."""
    return ParseError(
        line=getattr(node, "lineno", 0), column=getattr(node, "col_offset", -1) + 1, found=found, wanted=wanted
    )


def parse_expression(node: ast.expr, scope: Scope) -> Expr:
    """The expression a syntax tree stands for; ParseError names what is not part of the language."""
    try:
        return _parse(node, scope)
    except TypeError as error:
        raise fail(node, str(error), "operands of fitting kinds") from None


def _parse(node: ast.expr, scope: Scope) -> Expr:
    if isinstance(node, ast.Constant):
        return _constant(node)
    if isinstance(node, ast.Name):
        return _name(node, scope)
    if isinstance(node, ast.UnaryOp):
        return _unary(node, scope)
    if isinstance(node, ast.BinOp):
        return _binary(node, scope)
    if isinstance(node, ast.Compare):
        return _compare(node, scope)
    if isinstance(node, ast.Subscript):
        return _element(node, scope)
    if isinstance(node, ast.Call):
        return _call(node, scope)
    raise fail(node, f"{type(node).__name__} expression", "arithmetic, a comparison, a load or a call")


def _constant(node: ast.Constant) -> Expr:
    if not isinstance(node.value, (bool, int, float)):
        raise fail(node, repr(node.value)[:40], "a number or a truth value")
    if isinstance(node.value, int) and abs(node.value) > 2**63:
        raise fail(node, "an integer beyond 64 bits", "a 64-bit integer")
    return const(node.value)


def _name(node: ast.Name, scope: Scope) -> Expr:
    if node.id in NAMED_CONSTANTS:
        return const(NAMED_CONSTANTS[node.id])
    if node.id not in scope.kinds:
        raise fail(node, f"unknown name {node.id!r}", f"one of {', '.join(sorted(scope.kinds))}")
    return var(node.id, scope.kinds[node.id])


def _unary(node: ast.UnaryOp, scope: Scope) -> Expr:
    value = _parse(node.operand, scope)
    if isinstance(node.op, ast.USub):
        number = value.attr
        if value.op is Op.CONST and isinstance(number, (int, float)) and not isinstance(number, bool):
            return const(-number)
        return apply(Op.NEG, value)
    if isinstance(node.op, (ast.Invert, ast.Not)):
        return apply(Op.NOT, value)
    return value


def _binary(node: ast.BinOp, scope: Scope) -> Expr:
    left, right = _parse(node.left, scope), _parse(node.right, scope)
    if type(node.op) in BINARY:
        return apply(BINARY[type(node.op)], left, right)
    if type(node.op) in BITWISE:
        logic, bits = BITWISE[type(node.op)]
        return apply(logic if left.kind is Kind.BOOL else bits, left, right)
    raise fail(node, f"operator {type(node.op).__name__}", "+ - * / // % << >> & | ^ or pow(a, b)")


def _compare(node: ast.Compare, scope: Scope) -> Expr:
    if len(node.ops) != 1:
        raise fail(node, "a chained comparison", "two comparisons joined by &")
    if type(node.ops[0]) not in COMPARE:
        raise fail(node, f"comparison {type(node.ops[0]).__name__}", "< <= > >= == !=")
    op, swapped = COMPARE[type(node.ops[0])]
    left, right = _parse(node.left, scope), _parse(node.comparators[0], scope)
    return apply(op, right, left) if swapped else apply(op, left, right)


def subscripts(node: ast.Subscript) -> list[ast.expr]:
    """The indices of `x[a, b]`, `x[a]` or `x[()]`."""
    return list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]


def _element(node: ast.Subscript, scope: Scope) -> Expr:
    if not isinstance(node.value, ast.Name) or node.value.id not in scope.tensors:
        raise fail(node, "an index into something that is no tensor", f"one of {', '.join(sorted(scope.tensors))}")
    name = node.value.id
    return load(name, tuple(_parse(item, scope) for item in subscripts(node)), scope.tensors[name])


def _call(node: ast.Call, scope: Scope) -> Expr:
    if not isinstance(node.func, ast.Name) or node.keywords:
        raise fail(node, "a call of this form", "name(arguments) without keywords")
    name = node.func.id
    if name == "index":
        return index(tile_variable(node, scope))
    args = tuple(_parse(arg, scope) for arg in node.args)
    if name in scope.regions:
        return call(name, args, scope.regions[name])
    if name not in FUNCTIONS and name not in DTYPES and name != "neg":
        known = sorted({*scope.regions, *FUNCTIONS, *DTYPES})
        raise fail(node, f"unknown function {name!r}", f"one of {', '.join(known)}")
    wanted = 1 if name in DTYPES else ARITY.get(FUNCTIONS[name], 1)
    if len(args) != wanted:
        raise fail(node, f"{name} with {len(args)} arguments", f"{wanted}")
    return cast(args[0], DTYPES[name]) if name in DTYPES else apply(FUNCTIONS[name], *args)


def tile_variable(node: ast.Call, scope: Scope) -> str:
    """The tile variable named by the single argument of `index(…)`."""
    if len(node.args) == 1 and isinstance(node.args[0], ast.Name) and node.args[0].id in scope.tiles:
        return node.args[0].id
    raise fail(node, "index of something that is no tile variable", f"one of {', '.join(sorted(scope.tiles))}")
