"""Grouped-query attention without copying keys: the groups are a dim of their own in the einsum."""

import torch
from torch import Tensor


def gqa_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [B, Hq, M, D], k and v [B, Hkv, N, D], Hq a multiple of Hkv -> o [B, Hq, M, D]."""
    grouped = q.unflatten(1, (k.shape[1], -1))
    scores = torch.einsum("bhgid,bhjd->bhgij", grouped, k) * q.shape[-1] ** -0.5
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    weights = scores.masked_fill(future, float("-inf")).softmax(-1)
    return torch.einsum("bhgij,bhjd->bhgid", weights, v).flatten(1, 2)


def inputs() -> tuple[Tensor, ...]:
    """Small random tensors, four query heads to a key head."""
    return torch.randn(2, 8, 64, 64), torch.randn(2, 2, 64, 64), torch.randn(2, 2, 64, 64)
