"""Shared question (reward models): answers see the question and themselves, not one another."""

import torch
from torch import Tensor


def share_question(q: Tensor, k: Tensor, v: Tensor, part: Tensor) -> Tensor:
    """q [B, H, M, D], k and v [B, H, M, D], part [B, M] (0 is the question, then the answers) -> o [B, H, M, D]."""
    position = torch.arange(q.shape[2], device=q.device)
    causal = position[:, None] >= position[None, :]
    row, column = part[:, None, :, None], part[:, None, None, :]
    keep = causal & ((column == 0) | (row == column))
    scores = q @ k.mT * q.shape[-1] ** -0.5
    return scores.masked_fill(~keep, float("-inf")).softmax(-1) @ v


def inputs() -> tuple[Tensor, ...]:
    """Small random tensors; questions of 20 and 32 positions, each with three answers."""
    lengths = [[20, 14, 18, 12], [32, 8, 16, 8]]
    parts = [torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)) for row in lengths]
    return torch.randn(2, 4, 64, 64), torch.randn(2, 4, 64, 64), torch.randn(2, 4, 64, 64), torch.stack(parts)
