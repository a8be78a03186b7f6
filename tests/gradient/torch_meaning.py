"""Scalar expressions as PyTorch computes them, so that autograd can differentiate them: one function per operation."""

from __future__ import annotations

import torch
from torch import Tensor

from tilewright.ir.dtypes import Kind
from tilewright.ir.expr import Expr, Op, walk

TORCH = {
    Op.ADD: torch.add, Op.SUB: torch.sub, Op.MUL: torch.mul, Op.DIV: torch.div, Op.NEG: torch.neg, Op.ABS: torch.abs,
    Op.POW: torch.pow, Op.EXP: torch.exp, Op.EXP2: torch.exp2, Op.LOG: torch.log, Op.LOG2: torch.log2,
    Op.SQRT: torch.sqrt, Op.RSQRT: torch.rsqrt, Op.TANH: torch.tanh, Op.SIGMOID: torch.sigmoid, Op.ERF: torch.erf,
    Op.SIN: torch.sin, Op.COS: torch.cos, Op.FLOOR: torch.floor, Op.LT: torch.lt, Op.LE: torch.le, Op.EQ: torch.eq,
    Op.NE: torch.ne, Op.AND: torch.logical_and, Op.OR: torch.logical_or, Op.NOT: torch.logical_not,
    Op.SELECT: torch.where, Op.CAST: lambda x: x.double(),
}  # fmt: skip


def bound(e: Expr, x: Tensor, y: Tensor) -> Tensor:
    """max and min as the functions of PyTorch that are lifted to them: relu, clamp, maximum, minimum."""
    if e.args[0].op is Op.CONST:
        (x, y), literal = (y, x), e.args[0]
    else:
        literal = e.args[1]
    if literal.op is Op.CONST:
        if e.op is Op.MIN:
            return torch.clamp(x, max=literal.attr)
        return torch.relu(x) if literal.attr == 0 else torch.clamp(x, min=literal.attr)
    return torch.maximum(x, y) if e.op is Op.MAX else torch.minimum(x, y)


def in_torch(root: Expr, leaves: dict[Expr, Tensor]) -> Tensor:
    """The value of an expression in fp64, from those of its variables and loads; their indices are not looked at."""
    values: dict[Expr, Tensor] = dict(leaves)
    for e in walk(root):
        if e in values or (e.kind is Kind.INT and e.op is not Op.CONST):
            continue
        args = [values[arg] for arg in e.args]
        if e.op is Op.CONST:
            values[e] = torch.tensor(e.attr, dtype=torch.bool if isinstance(e.attr, bool) else torch.float64)
        elif e.op in (Op.MIN, Op.MAX):
            values[e] = bound(e, *args)
        else:
            values[e] = TORCH[e.op](*args)
    return values[root]
