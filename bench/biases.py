"""Learned biases that are measured with their gradients: T5's table of relative positions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .variants import Captured, Variant, all_pairs

__all__ = ["BIASES"]

BUCKETS, FARTHEST = 32, 128
SEED = 5


def _bucket(distance: Tensor) -> Tensor:
    """The bucket of j - i: 8 exact ones for each side, then logarithmic up to FARTHEST."""
    half, exact = BUCKETS // 2, BUCKETS // 4
    side = (distance > 0).long() * half
    distance = distance.abs()
    log = torch.log(distance.float() / exact) / math.log(FARTHEST / exact)
    far = (exact + (log * (half - exact)).long()).clamp(max=half - 1)
    return side + torch.where(distance < exact, distance, far)


def _t5(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
    i = torch.arange(q.shape[2], device=q.device)[:, None]
    j = torch.arange(k.shape[2], device=q.device)[None, :]
    bias = F.embedding(_bucket(j - i), table).permute(2, 0, 1)
    scores = q @ k.mT * q.shape[-1] ** -0.5 + bias
    return torch.softmax(scores, dim=-1).to(v.dtype) @ v


def _table(heads: int, length: int, device: torch.device) -> Captured:
    del length
    generator = torch.Generator().manual_seed(SEED)
    return (torch.randn(BUCKETS, heads, generator=generator).to(device),)


BIASES = (Variant("t5", _t5, all_pairs, captured=_table, is_flex=False),)
