"""T5's relative position bias: a learned number per head and distance bucket, logarithmic for far positions."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

BUCKETS, FARTHEST = 32, 128


def bucket(distance: Tensor) -> Tensor:
    """The bucket of j - i: 8 exact ones for each side, then logarithmic up to 128."""
    half = BUCKETS // 2
    exact = half // 2
    side = (distance > 0).long() * half
    distance = distance.abs()
    log = torch.log(distance.float() / exact) / math.log(FARTHEST / exact)
    far = (exact + (log * (half - exact)).long()).clamp(max=half - 1)
    return side + torch.where(distance < exact, distance, far)


def t5_bias(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
    """q [B, H, M, D], k and v [B, H, N, D], table [32, H] -> o [B, H, M, D]; T5 does not scale its scores."""
    i = torch.arange(q.shape[2], device=q.device)[:, None]
    j = torch.arange(k.shape[2], device=q.device)[None, :]
    bias = F.embedding(bucket(j - i), table).permute(2, 0, 1)
    return torch.softmax(q @ k.mT + bias, dim=-1) @ v


def inputs() -> tuple[Tensor, ...]:
    """Small random tensors and a random table."""
    return torch.randn(1, 4, 96, 64), torch.randn(1, 4, 96, 64), torch.randn(1, 4, 96, 64), torch.randn(BUCKETS, 4)
