"""flex_attention: PyTorch's signature, checked argument by argument, then one of our kernels."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.nn.attention import flex_attention as peer

from ...ir.errors import DeviceError, DTypeError, ShapeError, UnsupportedSpec
from ...kernels.attention import attention
from ...kernels.modifiers import Modifier
from .block_mask import SLICED, BlockMask, is_sliced
from .blocks import kept_by_blocks
from .options import check_kernel_options

__all__ = ["flex_attention"]

WHOLE = 1 << 30  # PyTorch's block size for "no mask"
Result = torch.Tensor | tuple[torch.Tensor, torch.Tensor] | tuple[torch.Tensor, peer.AuxOutput]

_combined: weakref.WeakKeyDictionary[peer.BlockMask, tuple[object, Modifier]] = weakref.WeakKeyDictionary()


def flex_attention(  # noqa: PLR0913 - PyTorch's signature
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    score_mod: Modifier | None = None,
    block_mask: peer.BlockMask | None = None,
    scale: float | None = None,
    enable_gqa: bool = False,
    return_lse: bool = False,
    kernel_options: Any = None,
    *,
    return_aux: peer.AuxRequest | None = None,
) -> Result:
    """softmax(score_mod(scale · q kᵀ) where block_mask keeps) v, compiled once per pair of callables.

    query [B, Hq, M, D], key [B, Hkv, N, D], value [B, Hkv, N, Dv] -> o [B, Hq, M, Dv]; return_lse adds lse
    [B, Hq, M] (float32, natural logarithm), return_aux an AuxOutput. Rows that keep nothing: o = 0, lse = -inf.
    B, Hq, M, N and values of captured tensors never compile again. Raises UnsupportedSpec, ShapeError, DTypeError
    or DeviceError before anything runs.
    """
    if kernel_options:
        check_kernel_options(kernel_options)
    wants_lse = return_lse if return_aux is None else _wants_lse(return_aux, return_lse)
    if block_mask is None:
        mask_mod = None
    else:
        mask_mod = _mask_mod(block_mask, query, key)
        key, value = _one_batch_for_all(query, key, value)
    found = attention(query, key, value, score_mod, mask_mod, scale, enable_gqa, return_lse=wants_lse)
    if return_aux is None:
        return found
    o, lse = found if isinstance(found, tuple) else (found, None)
    return o, peer.AuxOutput(lse=lse)


def _wants_lse(return_aux: peer.AuxRequest, return_lse: bool) -> bool:
    if return_lse:
        raise UnsupportedSpec("return_lse and return_aux: pass one of them; return_aux=AuxRequest(lse=True) gives both")
    if return_aux.max_scores:
        raise UnsupportedSpec("return_aux.max_scores=True: kernels do not keep the rows' maxima; lse=True works")
    return return_aux.lse


def _mask_mod(mask: peer.BlockMask, query: torch.Tensor, key: torch.Tensor) -> Modifier | None:
    """What the mask keeps, as one callable."""
    if not isinstance(mask, peer.BlockMask):
        raise DTypeError(
            f"block_mask: got {type(mask).__name__}, wanted a BlockMask; "
            "make one with create_block_mask(mask_mod, B, H, Q_LEN, KV_LEN)"
        )
    if is_sliced(mask.mask_mod):
        raise UnsupportedSpec(SLICED)
    if mask.BLOCK_SIZE == (WHOLE, WHOLE):
        return None
    _check_mask(mask, query, key)
    if isinstance(mask, BlockMask) and mask.is_symbolic:
        return mask.mask_mod
    return _combination(mask)


def _check_mask(mask: peer.BlockMask, query: torch.Tensor, key: torch.Tensor) -> None:
    lengths = tuple(mask.seq_lengths)
    got = (query.shape[-2], key.shape[-2])
    if got != lengths:
        raise ShapeError(
            f"block_mask was made for Q_LEN, KV_LEN = {lengths} and query, key have {got}; make one for these lengths, "
            f"or take the upper left corner with block_mask._adjust{got}"
        )
    for axis, name, size in zip(mask.shape[-4:-2], ("B", "H"), query.shape, strict=False):
        if axis not in (1, size):
            raise ShapeError(f"block_mask was made for {name}={axis} and query has {name}={size}; wanted {size} or 1")
    device = mask.device if isinstance(mask, BlockMask) and mask.is_symbolic else mask.kv_num_blocks.device
    if device.type != query.device.type:
        raise DeviceError(f"block_mask is on {device} and query on {query.device}; use block_mask.to({query.device!s})")


def _combination(mask: peer.BlockMask) -> Modifier:
    """The blocks and the mask_mod of a mask, put together once for as long as neither changes."""
    blocks = (mask.kv_num_blocks, mask.kv_indices, mask.full_kv_num_blocks, mask.full_kv_indices)
    state = (mask.mask_mod, tuple(mask.seq_lengths), [x if x is None else (id(x), x._version) for x in blocks])
    known = _combined.get(mask)
    if known is None or known[0] != state:
        known = _combined[mask] = (state, kept_by_blocks(mask))
    return known[1]


def _one_batch_for_all(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of batch 1 serve every batch of the queries, as in PyTorch."""
    if query.dim() == key.dim() == value.dim() == 4 and key.shape[0] == value.shape[0] == 1 != query.shape[0]:
        return (x.expand(query.shape[0], *x.shape[1:]) for x in (key, value))  # type: ignore[return-value]
    return key, value
