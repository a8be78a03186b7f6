"""Sigmoid attention (Ramapuram et al., 2024): each weight on its own, shifted by the logarithm of the length."""

import math

import torch
from torch import Tensor


def sigmoid(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [B, H, M, D], k and v [B, H, N, D] -> o [B, H, M, D]."""
    scores = q @ k.mT / math.sqrt(q.shape[-1]) - math.log(k.shape[2])
    return torch.sigmoid(scores) @ v


def inputs() -> tuple[Tensor, ...]:
    """Small random tensors."""
    return torch.randn(2, 4, 64, 64), torch.randn(2, 4, 64, 64), torch.randn(2, 4, 64, 64)
