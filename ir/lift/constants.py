"""Tensors that the user's function did not receive or make: constants of its module or of its Python code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..expr import Expr, Op, const, load
from .value import DTYPES, Element, Index

if TYPE_CHECKING:
    from .tracer import Tracer

CONSTANT = "@constant"


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
        return load(name, index, kind)

    return element
