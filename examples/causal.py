"""Causal attention: a row sees its own position and everything before it."""

import math

import torch
from torch import Tensor


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [B, H, M, D], k and v [B, H, N, D] -> o [B, H, M, D]."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    future = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(future, float("-inf")).softmax(dim=-1) @ v


def inputs() -> tuple[Tensor, ...]:
    """Small random tensors."""
    return torch.randn(2, 4, 64, 64), torch.randn(2, 4, 64, 64), torch.randn(2, 4, 64, 64)
