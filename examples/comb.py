"""A combination ("comb" of the CuBridge paper): the mask of a prefix model, softcapped scores, sigmoid weights."""

import math

import torch
from torch import Tensor

CAP = 20.0


def comb(q: Tensor, k: Tensor, v: Tensor, prefix: Tensor) -> Tensor:
    """q [B, H, M, D], k and v [B, H, N, D], prefix [B] (lengths) -> o [B, H, M, D]."""
    i = torch.arange(q.shape[2], device=q.device)[:, None]
    j = torch.arange(k.shape[2], device=q.device)[None, :]
    keep = (j <= i) | (j < prefix[:, None, None, None])
    scores = CAP * torch.tanh(q @ k.mT / math.sqrt(q.shape[-1]) / CAP) - math.log(k.shape[2])
    return torch.sigmoid(scores).masked_fill(~keep, 0.0) @ v


def inputs() -> tuple[Tensor, ...]:
    """Small random tensors; prefixes of 20 and 35."""
    prefix = torch.tensor([20, 35])
    return torch.randn(2, 4, 64, 64), torch.randn(2, 4, 64, 64), torch.randn(2, 4, 64, 64), prefix
