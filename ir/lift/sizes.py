"""Symbolic sizes: fake tensors whose sizes are symbols, and sympy's answers turned back into expressions."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import sympy
import torch
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

from ..dtypes import Kind
from ..errors import UnsupportedSpec
from ..expr import FLOATING, Expr, Op, apply, const, var
from ..spec import SIZES, Dim
from .value import as_kind

BINARY = {
    "FloorDiv": Op.FLOORDIV, "CleanDiv": Op.FLOORDIV, "Mod": Op.MOD, "PythonMod": Op.MOD, "IntTrueDiv": Op.DIV,
    "FloatTrueDiv": Op.DIV, "Pow": Op.POW, "PowByNatural": Op.POW, "FloatPow": Op.POW, "LShift": Op.SHL,
    "RShift": Op.SHR,
}  # fmt: skip
POWERS = ("Pow", "PowByNatural")
FOLDED = {"Add": Op.ADD, "Mul": Op.MUL, "Max": Op.MAX, "Min": Op.MIN, "And": Op.AND, "Or": Op.OR}
UNARY = {
    "OpaqueUnaryFn_sqrt": Op.SQRT, "OpaqueUnaryFn_log2": Op.LOG2, "OpaqueUnaryFn_log": Op.LOG,
    "OpaqueUnaryFn_exp": Op.EXP, "FloorToInt": Op.FLOOR, "Abs": Op.ABS, "Not": Op.NOT, "log": Op.LOG, "exp": Op.EXP,
}  # fmt: skip
RELATIONS = {
    "Equality": (Op.EQ, False), "Unequality": (Op.NE, False), "StrictLessThan": (Op.LT, False),
    "LessThan": (Op.LE, False), "StrictGreaterThan": (Op.LT, True), "GreaterThan": (Op.LE, True),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Branch:
    """A decision of the user's Python code on a size: the condition as it was found, and its line."""

    condition: Any  # sympy expression that held during the trace
    location: tuple[str, int]


class BranchRecorder(ShapeEnv):
    """A shape environment that notes which size questions were asked by the user's own code."""

    def __init__(self) -> None:
        super().__init__(duck_shape=False, specialize_zero_one=False)
        self.branches: list[Branch] = []

    def evaluate_expr(self, orig_expr: Any, *args: Any, **kwargs: Any) -> Any:
        """Answer as usual, and remember a question that came straight from a non-torch frame."""
        answer = super().evaluate_expr(orig_expr, *args, **kwargs)
        location = _asked_by_user(sys._getframe(1))
        if location is not None and getattr(orig_expr, "free_symbols", None):
            self.branches.append(Branch(_held(orig_expr, answer), location))
        return answer


def _held(question: Any, answer: Any) -> Any:
    """The condition that an answer stands for: a truth value's question itself, or that a number was this one."""
    if isinstance(answer, (bool, sympy.logic.boolalg.BooleanAtom)):
        return question if answer else sympy.Not(question)
    return sympy.Eq(question, int(answer) if answer == int(answer) else answer)  # to sympy 6.0 is not 6


CONVERSIONS = frozenset({"__bool__", "__int__", "__index__", "__float__"})


def _asked_by_user(frame: FrameType | None) -> tuple[str, int] | None:
    """Where the user's code turned a size into a Python number or truth value; None inside an operation."""
    while frame is not None and is_torch(frame.f_code.co_filename):
        caller = frame.f_back
        if frame.f_code.co_name in CONVERSIONS and caller and not is_torch(caller.f_code.co_filename):
            return caller.f_code.co_filename, caller.f_lineno
        frame = caller
    return None


TORCH_ROOT = torch.__path__[0]


def is_torch(filename: str) -> bool:
    """Whether a source file belongs to PyTorch."""
    return filename.startswith((TORCH_ROOT, "<"))


EQUALITY = "Equality"
NOT_MEANT = ("Max", "Mod", "PythonMod")
ORDER = frozenset({"StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan"})


def _is_meant(relation: Any) -> bool:
    """Whether a relation is about sizes, not about strides, which depend on them in other ways."""
    kind = type(relation).__name__
    if kind == EQUALITY:
        return not any(type(part).__name__ in NOT_MEANT for part in sympy.preorder_traversal(relation))
    return kind in ORDER and len(relation.free_symbols) > 1 and all(map(_is_linear, relation.args))


def _is_linear(side: Any) -> bool:
    """Whether an expression is a sum of sizes and whole numbers."""
    return all(term.is_Integer or term.is_Symbol or (-term).is_Symbol for term in side.as_ordered_terms())


