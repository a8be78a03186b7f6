"""Scalar expressions -> C++: one table of operations, and loads that know which way the lanes run.

An expression is emitted in one of three ways: as a plain scalar, *across* (lanes run along the tile's last axis) or
*down* (lanes run along its first axis, one row per lane). `Lanes` says which axis the lanes follow and what every
name stands for there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ...ir.dtypes import DType, Kind
from ...ir.errors import LoweringError
from ...ir.expr import COMPARISON, Expr, Op, walk

MOST_LANES = 16  # of any instruction set
VECTOR = {Kind.FLOAT: "vf", Kind.INT: "vi", Kind.BOOL: "vm"}
SCALAR = {Kind.FLOAT: "float", Kind.INT: "int", Kind.BOOL: "bool"}

# Infix operators that read the same for scalars and vectors.
INFIX = {
    Op.ADD: "+", Op.SUB: "-", Op.MUL: "*", Op.DIV: "/", Op.LT: "<", Op.LE: "<=", Op.EQ: "==", Op.NE: "!=",
    Op.AND: "&", Op.OR: "|", Op.XOR: "^", Op.BITAND: "&", Op.BITOR: "|", Op.BITXOR: "^", Op.SHL: "<<", Op.SHR: ">>",
}  # fmt: skip
FUNCTION = {
    Op.MIN: "minimum", Op.MAX: "maximum", Op.ABS: "abs", Op.POW: "pow", Op.EXP: "exp", Op.EXP2: "exp2", Op.LOG: "log",
    Op.LOG2: "log2", Op.SQRT: "sqrt", Op.RSQRT: "rsqrt", Op.TANH: "tanh", Op.SIGMOID: "sigmoid", Op.ERF: "erf",
    Op.SIN: "sin", Op.COS: "cos", Op.FLOOR: "floor", Op.FLOORDIV: "floor_div", Op.MOD: "floor_mod",
}  # fmt: skip
INTEGER_BOUND = {Op.MIN: "min", Op.MAX: "max"}
NARROW = {DType.U8: "{0} & 255", DType.I8: "({0} << 24) >> 24", DType.I16: "({0} << 16) >> 16"}
ROUNDED = {DType.BF16: "round_bf16", DType.F16: "round_f16"}


@dataclass(frozen=True, slots=True)
class Term:
    """C++ text of a value; `wide` when it has one element per lane."""

    text: str
    kind: Kind
    wide: bool = False
    tight: bool = True  # needs no parentheses as an operand


@dataclass(slots=True)
class Lanes:
    """What names stand for where an expression is emitted.

    `terms`: names of tiles and scalars. `indices`: tile variables other than `axis` -> text of their scalar global
    index. `axis`: the tile variable or size that the lanes follow, None for plain scalars. `first`: C++ text of the
    global index of lane 0. `count`: C++ text of how many lanes hold real elements, None when all do.
    """

    terms: Mapping[str, Term]
    indices: Mapping[str, str] = field(default_factory=dict)
    axis: str | None = None
    first: str = "0"
    count: str | None = None
    coarse_exp2: bool = False
    is_aligned: bool = False  # lane 0 is at a multiple of W

    def position(self, axis: str) -> Term:
        """The global index along an axis."""
        if axis == self.axis:
            return Term(f"iota() + ({self.first})", Kind.INT, wide=True, tight=False)
        if axis not in self.indices:
            raise LoweringError(f"index({axis}) has no single value here")
        return Term(self.indices[axis], Kind.INT)


@dataclass(slots=True)
class Names:
    """Hands out names that the function does not use yet."""

    used: set[str] = field(default_factory=set)

    def fresh(self, wish: str) -> str:
        """The wish, or the wish with a number."""
        name, number = wish, 1
        while name in self.used:
            number += 1
            name = f"{wish}{number}"
        self.used.add(name)
        return name


def emit(root: Expr, lanes: Lanes, indent: str, lines: list[str], names: Names) -> Term:
    """C++ for an expression; what is used more than once gets a line and a name of its own in `lines`."""
    uses: dict[Expr, int] = {}
    for node in walk(root):
        for arg in node.args:
            uses[arg] = uses.get(arg, 0) + 1
    done: dict[Expr, Term] = {}
    for node in walk(root):
        shifted = _shifted_bits(node)
        if shifted is not None:
            term = _shift(done[shifted[0]], shifted[1])
        else:
            term = _emit_node(node, [done[arg] for arg in node.args], lanes)
        if uses.get(node, 0) > 1 and node.op not in (Op.CONST, Op.VAR):
            name = names.fresh("t")
            kind = (VECTOR if term.wide else SCALAR)[term.kind]
            lines.append(f"{indent}const {kind} {name} = {term.text};")
            term = Term(name, term.kind, term.wide)
        done[node] = term
    return done[root]


def _shifted_bits(node: Expr) -> tuple[Expr, int] | None:
    """(x, n) of (x >> n) & (2^(32 - n) - 1): the bits of a word without its sign."""
    if node.op is not Op.BITAND or node.args[0].op is not Op.SHR:
        return None
    (value, by), mask = node.args[0].args, node.args[1]
    if by.op is not Op.CONST or mask.op is not Op.CONST or not isinstance(by.attr, int) or not 0 < by.attr < 32:
        return None
    return (value, by.attr) if mask.attr == (1 << (32 - by.attr)) - 1 else None


def _shift(value: Term, by: int) -> Term:
    return Term(f"shift_bits({value.text}, {by})", Kind.INT, value.wide)


def _emit_node(node: Expr, args: list[Term], lanes: Lanes) -> Term:
    op = node.op
    if op is Op.CONST:
        return Term(literal(node.attr), node.kind)
    if op is Op.VAR:
        return lanes.terms[str(node.attr)]
    if op is Op.INDEX:
        return lanes.position(str(node.attr))
    if op is Op.LOAD:
        return _load(node, args, lanes)
    if op in (Op.FLOORDIV, Op.MOD) and is_power_of_two(node.args[1]):
        return _divided(node, args[0], lanes)
    if op is Op.CAST:
        return _cast(node, args[0])
    if op is Op.SELECT:
        return _select(node, args)
    if op is Op.CALL:
        raise LoweringError(f"call of {node.attr} was not inlined")
    return _operation(node, args, lanes.coarse_exp2)


def is_power_of_two(e: Expr) -> bool:
    """Whether an expression is a literal power of two, by which dividing is shifting."""
    return e.op is Op.CONST and isinstance(e.attr, int) and e.attr > 0 and e.attr & (e.attr - 1) == 0


def is_same_in_all_lanes(e: Expr, axis: str | None) -> bool:
    """Whether j // 32 along aligned lanes: no group of lanes crosses a multiple of a larger power of two."""
    is_index = e.op is Op.FLOORDIV and e.args[0].op is Op.INDEX and e.args[0].attr == axis
    return is_index and is_power_of_two(e.args[1]) and int(str(e.args[1].attr)) >= MOST_LANES


