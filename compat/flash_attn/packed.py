"""flash-attn's functions of packed tensors: q, k and v, or k and v, are views of one tensor; nothing is copied."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...ir.errors import ShapeError
from .functions import Window, flash_attn_func, flash_attn_varlen_func

__all__ = [
    "flash_attn_kvpacked_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
]


def flash_attn_qkvpacked_func(  # noqa: PLR0913 - flash-attn's signature
    qkv: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Tensor:
    """qkv [B, N, 3, H, D] -> o [B, N, H, D]; further arguments and errors as in flash_attn_func."""
    q, k, v = _parts("flash_attn_qkvpacked_func: qkv", qkv, "[B, N, 3, H, D]")
    return flash_attn_func(
        q, k, v, dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, deterministic, return_attn_probs
    )


def flash_attn_kvpacked_func(  # noqa: PLR0913 - flash-attn's signature
    q: Tensor,
    kv: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Tensor:
    """q [B, M, Hq, D], kv [B, N, 2, Hkv, D] -> o [B, M, Hq, D]; the rest as in flash_attn_func."""
    k, v = _parts("flash_attn_kvpacked_func: kv", kv, "[B, N, 2, Hkv, D]")
    return flash_attn_func(
        q, k, v, dropout_p, softmax_scale, causal, window_size, softcap, alibi_slopes, deterministic, return_attn_probs
    )


def flash_attn_varlen_qkvpacked_func(  # noqa: PLR0913 - flash-attn's signature
    qkv: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Tensor:
    """qkv [T, 3, H, D] -> o [T, H, D]; cu_seqlens: of queries and keys; the rest as in flash_attn_varlen_func."""
    q, k, v = _parts("flash_attn_varlen_qkvpacked_func: qkv", qkv, "[T, 3, H, D]")
    return flash_attn_varlen_func(
        q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, dropout_p, softmax_scale, causal, window_size, softcap,
        alibi_slopes, deterministic, return_attn_probs,
    )  # fmt: skip


def flash_attn_varlen_kvpacked_func(  # noqa: PLR0913 - flash-attn's signature
    q: Tensor,
    kv: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Tensor:
    """q [Tq, Hq, D], kv [Tk, 2, Hkv, D] -> o [Tq, Hq, D]; the rest as in flash_attn_varlen_func."""
    k, v = _parts("flash_attn_varlen_kvpacked_func: kv", kv, "[Tk, 2, Hkv, D]")
    return flash_attn_varlen_func(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p, softmax_scale, causal, window_size,
        softcap, alibi_slopes, deterministic, return_attn_probs,
    )  # fmt: skip


def _parts(name: str, packed: Any, layout: str) -> tuple[Tensor, ...]:
    """The packed tensors as views: along the dimension whose size the layout gives as a number."""
    if not isinstance(packed, Tensor):
        raise TypeError(f"{name} is a {type(packed).__name__}; wanted a tensor {layout}")
    dims = layout.strip("[]").split(", ")
    axis = next(position for position, dim in enumerate(dims) if dim.isdigit())
    if packed.dim() != len(dims) or packed.shape[axis] != int(dims[axis]):
        raise ShapeError(f"{name}: shape {tuple(packed.shape)}; wanted {layout}")
    return packed.unbind(axis)
