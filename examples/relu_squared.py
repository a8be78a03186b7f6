"""Squared-ReLU attention (Primer, MEGA): causal, divided by the number of positions seen."""

import torch
from torch import Tensor


def relu_squared(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [B, H, M, D], k and v [B, H, N, D] -> o [B, H, M, D]."""
    scores = q @ k.mT * q.shape[-1] ** -0.5
    weights = torch.relu(scores).square().tril()
    seen = torch.arange(1, q.shape[2] + 1, device=q.device)[:, None]
    return (weights / seen) @ v


def inputs() -> tuple[Tensor, ...]:
    """Small random tensors."""
    return torch.randn(2, 4, 64, 64), torch.randn(2, 4, 64, 64), torch.randn(2, 4, 64, 64)
