"""A mask packed to bytes, lowest bit first: one for all heads, as numpy.packbits(…, bitorder="little") makes it."""

import torch
from torch import Tensor


def byte_mask(q: Tensor, k: Tensor, v: Tensor, bits: Tensor) -> Tensor:
    """q [B, H, M, D], k and v [B, H, N, D], bits [M, ceil(N / 8)] of uint8 -> o [B, H, M, D]."""
    j = torch.arange(k.shape[2], device=q.device)
    keep = (bits[:, j // 8] >> (j % 8) & 1).bool()
    scores = q @ k.mT * q.shape[-1] ** -0.5
    return torch.where(keep, scores, float("-inf")).softmax(-1) @ v


def inputs() -> tuple[Tensor, ...]:
    """Small random tensors; every third pair is left out, in no order."""
    keep = torch.rand(64, 64) < 0.67
    keep[:, 0] = True
    bits = (keep.view(64, 8, 8).long() << torch.arange(8)).sum(-1).to(torch.uint8)
    return torch.randn(2, 4, 64, 64), torch.randn(2, 4, 64, 64), torch.randn(2, 4, 64, 64), bits
