"""Values of the abstract interpretation: a tensor is its shape and the expression of its element at an index.

Views change the index, elementwise operations combine elements, contractions become named reductions. So
every way of writing the same mathematics ends in the same scalar expression.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from ..dtypes import DType, Kind
from ..expr import Expr, Op, apply, cast, const, select

Index = tuple[Expr, ...]
Element = Callable[[Index], Expr]

DTYPES: dict[torch.dtype, DType] = {
    torch.float64: DType.F64, torch.float32: DType.F32, torch.bfloat16: DType.BF16, torch.float16: DType.F16,
    torch.int64: DType.I64, torch.int32: DType.I32, torch.int16: DType.I16, torch.int8: DType.I8,
    torch.uint8: DType.U8, torch.bool: DType.BOOL,
}  # fmt: skip


@dataclass(slots=True, eq=False)
class Value:
    """An immutable tensor: sizes (numbers or SymInts), kind of element, and the element at an index."""

    shape: tuple[Any, ...]
    kind: Kind
    element: Element
    memo: dict[Index, Expr] = field(default_factory=dict)

    def at(self, index: Index) -> Expr:
        """The element at an index, one expression per dim."""
        assert len(index) == len(self.shape), (index, self.shape)
        found = self.memo.get(index)
        if found is None:
            found = self.memo[index] = self.element(index)
        return found


def as_kind(expr: Expr, kind: Kind) -> Expr:
    """The element converted as PyTorch promotes it; conversions between float types are left out."""
    if expr.kind is kind:
        return expr
    if kind is Kind.BOOL:
        return apply(Op.NE, expr, const(0) if expr.kind is Kind.INT else const(0.0))
    if expr.kind is Kind.BOOL:
        return select(expr, *((const(1), const(0)) if kind is Kind.INT else (const(1.0), const(0.0))))
    if expr.op is Op.CONST:
        assert isinstance(expr.attr, (int, float))
        return const(float(expr.attr)) if kind is Kind.FLOAT else const(int(expr.attr))
    return cast(expr, DType.F32 if kind is Kind.FLOAT else DType.I64)
