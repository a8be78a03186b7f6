"""The kernels behind the Hugging Face interface: one per kind of mask and variant of the score, made at first use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...kernels.kernel import Kernel
from ...kernels.options import Options
from ...kernels.specialisers import FunctionSpecialiser
from .masks import Index, MaskKind

__all__ = ["Variant", "kernel_for"]

_lock = threading.Lock()


class Variant(NamedTuple):
    """What a kernel does besides its mask; the tensors come in the order of the fields that announce them.

    dense: a mask [B|1, Hq|1, M|1, N] that the model made itself, "bool" or "float" (added to the scores). has_bias: a
    tensor of that form added before the mask. has_sink: a logit per head [Hq].
    """

    scaling: float
    softcap: float | None
    dense: str
    has_bias: bool
    has_sink: bool


def kernel_for(kind: MaskKind, variant: Variant) -> Kernel:
    """The kernel that takes q, k, v, the mask's tensors and the variant's."""
    kernel: Kernel | None = kind.kernels.get(variant)
    if kernel is None:
        with _lock:
            options = Options(backward=True)
            made = Kernel(FunctionSpecialiser(_formula(kind, variant), options), options=options)
            kernel = kind.kernels.setdefault(variant, made)
    return kernel


def _formula(kind: MaskKind, variant: Variant) -> Callable[..., Tensor]:
    """The models' eager attention as a function of q, k, v and the captured tensors."""

    def attention(q: Tensor, k: Tensor, v: Tensor, *captured: Tensor) -> Tensor:
        group = q.shape[1] // k.shape[1]
        if group > 1:
            k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        scores = (q @ k.transpose(-1, -2)) * variant.scaling
        if variant.softcap is not None:
            scores = variant.softcap * torch.tanh(scores / variant.softcap)
        index = _indices(scores)
        rest = list(captured[kind.count :])
        keep = kind.keep(captured[: kind.count], index, (q.shape[2], k.shape[2]))
        if variant.dense == "bool":
            given = rest.pop(0)
            keep = given if keep is None else keep & given
        elif variant.dense == "float":
            scores = scores + rest.pop(0)
        if variant.has_bias:
            scores = scores + rest.pop(0)
        if keep is not None:
            scores = torch.where(keep, scores, float("-inf"))
        return _weights(scores, rest, q.dtype) @ v

    return attention


def _weights(scores: Tensor, sinks: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """The softmax, in float32 as the models take it; a sink's share is left out."""
    if not sinks:
        return torch.softmax(scores, dim=-1, dtype=torch.float32).to(dtype)
    column = sinks[0].reshape(1, -1, 1, 1).expand(scores.shape[0], -1, scores.shape[2], 1)
    both = torch.cat([scores, column.to(scores.dtype)], dim=-1)
    return torch.softmax(both, dim=-1, dtype=torch.float32).to(dtype)[..., :-1]


def _indices(scores: Tensor) -> Index:
    """b, h, i, j as index tensors that broadcast to the scores' shape."""
    shapes: tuple[Any, ...] = ((-1, 1, 1, 1), (1, -1, 1, 1), (1, 1, -1, 1), (1, 1, 1, -1))
    b, h, i, j = (
        torch.arange(size, device=scores.device).reshape(shape)
        for size, shape in zip(scores.shape, shapes, strict=True)
    )
    return b, h, i, j
