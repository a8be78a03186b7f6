"""PyTorch functions that are taken as their definition instead of as the kernel that PyTorch would choose."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from .location import here, refuse

DROPOUT_HINT = "use tilewright.dropout(weights, p, seed), whose mask follows from the seed, or p = 0 for inference"


def _scaled_dot_product_attention(  # noqa: PLR0913 (PyTorch's signature)
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """The definition in PyTorch's documentation of the function."""
    if dropout_p > 0.0:
        raise ValueError(f"dropout_p = {dropout_p} draws random numbers; {DROPOUT_HINT}")
    factor = 1 / math.sqrt(query.size(-1)) if scale is None else scale
    if enable_gqa:
        key = key.repeat_interleave(query.size(-3) // key.size(-3), -3)
        value = value.repeat_interleave(query.size(-3) // value.size(-3), -3)
    scores = query @ key.transpose(-2, -1) * factor
    if is_causal:
        keep = torch.ones(query.size(-2), key.size(-2), dtype=torch.bool).tril()
        scores = scores.masked_fill(~keep, -math.inf)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return torch.softmax(scores, dim=-1) @ value


def _dropout(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    if training and p > 0.0:
        raise ValueError(f"dropout with p = {p} draws random numbers; {DROPOUT_HINT}")
    return x


def _torch_dropout(x: torch.Tensor, p: float, train: bool) -> torch.Tensor:
    return _dropout(x, p, train)


def _fill_diagonal(x: torch.Tensor, fill_value: float, wrap: bool = False) -> torch.Tensor:
    """Of a matrix; longer diagonals that wrap around are for tall ones."""
    if x.dim() != 2 or wrap:
        raise ValueError("fill_diagonal_ of more than two dims, or wrapped, is not one that can be compiled")
    return x.masked_fill_(torch.eye(x.shape[0], x.shape[1], dtype=torch.bool, device=x.device), fill_value)


def _block_diag(*blocks: torch.Tensor) -> torch.Tensor:
    """Blocks between zeros, one below the other."""
    width, start, rows = sum(block.shape[1] for block in blocks), 0, []
    for block in blocks:
        rows.append(F.pad(block, (start, width - start - block.shape[1])))
        start += block.shape[1]
    return torch.cat(rows)


DEFINITIONS: dict[Any, Callable[..., Any]] = {
    F.scaled_dot_product_attention: _scaled_dot_product_attention,
    F.dropout: _dropout,
    torch.dropout: _torch_dropout,
    torch.block_diag: _block_diag,
    torch.Tensor.fill_diagonal_: _fill_diagonal,
}


def _log2(x: Any) -> Any:
    return vars(torch)["_sym_log2"](x)


SIZE_MATH: dict[str, Callable[[Any], Any]] = {
    "sqrt": torch.sym_sqrt,
    "log2": _log2,
    "log": lambda x: _log2(x) * math.log(2.0),
}
"""Functions of the math module that would turn a symbolic size into a number."""


@contextmanager
def symbolic_math() -> Iterator[None]:
    """math.sqrt, math.log and math.log2 keep symbolic sizes symbolic while a function is traced."""
    originals = {name: getattr(math, name) for name in SIZE_MATH}

    def wrapped(name: str) -> Callable[..., Any]:
        def function(x: Any, *base: Any) -> Any:
            if not isinstance(x, (torch.SymInt, torch.SymFloat)):
                return originals[name](x, *base)
            return SIZE_MATH[name](x) / (originals["log"](*base) if base else 1.0)

        return function

    for name in SIZE_MATH:
        setattr(math, name, wrapped(name))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(math, name, original)


class Definitions(TorchFunctionMode):
    """Replaces the functions of the table while a user's function is traced."""

    def __init__(self, file: str | None) -> None:
        super().__init__()
        self.file = file

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The definition where there is one."""
        definition = DEFINITIONS.get(func)
        if definition is None:
            return func(*args, **(kwargs or {}))
        try:
            return definition(*args, **(kwargs or {}))
        except ValueError as error:
            raise refuse(str(error), here(self.file)) from None
