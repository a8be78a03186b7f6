"""Multi-head latent attention while decoding (DeepSeek): the heads share a latent key of 512 + 64 and value of 512."""

import torch
from torch import Tensor


def mla_absorbed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [B, H, M, 576], k [B, 1, N, 576], v [B, 1, N, 512] (the keys without their positions) -> o [B, H, M, 512]."""
    row = torch.arange(q.shape[2], device=q.device)[:, None] + k.shape[2] - q.shape[2]
    scores = q @ k.mT * 192**-0.5
    scores = scores.masked_fill(torch.arange(k.shape[2], device=q.device) > row, float("-inf"))
    return scores.softmax(-1) @ v


def inputs() -> tuple[Tensor, ...]:
    """Small random tensors: 2 new positions after 62 cached ones."""
    latent = torch.randn(1, 1, 64, 576)
    return torch.randn(1, 16, 2, 576), latent, latent[..., :512]
