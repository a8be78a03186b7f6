"""Softcapped attention (Gemma 2): scores are squeezed into -50 .. 50 by a tanh, then masked causally."""

import torch
from torch import Tensor

CAP = 50.0


def softcap(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [B, H, M, D], k and v [B, H, N, D] -> o [B, H, M, D]."""
    scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
    scores = CAP * torch.tanh(scores / CAP)
    minus_infinity = torch.full((q.shape[2], k.shape[2]), float("-inf"), device=q.device)
    return torch.softmax(scores + minus_infinity.triu(1), dim=-1) @ v


def inputs() -> tuple[Tensor, ...]:
    """Small random tensors."""
    return torch.randn(1, 4, 80, 64), torch.randn(1, 4, 80, 64), torch.randn(1, 4, 80, 64)
