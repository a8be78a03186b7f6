"""`attention(q, k, v, score_mod, mask_mod)`: FlexAttention's pair of callables, compiled once per pair.

The callables are mapped over all indices in the eager formula, and that function is compiled like any other.
Tensors in their closures become captured tensors, so new values never recompile.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Hashable, Sequence
from typing import Any

import torch

from ..ir.errors import ShapeError
from .arguments import check_attention
from .closures import Captures
from .compiled import Compiled
from .gradients.gradients import Gradients
from .kernel import Kernel
from .modifiers import Modifier, mapped
from .options import Options
from .plan import Output
from .specialisers import FunctionSpecialiser, fits
from .torch_ops import is_recorded

__all__ = ["attention"]

MAX_KERNELS = 256

_kernels: dict[Hashable, tuple[Kernel, Formula]] = {}
_lock = threading.Lock()


def attention(  # noqa: PLR0913 - the signature is public contract
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    score_mod: Modifier | None = None,
    mask_mod: Modifier | None = None,
    scale: float | None = None,
    enable_gqa: bool = False,
    deterministic: bool = False,
    return_lse: bool = False,
) -> Output:
    """Attention with a score modification and a mask, compiled at the first call of each pair.

    q [B, Hq, M, D], k [B, Hkv, N, D], v [B, Hkv, N, Dv] -> o [B, Hq, M, Dv] (and lse [B, Hq, M], natural
    logarithm). score_mod(score, b, h, q_idx, kv_idx) -> score; mask_mod(b, h, q_idx, kv_idx) -> bool, True
    where a query sees a key. scale: of q · k, 1/sqrt(D) when None. enable_gqa: allow Hq to be a multiple of
    Hkv. deterministic: gradients with the same bits in every run; o always has them. Differentiable by q, k, v and
    floating tensors that the callables capture. Raises UnsupportedSpec, ShapeError, DTypeError, DeviceError.
    """
    if torch.compiler.is_dynamo_compiling():
        from .traced_attention import traced_attention

        return traced_attention(q, k, v, score_mod, mask_mod, scale, enable_gqa, return_lse)
    pair = Pair((score_mod, mask_mod))
    key = pair.captures.key, scale is None, deterministic
    known = _kernels.get(key)
    if known is None:
        check_attention((q, k, v))
        known = _new_kernel(key, pair, scale is None, deterministic)
    kernel, formula = known
    formula.pair = pair
    if not enable_gqa and q.dim() == 4 and k.dim() == 4 and q.shape[1] != k.shape[1]:
        raise ShapeError(f"q has Hq={q.shape[1]} heads and k has Hkv={k.shape[1]}; pass enable_gqa=True to share heads")
    factor = () if scale is None else (_number(scale, q.device),)
    return kernel(q, k, v, *factor, *pair.captures.tensors, return_lse=return_lse)


def _number(value: float, device: torch.device) -> torch.Tensor:
    """The number as a tensor; one made while torch records is part of the recording and is not kept."""
    make = _new_number if is_recorded() else _kept_number
    return make(float(value), device)


def _new_number(value: float, device: torch.device) -> torch.Tensor:
    return torch.tensor(value, device=device)


_kept_number = functools.lru_cache(MAX_KERNELS)(_new_number)


class Pair:
    """The two callables of one call, with what they capture now."""

    __slots__ = ("captures", "modifiers")

    def __init__(self, modifiers: tuple[Modifier | None, Modifier | None]) -> None:
        self.modifiers = modifiers
        self.captures = Captures(modifiers)


class Formula:
    """The formula as a plain PyTorch function of q, k, v and the captured tensors.

    `pair` is that of the last call: equal in all but tensors to the others, and its tensors are there to be found.
    """

    __name__ = "attention"
    __signature__ = inspect.signature(lambda q, k, v, *captured: None)

    def __init__(self, pair: Pair, is_scale_default: bool) -> None:
        self.pair = pair
        self.is_scale_default = is_scale_default

    @property
    def __wrapped__(self) -> Modifier | None:
        """The user's function, for messages."""
        return next((modifier for modifier in self.pair.modifiers if modifier), None)

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *captured: Any) -> torch.Tensor:
        """o, with scores in memory. Unless it has the default, the scale is the first of `captured`."""
        pair = self.pair
        scale: float | torch.Tensor = q.shape[-1] ** -0.5
        if not self.is_scale_default:
            scale, captured = captured[0], captured[1:]
        score_mod, mask_mod = (m and pair.captures.rebuild(m, captured) for m in pair.modifiers)
        group = q.shape[1] // k.shape[1]
        if group > 1:
            k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        scores = (q @ k.transpose(-1, -2)) * scale
        index = [torch.arange(size, device=scores.device) for size in scores.shape]
        if score_mod is not None:
            scores = mapped(score_mod, index, scores)
        if mask_mod is not None:
            scores = torch.where(mapped(mask_mod, index), scores, float("-inf"))
        return torch.softmax(scores, dim=-1).to(v.dtype) @ v


def _new_kernel(key: Hashable, pair: Pair, is_scale_default: bool, deterministic: bool) -> tuple[Kernel, Formula]:
    with _lock:
        if len(_kernels) >= MAX_KERNELS:
            _kernels.clear()
        formula = Formula(pair, is_scale_default)
        options = Options(backward=True, deterministic=deterministic)
        specialiser = IndexSpecialiser(formula, options)
        return _kernels.setdefault(key, (Kernel(specialiser, options=options), formula))


class IndexSpecialiser(FunctionSpecialiser):
    """Callables index what they capture, so that a captured size of 1 is one size among others: one form serves all."""

    def specialise(self, tensors: Sequence[torch.Tensor]) -> Compiled:
        """The form for captured tensors of any sizes, unless the callables need those of 1 to broadcast."""
        compiled = super().specialise(_all_doubled(tensors))
        if compiled.spec is None or fits(compiled.spec, tensors):
            return compiled
        return super().specialise(tensors)

    def gradients(self, tensors: Sequence[torch.Tensor]) -> Gradients:
        """What differentiates that form."""
        spec = self.specialise(tensors).spec
        doubled = super().gradients(_all_doubled(tensors))
        return doubled if doubled.spec is spec else super().gradients(tensors)


def _all_doubled(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [*tensors[:3], *(_doubled(tensor) for tensor in tensors[3:])]


def _doubled(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with every dim of 1 repeated."""
    return tensor.expand([2 if size == 1 else size for size in tensor.shape])
