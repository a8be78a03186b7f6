"""A mask packed to bits: 32 columns to a word of int32, tested by shifting."""

import torch
from torch import Tensor


def packed_mask(q: Tensor, k: Tensor, v: Tensor, words: Tensor) -> Tensor:
    """q [B, H, M, D], k and v [B, H, N, D], words [B, M, ceil(N / 32)] of int32 -> o [B, H, M, D]."""
    j = torch.arange(k.shape[2], device=q.device)
    keep = (words[:, None, :, j // 32] >> (j % 32)) & 1
    scores = q @ k.mT * q.shape[-1] ** -0.5
    return scores.masked_fill(keep == 0, float("-inf")).softmax(-1) @ v


def inputs() -> tuple[Tensor, ...]:
    """Small random tensors; every third pair is left out, in no order."""
    keep = torch.rand(2, 64, 64) < 0.67
    keep[..., 0] = True
    words = (keep.view(2, 64, 2, 32).long() << torch.arange(32)).sum(-1).to(torch.int32)
    return torch.randn(2, 4, 64, 64), torch.randn(2, 4, 64, 64), torch.randn(2, 4, 64, 64), words
