"""Block-causal attention (video and diffusion models): everything in a row's own block of 16 and in those before."""

import torch
from torch import Tensor

BLOCK = 16


def block_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [B, H, M, D], k and v [B, H, N, D] -> o [B, H, M, D]."""
    i = torch.arange(q.shape[2], device=q.device)[:, None]
    j = torch.arange(k.shape[2], device=q.device)[None, :]
    scores = q @ k.mT * q.shape[-1] ** -0.5
    return torch.where(j // BLOCK <= i // BLOCK, scores, float("-inf")).softmax(-1) @ v


def inputs() -> tuple[Tensor, ...]:
    """Small random tensors."""
    return torch.randn(1, 4, 96, 64), torch.randn(1, 4, 96, 64), torch.randn(1, 4, 96, 64)
