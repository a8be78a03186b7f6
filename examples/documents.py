"""Packed documents: several texts in one sequence, causal inside each, blind to the others."""

import torch
from torch import Tensor


def documents(q: Tensor, k: Tensor, v: Tensor, document: Tensor) -> Tensor:
    """q [B, H, M, D], k and v [B, H, M, D], document [B, M] (a number per position) -> o [B, H, M, D]."""
    position = torch.arange(q.shape[2], device=q.device)
    causal = position[:, None] >= position[None, :]
    same = document[:, None, :, None] == document[:, None, None, :]
    scores = q @ k.mT * q.shape[-1] ** -0.5
    return scores.masked_fill(~(same & causal), float("-inf")).softmax(-1) @ v


def inputs() -> tuple[Tensor, ...]:
    """Small random tensors; documents of 10, 30, 24 and of 40, 24 positions."""
    lengths = [[10, 30, 24], [40, 24]]
    rows = [torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)) for row in lengths]
    return torch.randn(2, 4, 64, 64), torch.randn(2, 4, 64, 64), torch.randn(2, 4, 64, 64), torch.stack(rows)