def _divided(node: Expr, value: Term, lanes: Lanes) -> Term:
    """x // 32 and x % 32, rounded down, as shifts and masks."""
    by = int(str(node.args[1].attr))
    if node.op is Op.FLOORDIV and lanes.is_aligned and is_same_in_all_lanes(node, lanes.axis):
        value = Term(f"({lanes.first})", Kind.INT)
    if node.op is Op.FLOORDIV:
        return Term(f"{_paren(value)} >> {by.bit_length() - 1}", Kind.INT, value.wide, tight=False)
    return Term(f"{_paren(value)} & {by - 1}", Kind.INT, value.wide, tight=False)


def literal(value: object) -> str:
    """A C++ literal."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value) if abs(value) < 2**31 else f"{value}ll"
    assert isinstance(value, float)
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    text = repr(value)
    if abs(value) > 3.4028234663852886e38:
        return "-INFINITY" if value < 0 else "INFINITY"
    return f"{text}f" if ("." in text or "e" in text) else f"{text}.0f"


def _paren(term: Term) -> str:
    return term.text if term.tight else f"({term.text})"


def _operation(node: Expr, args: list[Term], coarse_exp2: bool) -> Term:
    wide = any(arg.wide for arg in args)
    floats = node.kind is Kind.FLOAT or (node.op in COMPARISON and any(a.kind is Kind.FLOAT for a in args))
    if floats:
        args = [as_float(arg) for arg in args]
    if node.op is Op.NOT:
        return Term(f"!{_paren(args[0])}", node.kind, wide)
    if node.op is Op.NEG:
        return Term(f"-{_paren(args[0])}", node.kind, wide, tight=False)
    if node.op in INFIX:
        if wide and args[0].kind is Kind.BOOL:
            args = [widen(arg) for arg in args]
        return Term(f"{_paren(args[0])} {INFIX[node.op]} {_paren(args[1])}", node.kind, wide, tight=False)
    if wide:
        args = [widen(arg) for arg in args]
    if node.op in INTEGER_BOUND and node.kind is Kind.INT:
        name = INTEGER_BOUND[node.op] if wide else f"std::{INTEGER_BOUND[node.op]}"
        return Term(f"{name}({', '.join(arg.text for arg in args)})", node.kind, wide)
    function = "exp2_bf16" if coarse_exp2 and wide and node.op is Op.EXP2 else FUNCTION[node.op]
    return Term(f"{function}({', '.join(arg.text for arg in args)})", node.kind, wide)


def as_float(term: Term) -> Term:
    """An integer term as a float one."""
    if term.kind is Kind.FLOAT:
        return term
    return Term(f"{'to_float' if term.wide else 'float'}({term.text})", Kind.FLOAT, term.wide)


def widen(term: Term) -> Term:
    """A scalar term in every lane."""
    if term.wide:
        return term
    wrap = "mask_of" if term.kind is Kind.BOOL else VECTOR[term.kind]
    return Term(f"{wrap}({term.text})", term.kind, wide=True)


def _select(node: Expr, args: list[Term]) -> Term:
    condition, then, other = args
    if node.kind is Kind.FLOAT:
        then, other = as_float(then), as_float(other)
    if not any(arg.wide for arg in args):
        return Term(f"{_paren(condition)} ? {_paren(then)} : {_paren(other)}", node.kind, tight=False)
    if not condition.wide:
        return Term(f"{_paren(condition)} ? {widen(then).text} : {widen(other).text}", node.kind, True, tight=False)
    return Term(f"select({condition.text}, {widen(then).text}, {widen(other).text})", node.kind, wide=True)


def _cast(node: Expr, arg: Term) -> Term:
    assert isinstance(node.attr, DType)
    if arg.kind is Kind.BOOL and node.kind is not Kind.BOOL:
        one, zero = ("1.0f", "0.0f") if node.kind is Kind.FLOAT else ("1", "0")
        if arg.wide:
            wrap = VECTOR[node.kind]
            return Term(f"select({arg.text}, {wrap}({one}), {wrap}({zero}))", node.kind, wide=True)
        return Term(f"{_paren(arg)} ? {one} : {zero}", node.kind, tight=False)
    if node.kind is Kind.BOOL:
        zero = "0.0f" if arg.kind is Kind.FLOAT else "0"
        return arg if arg.kind is Kind.BOOL else Term(f"{_paren(arg)} != {zero}", Kind.BOOL, arg.wide, tight=False)
    if node.kind is Kind.INT:
        to_int = "to_int" if arg.wide else "int"
        whole = arg if arg.kind is Kind.INT else Term(f"{to_int}({arg.text})", Kind.INT, arg.wide)
        return _narrow(whole, NARROW[node.attr]) if node.attr in NARROW else whole
    value = as_float(arg)
    if node.attr in ROUNDED:
        return Term(f"{ROUNDED[node.attr]}({value.text})", Kind.FLOAT, value.wide)
    return value


def _narrow(whole: Term, form: str) -> Term:
    """The low bits of an integer, as a narrower type holds them; words of 32 bits are what is computed with."""
    return Term(form.format(_paren(whole)), Kind.INT, whole.wide, tight=False)


def _load(node: Expr, args: list[Term], lanes: Lanes) -> Term:
    name = f"a.{identifier(str(node.attr))}"
    if not any(arg.wide for arg in args):
        inner = ", ".join((name, *(arg.text for arg in args)))
        return Term(f"element({inner})", node.kind)
    wide = [position for position, arg in enumerate(args) if arg.wide]
    straight = len(wide) == 1 and node.args[wide[0]].op is Op.INDEX
    if straight:
        at = ", ".join(
            lanes.first if arg.wide else f"{name}.inside({p}, {arg.text})" for p, arg in enumerate(args)
        )
        count = "" if lanes.count is None else f", {lanes.count}"
        return Term(f"lanes({name}.at({at}), {name}.stride[{wide[0]}]{count})", node.kind, wide=True)
    at = ", ".join("0" if arg.wide else f"{name}.inside({p}, {arg.text})" for p, arg in enumerate(args))
    offset = " + ".join(f"{name}.inside({p}, {args[p].text}) * int({name}.stride[{p}])" for p in wide)
    mask = "" if lanes.count is None else f", lanes_below({lanes.count})"
    return Term(f"gather({name}.at({at}), {offset}{mask})", node.kind, wide=True)


def identifier(name: str) -> str:
    """A C++ identifier for a name of the program."""
    safe = "".join(ch if ch.isalnum() or ch == "_" else "_" for ch in name)
    return f"{safe}_" if safe in CPP_WORDS else safe


WORDS = """
alignas alignof and asm auto bitand bitor bool break case catch char class compl const constexpr continue decltype
default delete do double else enum explicit export extern false float for friend goto if inline int long mutable
namespace new noexcept not nullptr operator or private protected public register return short signed sizeof static
struct switch template this throw true try typedef typeid typename union unsigned using virtual void volatile while
xor a vf vi vm W tw load store gather select fma iota lanes element gemm values threads std main r u c out
Tensor Blocks Arena Reader Rows Places
"""
CPP_WORDS = frozenset(WORDS.split())
