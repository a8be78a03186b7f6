"""Padded batches (BERT): a captured boolean mask says which keys are text."""

import torch
from torch import Tensor


def padding_mask(q: Tensor, k: Tensor, v: Tensor, is_text: Tensor) -> Tensor:
    """q [B, H, M, D], k and v [B, H, N, D], is_text [B, N] -> o [B, H, M, D]."""
    bias = (1.0 - is_text[:, None, None, :].to(q.dtype)) * torch.finfo(q.dtype).min
    return torch.softmax(q @ k.mT * q.shape[-1] ** -0.5 + bias, dim=-1) @ v


def inputs() -> tuple[Tensor, ...]:
    """Small random tensors; texts of 40 and 64 positions."""
    is_text = torch.arange(64)[None, :] < torch.tensor([[40], [64]])
    return torch.randn(2, 4, 64, 64), torch.randn(2, 4, 64, 64), torch.randn(2, 4, 64, 64), is_text
