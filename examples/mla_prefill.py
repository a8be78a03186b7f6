"""Multi-head latent attention before decoding (DeepSeek): keys of 128 + 64, values of 128."""

import torch
from torch import Tensor


def mla_prefill(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [B, H, M, 192], k [B, H, N, 192], v [B, H, N, 128] -> o [B, H, M, 128]."""
    future = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).triu(1)
    scores = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(future, float("-inf"))
    return scores.softmax(-1) @ v


def inputs() -> tuple[Tensor, ...]:
    """Small random tensors."""
    return torch.randn(1, 4, 64, 192), torch.randn(1, 4, 64, 192), torch.randn(1, 4, 64, 128)
