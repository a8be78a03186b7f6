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
SMALLEST_PATTERN = 3  # in fewer elements every pattern is a coincidence


def closed_form(data: torch.Tensor) -> Element | None:
    """The element of a triangle of two values, or of numbers linear in the index, over the last one or two dims."""
    used = [axis for axis, size in enumerate(data.shape) if size > 1]
    if not used or used[0] < data.dim() - 2 or min(data.shape[axis] for axis in used) < SMALLEST_PATTERN:
        return None
    matrix = data.reshape(-1, data.shape[-1]) if len(used) == 2 else data.reshape(1, -1)
    row = (lambda index: index[-2]) if len(used) == 2 else (lambda index: const(0))
    column = used[-1]
    coefficients = linear(matrix)
    if coefficients is not None:
        start, per_row, per_column = (const(c) for c in coefficients)
        return lambda index: row(index) * per_row + index[column] * per_column + start
    band = triangle(matrix)
    if band is None:
        return None
    diagonal, below, above = band
    return lambda index: choose(index[column] <= row(index) + diagonal, const(below), const(above))


def linear(matrix: torch.Tensor) -> tuple[int, int, int] | None:
    """(start, per row, per column) of whole numbers linear in the index."""
    if matrix.dtype == torch.bool or matrix.is_floating_point():
        return None
    start = int(matrix[0, 0])
    per_row = int(matrix[1, 0]) - start if len(matrix) > 1 else 0
    per_column = int(matrix[0, 1]) - start if matrix.shape[1] > 1 else 0
    rows, columns = torch.arange(len(matrix))[:, None], torch.arange(matrix.shape[1])
    is_linear = bool((start + per_row * rows + per_column * columns == matrix).all())
    return (start, per_row, per_column) if is_linear else None


def triangle(matrix: torch.Tensor) -> tuple[int, int | float | bool, int | float | bool] | None:
    """(diagonal, below, above) of a matrix that is `below` where column <= row + diagonal and `above` elsewhere."""
    below, above = matrix[-1, 0], matrix[0, -1]
    first_row, first_column = int((matrix[0] == below).sum()), int((matrix[:, 0] == above).sum())
    diagonal = first_row - 1 if first_row else -first_column
    rows, columns = torch.arange(len(matrix))[:, None], torch.arange(matrix.shape[1])
    is_triangle = bool((torch.where(columns <= rows + diagonal, below, above) == matrix).all())
    return (diagonal, below.item(), above.item()) if is_triangle and below != above else None


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


def is_literal(data: torch.Tensor) -> bool:
    """Whether a constant's elements are written into the kernel: few, all alike, or of a closed form."""
    if data.numel() <= MOST_LITERALS or closed_form(data) is not None:
        return True
    return bool((data == data.flatten()[0]).all())


def constant_element(t: Tracer, tensor: torch.Tensor) -> Element:
    """Elements of a constant: literals where the index is one or all elements are equal, else a named load."""
    data = getattr(tensor, "constant", None)
    data = tensor if data is None else data
    kind = DTYPES[tensor.dtype].kind
    name = f"{CONSTANT}{len(t.constants)}"
    t.constants[name] = data

    def element(index: Index) -> Expr:
        with torch.utils._python_dispatch._disable_current_modes():
            if tensor.requires_grad:
                return load(name, index, kind)
            if all(i.op is Op.CONST for i in index):
                return const(data[tuple(int(str(i.attr)) for i in index)].item())
            if data.numel() and bool((data == data.flatten()[0]).all()):
                return const(data.flatten()[0].item())
            found = closed_form(data)
            if found is not None:
                return found(index)
            if data.numel() <= MOST_LITERALS:
                return _chosen(data, index)
        return load(name, index, kind)

    return element
