"""Tree attention (speculative decoding): drafted tokens see the cached ones, their ancestors and themselves.

The drafts follow the cache; bit n of a draft's word says that draft n is one of its ancestors, or itself.
"""

import torch
from torch import Tensor


def tree_mask(q: Tensor, k: Tensor, v: Tensor, ancestors: Tensor) -> Tensor:
    """q [B, H, M, D] (drafts, at most 32), k and v [B, H, N, D], ancestors [B, M] of int32 -> o [B, H, M, D]."""
    cached = k.shape[2] - q.shape[2]
    j = torch.arange(k.shape[2], device=q.device)
    is_ancestor = (ancestors[:, None, :, None] >> (j - cached).clamp(min=0)) & 1
    keep = (j < cached) | (is_ancestor == 1)
    scores = q @ k.mT * q.shape[-1] ** -0.5
    return scores.masked_fill(~keep, float("-inf")).softmax(-1) @ v


def ancestor_bits(parents: list[int]) -> Tensor:
    """Words [M] from the parent of each draft, -1 for those that follow the cache."""
    words: list[int] = []
    for draft, parent in enumerate(parents):
        words.append(1 << draft | (words[parent] if parent >= 0 else 0))
    return torch.tensor(words, dtype=torch.int32)


def inputs() -> tuple[Tensor, ...]:
    """Small random tensors: 48 cached positions, a tree of 13 drafts that grows by three at each level."""
    parents = [-1, *(n // 3 for n in range(12))]
    return torch.randn(1, 4, 13, 64), torch.randn(1, 4, 61, 64), torch.randn(1, 4, 61, 64), ancestor_bits(parents)[None]