@dataclass(slots=True)
class Sizes:
    """The symbols of one trace: fake tensors made of them, and their names as expressions."""

    env: BranchRecorder = field(default_factory=BranchRecorder)
    names: dict[Any, Expr] = field(default_factory=dict)  # sympy symbol -> name, equal ones alike after settle()
    original: dict[Any, Expr] = field(default_factory=dict)  # sympy symbol -> its own name
    mode: FakeTensorMode = field(init=False)

    def __post_init__(self) -> None:
        self.mode = FakeTensorMode(shape_env=self.env, allow_non_fake_inputs=True, static_shapes=False)
        self.mode.cache_enabled = False  # its entries cost more than the few operators of one function save

    def symbol(self, name: str, hint: int) -> Any:
        """A new symbolic size (a SymInt) called `name`, which is `hint` where Python needs to know."""
        source = ConstantSource(name)
        symbol = self.env.create_symbol(
            hint, source, DimDynamic.DYNAMIC, None, positive=True, do_not_specialize_zero_one=True
        )
        self.names[symbol] = self.original[symbol] = var(name)
        return self.env.create_symintnode(symbol, hint=hint, source=source)

    def empty(self, shape: Sequence[Any], dtype: torch.dtype) -> torch.Tensor:
        """A fake tensor of symbolic shape."""
        with self.mode:
            return torch.empty(tuple(shape), dtype=dtype)

    def expr(self, size: Any) -> Expr:
        """A size, or a number computed from sizes, as an expression; equal sizes come out the same."""
        if isinstance(size, (bool, int, float)):
            return const(size)
        if isinstance(size, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return self.convert(self.env.replace(size.node.expr))
        raise UnsupportedSpec(f"a size of type {type(size).__name__} is not understood")

    def convert(self, node: Any) -> Expr:
        """A sympy expression over the symbols as an expression over their names."""
        if node in self.names:
            return self.names[node]
        name = type(node).__name__
        if name in ("BooleanTrue", "BooleanFalse"):
            return const(bool(node))
        if node.is_Integer:
            return const(int(node))
        if (node.is_number and not node.args) or name in ("Rational", "Half"):
            return const(float(node))
        return self._compound(name, node)

    def _compound(self, name: str, node: Any) -> Expr:
        args = [self.convert(arg) for arg in node.args]
        if name in ("ToFloat", "TruncToInt", "Identity"):
            return args[0]
        if name in RELATIONS:
            op, is_swapped = RELATIONS[name]
            return apply(op, *(reversed(args) if is_swapped else args))
        if name in POWERS and args[1].kind is Kind.INT and node.args[1].is_positive and node.args[1].is_number:
            name, args = "Mul", [args[0]] * int(node.args[1])
        if name in FOLDED:
            result = args[0]
            for arg in args[1:]:
                result = apply(FOLDED[name], result, arg)
            return result
        if name in BINARY:
            op = BINARY[name]
            return apply(op, *(as_kind(arg, Kind.FLOAT) if op in FLOATING else arg for arg in args))
        if name in UNARY:
            op = UNARY[name]
            return apply(op, *(as_kind(arg, Kind.FLOAT) if op in FLOATING else arg for arg in args))
        raise UnsupportedSpec(f"a size computed as {node} is not understood")

    def readable(self, text: str) -> str:
        """PyTorch's message with the names of sizes instead of its symbols."""
        for symbol, name in self.original.items():
            text = re.sub(rf"\b{symbol}\b", str(name.attr), text)
        return text

    def settle(self) -> None:
        """After the trace: of sizes that turned out equal, the one made first gives the name."""
        named: dict[Any, Expr] = {}
        for symbol, name in self.names.items():
            same = self.env.replace(symbol)
            if same.is_Symbol:
                named.setdefault(same, name)
        self.names = {**self.names, **named}

    def name(self, size: Any, rename: Callable[[Expr], Expr]) -> Dim:
        """A size as a dim: a number, or the name of a size (its own, where it equals no single other)."""
        expr = rename(self.expr(size))
        if isinstance(expr.attr, (int, str)):
            return expr.attr
        return str(self.original[size.node._expr].attr)

    def requirements(self, rename: Callable[[Expr], Expr]) -> list[Expr]:
        """What sizes must fulfil for the trace to hold: equalities that were needed, branches that were taken."""
        found = []
        for symbol, name in self.original.items():
            value = rename(self.convert(self.env.replace(symbol)))
            is_dim = str(name.attr) not in SIZES and value.op in (Op.VAR, Op.CONST)
            if value is not rename(name) and not is_dim:
                found.append(apply(Op.EQ, rename(name), value))
        conditions = [*(branch.condition for branch in self.env.branches), *self._operator_guards()]
        return found + [rename(self.convert(self.env.replace(condition))) for condition in conditions]

    def _operator_guards(self) -> list[Any]:
        """What operators asked of captured tensors' sizes: that a slice lies inside, that a reshape fits."""
        captured = {symbol for symbol, name in self.original.items() if str(name.attr) not in SIZES}
        relations = (guard.expr for guard in self.env.guards if guard.expr.free_symbols & captured)
        return [relation for relation in relations if _is_meant(relation)]
