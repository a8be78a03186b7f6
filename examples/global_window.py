"""Window and global positions (Longformer, StreamingLLM): causal, the last 32 positions and the first 4."""

import torch
from torch import Tensor

WINDOW, FIRST = 32, 4


def global_window(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [B, H, M, D], k and v [B, H, N, D] -> o [B, H, M, D]."""
    i = torch.arange(q.shape[2], device=q.device)[:, None]
    j = torch.arange(k.shape[2], device=q.device)[None, :]
    keep = (j <= i) & ((i - j < WINDOW) | (j < FIRST))
    scores = q @ k.mT * q.shape[-1] ** -0.5
    return scores.masked_fill(~keep, float("-inf")).softmax(-1) @ v


def inputs() -> tuple[Tensor, ...]:
    """Small random tensors."""
    return torch.randn(1, 4, 96, 64), torch.randn(1, 4, 96, 64), torch.randn(1, 4, 96, 64)
