"""Attention sinks (GPT-OSS): one learned logit per head takes part in the softmax and is then dropped."""

import torch
from torch import Tensor


def gpt_oss_sinks(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor) -> Tensor:
    """q [B, Hq, M, D], k and v [B, Hkv, N, D], sinks [Hq] -> o [B, Hq, M, D]."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
    future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    scores = scores.masked_fill(future, float("-inf"))
    column = sinks.reshape(1, -1, 1, 1).expand(q.shape[0], -1, q.shape[2], 1)
    weights = torch.cat([scores, column], dim=-1).softmax(dim=-1)
    return weights[..., :-1] @ v


def inputs() -> tuple[Tensor, ...]:
    """Small random tensors, two query heads to a key head."""
    return torch.randn(2, 8, 64, 64), torch.randn(2, 4, 64, 64), torch.randn(2, 4, 64, 64), torch.randn(8)
