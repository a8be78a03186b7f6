"""Dropout on the weights of causal attention; the mask follows from the seed, whatever the device and its tiles."""

import torch
from torch import Tensor

import tilewright as tw


def dropout(q: Tensor, k: Tensor, v: Tensor, seed: Tensor) -> Tensor:
    """q [B, H, M, D], k and v [B, H, N, D], seed () of int64 -> o [B, H, M, D]."""
    future = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).triu(1)
    scores = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(future, float("-inf"))
    return tw.dropout(scores.softmax(-1), 0.1, seed) @ v


def inputs() -> tuple[Tensor, ...]:
    """Small random tensors and a seed."""
    return torch.randn(2, 4, 64, 64), torch.randn(2, 4, 64, 64), torch.randn(2, 4, 64, 64), torch.tensor(20261122)
