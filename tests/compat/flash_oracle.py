"""flash-attn's attention of one sequence by its definition, and the error that float arithmetic may have."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["assert_right", "attention", "tensors"]


def tensors(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
    """Standard-normal tensors."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """q [M, Hq, D], k [N, Hkv, D], v [N, Hkv, Dv], slopes [Hq] -> o [M, Hq, Dv], lse [Hq, M], in q's precision."""
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    k, v = (x.repeat_interleave(q.shape[0] // x.shape[0], 0) for x in (k, v))
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    m, n = scores.shape[-2:]
    ahead = torch.arange(n)[None, :] - (torch.arange(m)[:, None] + n - m)  # how far right of the diagonal
    if alibi_slopes is not None:
        scores = scores - alibi_slopes[:, None, None].to(scores.dtype) * ahead.abs()
    left, right = window_size
    if causal or right >= 0:
        scores = scores.masked_fill(ahead > (0 if causal else right), -math.inf)
    if left >= 0:
        scores = scores.masked_fill(-ahead > left, -math.inf)
    weights = torch.softmax(scores, -1).nan_to_num(0.0)
    return (weights @ v).transpose(0, 1), torch.logsumexp(scores, -1)


def assert_right(got: Tensor, got_lse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> None:
    """One sequence's result against float64, within twice the error of the same formula in q's own precision."""
    exact, exact_lse = attention(q.double(), k.double(), v.double(), **options)
    low, low_lse = attention(q, k, v, **options)
    _assert_within(got, low, exact)
    if got_lse is not None:
        assert torch.equal(got_lse.isneginf(), exact_lse.isneginf())
        seen = exact_lse.isfinite()
        _assert_within(got_lse[seen], low_lse[seen], exact_lse[seen])


def _assert_within(got: Tensor, low: Tensor, exact: Tensor) -> None:
    assert got.shape == exact.shape
    if not exact.numel():
        return
    rounding = torch.finfo(low.dtype).eps * exact.abs().max()
    budget = 2 * (low - exact).abs().max() + 4 * rounding
    error = (got - exact).abs().max()
    assert error <= budget, f"error {error:.3e} over budget {budget:.3e}"
