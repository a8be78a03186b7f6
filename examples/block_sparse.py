"""Block-sparse attention (BigBird, minference): a boolean table says which 16 x 16 blocks of scores count."""

import torch
from torch import Tensor

BLOCK = 16


def block_sparse(q: Tensor, k: Tensor, v: Tensor, blocks: Tensor) -> Tensor:
    """q [B, H, M, D], k and v [B, H, N, D], blocks [H, ceil(M / 16), ceil(N / 16)] of bool -> o [B, H, M, D]."""
    i = torch.arange(q.shape[2], device=q.device)[:, None]
    j = torch.arange(k.shape[2], device=q.device)[None, :]
    scores = q @ k.mT * q.shape[-1] ** -0.5
    return scores.masked_fill(~blocks[:, i // BLOCK, j // BLOCK], float("-inf")).softmax(-1) @ v


def inputs() -> tuple[Tensor, ...]:
    """Small random tensors; the diagonal blocks and a third of the others."""
    blocks = (torch.rand(4, 8, 8) < 0.33) | torch.eye(8, dtype=torch.bool)
    return torch.randn(1, 4, 128, 64), torch.randn(1, 4, 128, 64), torch.randn(1, 4, 128, 64), blocks
