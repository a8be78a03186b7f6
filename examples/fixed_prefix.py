"""Prefix language model with one prefix for the whole batch, as an image in front of its text (PaliGemma)."""

import torch
from torch import Tensor


def fixed_prefix(q: Tensor, k: Tensor, v: Tensor, prefix: Tensor) -> Tensor:
    """q [B, H, M, D], k and v [B, H, N, D], prefix () (a length) -> o [B, H, M, D]."""
    i = torch.arange(q.shape[2], device=q.device)[:, None]
    j = torch.arange(k.shape[2], device=q.device)[None, :]
    scores = q @ k.mT * q.shape[-1] ** -0.5
    return scores.masked_fill((j > i) & (j >= prefix), float("-inf")).softmax(-1) @ v


def inputs() -> tuple[Tensor, ...]:
    """Small random tensors; a prefix of 24."""
    return torch.randn(2, 4, 64, 64), torch.randn(2, 4, 64, 64), torch.randn(2, 4, 64, 64), torch.tensor(24)
