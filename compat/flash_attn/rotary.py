"""Rotary embedding of queries and new keys, as flash_attn_with_kvcache applies it before the cache is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...ir.errors import DeviceError, DTypeError, ShapeError

__all__ = ["Rotary", "rotary_of"]


@dataclass(frozen=True, slots=True)
class Rotary:
    """cos, sin [positions, rotated / 2]; interleaved: pairs are neighbours, else the halves of what is rotated."""

    cos: Tensor
    sin: Tensor
    is_interleaved: bool

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """x [B, T, H, D] rotated by positions [B, T], in float32: a new tensor of x's type."""
        cos, sin = (table[positions].float().unsqueeze(2) for table in (self.cos, self.sin))
        width = 2 * cos.shape[-1]
        turned = x[..., :width].float()
        one, two = (turned[..., 0::2], turned[..., 1::2]) if self.is_interleaved else turned.chunk(2, dim=-1)
        pair = (one * cos - two * sin, one * sin + two * cos)
        joined = torch.stack(pair, dim=-1).flatten(-2) if self.is_interleaved else torch.cat(pair, dim=-1)
        return torch.cat((joined.to(x.dtype), x[..., width:]), dim=-1)


def rotary_of(caller: str, q: Tensor, cos: Any, sin: Any, is_interleaved: bool) -> Rotary | None:
    """The rotation, or None where none is asked for; refuses tables that do not fit q."""
    if cos is None and sin is None:
        return None
    for name, table in (("rotary_cos", cos), ("rotary_sin", sin)):
        if not isinstance(table, Tensor):
            raise TypeError(f"{caller}: {name} is a {type(table).__name__}; wanted a tensor [positions, rotated / 2]")
        if table.dtype not in (q.dtype, torch.float32):
            raise DTypeError(f"{caller}: {name}: got {table.dtype}, wanted {q.dtype} as q has, or torch.float32")
        if table.device != q.device:
            raise DeviceError(f"{caller}: {name}: on {table.device}, but q is on {q.device}")
        if table.dim() != 2 or 2 * table.shape[1] > q.shape[-1] or table.shape != cos.shape:
            raise ShapeError(
                f"{caller}: {name}: shape {tuple(table.shape)}; wanted [positions, rotated / 2] in both, "
                f"rotated at most D={q.shape[-1]}"
            )
    return Rotary(cos, sin, is_interleaved)
