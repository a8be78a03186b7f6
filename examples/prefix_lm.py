"""Prefix language model: every row sees the prefix of its batch entry; the rest is causal."""

import torch
from torch import Tensor


def prefix_lm(q: Tensor, k: Tensor, v: Tensor, prefix: Tensor) -> Tensor:
    """q [B, H, M, D], k and v [B, H, N, D], prefix [B] (lengths) -> o [B, H, M, D]."""
    i = torch.arange(q.shape[2], device=q.device)[:, None]
    j = torch.arange(k.shape[2], device=q.device)[None, :]
    keep = (j <= i) | (j < prefix[:, None, None, None])
    scores = q @ k.mT * q.shape[-1] ** -0.5
    return scores.masked_fill(~keep, torch.finfo(scores.dtype).min).softmax(-1) @ v


def inputs() -> tuple[Tensor, ...]:
    """Small random tensors; prefixes of 20 and 35."""
    prefix = torch.tensor([20, 35])
    return torch.randn(2, 4, 64, 64), torch.randn(2, 4, 64, 64), torch.randn(2, 4, 64, 64), prefix
