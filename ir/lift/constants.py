"""Tensors that the user's function did not receive or make: constants of its module or of its Python code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..dtypes import Kind
from ..expr import Expr, Op, apply, const, load, select
from .value import DTYPES, Element, Index

if TYPE_CHECKING:
    from .tracer import Tracer

CONSTANT = "@constant"
MOST_LITERALS = 128


def _chosen(data: torch.Tensor, index: Index) -> Expr:
    """The elements of a small constant as literals, chosen by the index."""
    if not index:
        return const(data.item())
    first, rest = index[0], index[1:]
    if first.op is Op.CONST:
        return _chosen(data[int(str(first.attr))], rest)
    result = _chosen(data[-1], rest)
    for position in range(len(data) - 2, -1, -1):
        here = _chosen(data[position], rest)
        result = here if here is result else choose(apply(Op.LE, first, const(position)), here, result)
    return result


def choose(condition: Expr, then: Expr, otherwise: Expr) -> Expr:
    """A choice between literals; between truth values it is logic."""
    if then.kind is Kind.BOOL:
        return apply(Op.OR, apply(Op.AND, condition, then), apply(Op.AND, apply(Op.NOT, condition), otherwise))
    return select(condition, then, otherwise)


def constant_element(t: Tracer, tensor: torch.Tensor) -> Element:
    """Elements of a constant: literals where the index is one or all elements are equal, else a named load."""
    data = getattr(tensor, "constant", None)
    data = tensor if data is None else data
    kind = DTYPES[tensor.dtype].kind
    name = f"{CONSTANT}{len(t.constants)}"
    t.constants[name] = data

    def element(index: Index) -> Expr:
        with torch.utils._python_dispatch._disable_current_modes():
            if all(i.op is Op.CONST for i in index):
                return const(data[tuple(int(str(i.attr)) for i in index)].item())
            if data.numel() and bool((data == data.flatten()[0]).all()):
                return const(data.flatten()[0].item())
            if data.numel() <= MOST_LITERALS:
                return _chosen(data, index)
        return load(name, index, kind)

    return element
