"""Sliding-window attention (Mistral): a row sees the last 32 positions, itself included."""

import torch
from torch import Tensor

WINDOW = 32


def sliding_window(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [B, H, M, D], k and v [B, H, N, D] -> o [B, H, M, D]."""
    i = torch.arange(q.shape[2], device=q.device)[:, None]
    j = torch.arange(k.shape[2], device=q.device)[None, :]
    scores = q @ k.mT * q.shape[-1] ** -0.5
    scores = torch.where((j <= i) & (i - j < WINDOW), scores, float("-inf"))
    return torch.softmax(scores, dim=-1) @ v


def inputs() -> tuple[Tensor, ...]:
    """Small random tensors."""
    return torch.randn(1, 4, 96, 64), torch.randn(1, 4, 96, 64), torch.randn(1, 4, 96, 64)
