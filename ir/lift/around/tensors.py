"""Expressions over index variables as tensors: what comes before and after a kernel, computed by torch.

Every value is a tensor with a name for each of its dims, the index variable that runs along it; a value has dims only
for variables that it depends on, so that nothing is larger than it must be. Autograd differentiates it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ...algebra import is_const
from ...dtypes import DType, Kind
from ...expr import Expr, Op
from ..factor import factors
from ..reduce import Reduction

Named = tuple[torch.Tensor, tuple[str, ...]]


def _rounded_down(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.div(x, y, rounding_mode="floor")


OPERATIONS: dict[Op, Callable[..., torch.Tensor]] = {
    Op.ADD: torch.add, Op.SUB: torch.sub, Op.MUL: torch.mul, Op.DIV: torch.div, Op.FLOORDIV: _rounded_down,
    Op.MOD: torch.remainder, Op.NEG: torch.neg, Op.ABS: torch.abs, Op.MIN: torch.minimum, Op.MAX: torch.maximum,
    Op.POW: torch.pow, Op.EXP: torch.exp, Op.EXP2: torch.exp2, Op.LOG: torch.log, Op.LOG2: torch.log2,
    Op.SQRT: torch.sqrt, Op.RSQRT: torch.rsqrt, Op.TANH: torch.tanh, Op.SIGMOID: torch.sigmoid, Op.ERF: torch.erf,
    Op.SIN: torch.sin, Op.COS: torch.cos, Op.FLOOR: torch.floor, Op.LT: torch.lt, Op.LE: torch.le, Op.EQ: torch.eq,
    Op.NE: torch.ne, Op.AND: torch.logical_and, Op.OR: torch.logical_or, Op.XOR: torch.logical_xor,
    Op.NOT: torch.logical_not, Op.BITAND: torch.bitwise_and, Op.BITOR: torch.bitwise_or, Op.BITXOR: torch.bitwise_xor,
    Op.SHL: torch.bitwise_left_shift, Op.SHR: torch.bitwise_right_shift, Op.SELECT: torch.where,
}  # fmt: skip
CASTS = {DType.I64: torch.int64, DType.I32: torch.int32, DType.I16: torch.int16, DType.I8: torch.int8,
         DType.U8: torch.uint8, DType.BOOL: torch.bool}  # fmt: skip
EXTREMES = {"max": torch.amax, "min": torch.amin}


@dataclass(slots=True)
class Evaluation:
    """Values for one call. sizes: of the arguments, by name; lengths: of index variables, over those sizes.

    Floats are computed in `dtype`, whatever the tensors hold; integers in 64 bits.
    """

    sizes: Mapping[str, int]
    tensors: Mapping[str, torch.Tensor]
    reductions: Mapping[Expr, Reduction]
    lengths: Mapping[str, Expr]
    dtype: torch.dtype
    device: torch.device
    known: dict[Expr, Named] = field(default_factory=dict)
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)  # of index variables that do not run over all

    def tensor(self, e: Expr, axes: Sequence[str]) -> torch.Tensor:
        """The value with exactly these dims."""
        shape = [self._length(axis) for axis in axes]
        return aligned(self._value(e), axes).expand(shape)

    def size(self, e: Expr) -> int:
        """A size."""
        return int(self._value(e)[0])

    def _length(self, axis: str) -> int:
        first, end = self._span(axis)
        return end - first

    def _span(self, axis: str) -> tuple[int, int]:
        found = self.spans.get(axis)
        if found is None:
            found = self.spans[axis] = (0, self.size(self.lengths[axis]))
        return found

    def _value(self, e: Expr) -> Named:
        found = self.known.get(e)
        if found is None:
            found = self.known[e] = self._computed(e)
        return found

    def _computed(self, e: Expr) -> Named:
        if e in self.reductions:
            return self._reduced(self.reductions[e])
        if e.op is Op.CONST:
            return self._number(e.attr), ()
        if e.op is Op.VAR:
            return self._variable(str(e.attr))
        if e.op is Op.LOAD:
            return self._loaded(e)
        if e.op is Op.SELECT and e.kind is Kind.FLOAT:
            found = self._halves(e)
            if found is not None:
                return found
        args = [self._value(arg) for arg in e.args]
        if e.op is Op.CAST:
            assert isinstance(e.attr, DType)
            return args[0][0].to(CASTS.get(e.attr, self.dtype)).to(self._type(e.kind)), args[0][1]
        axes = joined(args)
        operands = [aligned(arg, axes) for arg in args]
        if e.kind is Kind.FLOAT:
            operands = [x if x.dtype is torch.bool else x.to(self.dtype) for x in operands]
        return OPERATIONS[e.op](*operands), axes

    def _halves(self, e: Expr) -> Named | None:
        """where(d < c, x, y) for an index variable d: x for its first c values, and y for the others behind them."""
        condition, then, otherwise = e.args
        if condition.op not in (Op.LT, Op.LE):
            return None
        variable, limit = condition.args
        axis = str(variable.attr)
        if (
            variable.op is not Op.VAR
            or axis in self.sizes
            or not isinstance(limit.attr, int)
            or limit.op is not Op.CONST
        ):
            return None
        first, end = self._span(axis)
        cut = limit.attr + (condition.op is Op.LE)
        if not first < cut < end:
            return self._value(then if cut >= end else otherwise)
        halves = [self._over(axis, *piece) for piece in ((first, cut, then), (cut, end, otherwise))]
        axes = joined(halves)
        shape = [self._length(one) for one in axes]
        dim = axes.index(axis)
        pieces = [aligned(half, axes) for half in halves]
        return torch.cat([x.expand(*shape[:dim], x.shape[dim], *shape[dim + 1 :]) for x in pieces], dim), axes

    def _over(self, axis: str, first: int, end: int, e: Expr) -> Named:
        """The value for some values of an index variable, with a dim for it."""
        known = {expr: value for expr, value in self.known.items() if axis not in value[1]}
        part = replace(self, known=known, spans={**self.spans, axis: (first, end)})
        x, axes = part._value(e)
        if axis in axes:
            return x, axes
        return x.unsqueeze(-1).expand(*x.shape, end - first), (*axes, axis)

    def _type(self, kind: Kind) -> torch.dtype:
        return {Kind.FLOAT: self.dtype, Kind.INT: torch.int64, Kind.BOOL: torch.bool}[kind]

    def _number(self, value: Any) -> torch.Tensor:
        dtype = torch.bool if isinstance(value, bool) else torch.int64 if isinstance(value, int) else self.dtype
        return torch.tensor(value, dtype=dtype, device=self.device)

    def _variable(self, name: str) -> Named:
        if name in self.sizes:
            return self._number(self.sizes[name]), ()
        return torch.arange(*self._span(name), device=self.device), (name,)

    def _loaded(self, e: Expr) -> Named:
        """Elements of a tensor: dims that an index variable runs along stay as they are, others are picked from."""
        x = self.tensors[str(e.attr)]
        x = x.to(self.dtype) if x.is_floating_point() else x.to(self._type(e.kind))
        picks = [self._value(arg) for arg in e.args]
        used = [axis for _, axes in picks for axis in axes]
        if len(set(used)) != len(used) or any(len(axes) > 1 for _, axes in picks):
            axes = joined(picks)
            return x[tuple(aligned(pick, axes) for pick in picks)], axes
        for dim in reversed(range(len(picks))):
            x = self._picked(x, dim, e.args[dim], picks[dim])
        return x, tuple(used)

    def _picked(self, x: torch.Tensor, dim: int, arg: Expr, pick: Named) -> torch.Tensor:
        positions, axes = pick
        if not axes:
            return x.select(dim, int(positions))
        if arg.op is Op.VAR:
            first, end = self._span(axes[0])
            return x if end - first == x.shape[dim] else x.narrow(dim, first, end - first)
        if self.device.type == "cpu" and len(positions) and _is_run(positions):
            return x.narrow(dim, int(positions[0]), len(positions))
        return x[(slice(None),) * dim + (positions,)]

    def _reduced(self, reduction: Reduction) -> Named:
        bound = str(reduction.bound.attr)
        if reduction.op == "sum" and reduction.body.kind is Kind.FLOAT:
            return self._running(reduction) or self._contracted(reduction, bound)
        x, axes = self._value(reduction.body)
        dim = axes.index(bound)
        rest = axes[:dim] + axes[dim + 1 :]
        if reduction.op == "sum":
            return x.sum(dim), rest
        return (x.any(dim) if reduction.op == "any" else EXTREMES[reduction.op](x, dim)), rest

    def _running(self, reduction: Reduction) -> Named | None:
        """sum over r of where(r <= n, x[r], 0) by cumsum."""
        body, bound = reduction.body, str(reduction.bound.attr)
        if body.op is not Op.SELECT or body.args[0].op is not Op.LE or not is_const(body.args[2], 0.0):
            return None
        first, last = body.args[0].args
        if first is not reduction.bound or bound in self._value(last)[1]:
            return None
        (x, axes), (position, along) = self._value(body.args[1]), self._value(last)
        if set(axes) & set(along):
            return None
        x = aligned((x, axes), (*[axis for axis in axes if axis != bound], bound)).cumsum(-1)
        return x[..., position], (*[axis for axis in axes if axis != bound], *along)

    def _contracted(self, reduction: Reduction, bound: str) -> Named:
        """A sum of a product, as einsum."""
        parts = factors(reduction.body)
        values = [self._value(part) for part in parts.over]
        values += [(self._value(part)[0].reciprocal(), self._value(part)[1]) for part in parts.under]
        names = joined(values)
        if bound not in names:
            x, axes = self._value(reduction.body)
            return x * self.size(reduction.length), axes
        letter = {name: n for n, name in enumerate(names)}
        out = [letter[name] for name in names if name != bound]
        operands = [part for x, axes in values for part in (x.to(self.dtype), [letter[name] for name in axes])]
        return torch.einsum(*operands, out), tuple(name for name in names if name != bound)


def _is_run(positions: torch.Tensor) -> bool:
    """Whether positions follow each other."""
    first = int(positions[0])
    return first >= 0 and torch.equal(positions, torch.arange(first, first + len(positions)))


def joined(values: Sequence[Named]) -> tuple[str, ...]:
    """The dims of a combination, in order of appearance in the operand of most dims, then the others."""
    ordered = sorted(values, key=lambda value: -len(value[1]))
    return tuple(dict.fromkeys(axis for _, axes in ordered for axis in axes))


def aligned(value: Named, axes: Sequence[str]) -> torch.Tensor:
    """The tensor with a dim for each of the axes, of size 1 where it has none."""
    x, own = value
    if own == tuple(axes):
        return x
    x = x.permute([own.index(axis) for axis in axes if axis in own])
    for dim, axis in enumerate(axes):
        if axis not in own:
            x = x.unsqueeze(dim)
    return x
