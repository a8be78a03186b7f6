"""Pointwise attention of HSTU (Zhai et al., 2024): SiLU of score and bias, each weight on its own, padding left out."""

import torch
import torch.nn.functional as F
from torch import Tensor


def silu_gate(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, length: Tensor) -> Tensor:
    """q [B, H, M, D], k and v [B, H, M, D], bias [M, M], length [B] -> o [B, H, M, D]."""
    i = torch.arange(q.shape[2], device=q.device)[:, None]
    j = torch.arange(k.shape[2], device=q.device)[None, :]
    weights = F.silu(q @ k.mT + bias) / q.shape[2]
    return weights * ((j <= i) & (j < length[:, None, None, None])) @ v


def inputs() -> tuple[Tensor, ...]:
    """Small random tensors; sequences of 64 and 40."""
    return (*(torch.randn(2, 4, 64, 64) for _ in range(3)), torch.randn(64, 64), torch.tensor([64, 40]))
