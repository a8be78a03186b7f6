"""Dilated sliding window (Longformer): every fourth of the last 64 positions."""

import torch
from torch import Tensor

WINDOW, STEP = 64, 4


def dilated_window(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [B, H, M, D], k and v [B, H, N, D] -> o [B, H, M, D]."""
    distance = torch.arange(q.shape[2], device=q.device)[:, None] - torch.arange(k.shape[2], device=q.device)
    keep = (distance >= 0) & (distance < WINDOW) & (distance % STEP == 0)
    scores = q @ k.mT * q.shape[-1] ** -0.5
    return scores.masked_fill(~keep, float("-inf")).softmax(-1) @ v


def inputs() -> tuple[Tensor, ...]:
    """Small random tensors."""
    return torch.randn(1, 4, 128, 64), torch.randn(1, 4, 128, 64), torch.randn(1, 4, 128, 64)
