"""The attention function of the interface: which kernel serves a call, and what is refused."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from ...ir.errors import DTypeError, ShapeError, UnsupportedSpec
from ...kernels.kernel import wants_gradient
from .arguments import NOT_HONOURED
from .kernels import Variant, kernel_for
from .masks import MaskKind, SymbolicMask, kind_of
from .rules import Alignment

__all__ = ["attention_forward"]


def attention_forward(  # noqa: PLR0913 - transformers' attention interface passes these by name
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface.

    query [B, Hq, M, D], key [B, Hkv, N, D], value [B, Hkv, N, Dv] -> o [B, M, Hq, Dv], and None for the weights.
    attention_mask: what `make_mask` made, a dense mask [B|1, Hq|1, M|1, N] (bool, or added to the scores), or None:
    causal if is_causal (the module's own where it is None) and M > 1. Differentiable by query, key, value, s_aux and
    position_bias. Raises UnsupportedSpec for an argument that cannot be honoured.
    """
    if dropout or not others.keys().isdisjoint(NOT_HONOURED):
        _refuse(dropout, others)
    extra: tuple[Tensor, ...] = ()
    form = ""
    if isinstance(attention_mask, SymbolicMask):
        kind, tensors = attention_mask.kind, attention_mask.tensors
        if attention_mask.columns != key.shape[2]:
            key, value = _visible(attention_mask, key, value)
    elif attention_mask is None:
        kind, tensors = _unmasked(module, query.shape[2], key.shape[2], is_causal, sliding_window), ()
    else:
        kind, tensors, extra = _plain(None), (), (_dense(attention_mask, key.shape[2]),)
        form = "bool" if extra[0].dtype is torch.bool else "float"
    if position_bias is not None:
        extra = (*extra, position_bias[..., : key.shape[2]])
    if s_aux is not None:
        extra = (*extra, s_aux)
    scaling = query.shape[3] ** -0.5 if scaling is None else scaling
    kernel = kernel_for(kind, Variant(scaling, softcap, form, position_bias is not None, s_aux is not None))
    given = (query, key, value, *tensors, *extra)
    if wants_gradient(given):
        o = kernel(*given)
        assert isinstance(o, Tensor)
        return o.transpose(1, 2).contiguous(), None
    batch, heads, rows, _ = query.shape
    output = query.new_empty(batch, rows, heads, value.shape[3])
    kernel(*given, out=output.transpose(1, 2))
    return output, None


def _visible(mask: SymbolicMask, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """The keys that any row can see; a static cache is longer."""
    columns = mask.columns
    if columns > key.shape[2]:
        raise ShapeError(f"attention_mask is for {columns} keys, and key has N={key.shape[2]}; make it for these keys")
    return key[:, :, :columns], value[:, :, :columns]


def _unmasked(module: torch.nn.Module, rows: int, columns: int, is_causal: bool | None, window: int | None) -> MaskKind:
    """What no mask means: causal if the call or the module says so and there is more than one row, else every key."""
    causal = rows > 1 and (getattr(module, "is_causal", True) if is_causal is None else is_causal)
    if causal and rows != columns:
        raise UnsupportedSpec(
            f"attention_mask=None with is_causal, M={rows} and N={columns}: this does not say where the rows stand",
            hint="pass a mask made by transformers.masking_utils.create_causal_mask, or is_causal=False",
        )
    if not causal and window is not None and columns > window:
        raise UnsupportedSpec(
            f"sliding_window={window} with attention_mask=None and no causal mask",
            hint="pass a mask made by transformers.masking_utils.create_sliding_window_causal_mask",
        )
    return _plain((window or 0) if causal else None)


@functools.cache
def _plain(window: int | None) -> MaskKind:
    """Every key (None), causal (0) or a causal window."""
    from transformers import masking_utils

    if window is None:
        return kind_of(None, Alignment.START, is_padded=False)[0]
    causal: Any = masking_utils.causal_mask_function
    windowed: Any = masking_utils.sliding_window_causal_mask_function
    return kind_of(windowed(window) if window else causal, Alignment.END, is_padded=False)[0]


def _dense(mask: object, columns: int) -> Tensor:
    """A mask that the model made itself, for the keys that there are."""
    hint = "pass bool (True: seen) or floating point (added to the scores) [B, 1, M, N], or a 2-D mask to the model"
    if not isinstance(mask, Tensor):
        raise UnsupportedSpec(f"attention_mask of type {type(mask).__name__}", hint=hint)
    if mask.dim() != 4:
        raise ShapeError(f"attention_mask: rank {mask.dim()}, shape {tuple(mask.shape)}; {hint}")
    if mask.dtype is not torch.bool and not mask.is_floating_point():
        raise DTypeError(f"attention_mask: got {mask.dtype}; {hint}")
    if 1 < mask.shape[3] < columns:
        raise ShapeError(f"attention_mask: {mask.shape[3]} keys, and key has N={columns}; {hint}")
    return mask[..., :columns]


def _refuse(dropout: float, others: dict[str, Any]) -> None:
    """Raise for the first argument that would change the result."""
    if dropout:
        raise UnsupportedSpec(
            f"dropout={dropout}: attention weights are not dropped", hint="model.eval(), or attention_dropout=0.0"
        )
    for name, instead in NOT_HONOURED.items():
        given = others.get(name)
        if given is not None and given is not False:
            raise UnsupportedSpec(f"{name} under attn_implementation='tilewright'", hint=instead)
