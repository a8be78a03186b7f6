"""Multi-head latent attention's sizes (DeepSeek): keys of 96 with their positional part, values of 64."""

import torch
from torch import Tensor


def mla_dims(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [B, H, M, 96], k [B, H, N, 96], v [B, H, N, 64] -> o [B, H, M, 64]."""
    scores = q @ k.mT * q.shape[-1] ** -0.5
    row = torch.arange(q.shape[2], device=q.device)[:, None] + k.shape[2] - q.shape[2]
    scores = scores.masked_fill(torch.arange(k.shape[2], device=q.device) > row, float("-inf"))
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype) @ v


def inputs() -> tuple[Tensor, ...]:
    """Small random tensors: 16 new positions after 48 cached ones."""
    return torch.randn(1, 4, 16, 96), torch.randn(1, 4, 64, 96), torch.randn(1, 4, 64, 64)
