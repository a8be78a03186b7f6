"""ALiBi (Press et al., 2022): a linear penalty on distance, one slope per head, instead of positions."""

import torch
from torch import Tensor


def alibi(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor) -> Tensor:
    """q [B, H, M, D], k and v [B, H, N, D], slopes [H] -> o [B, H, M, D]."""
    i = torch.arange(q.shape[2], device=q.device)[:, None]
    j = torch.arange(k.shape[2], device=q.device)[None, :]
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    scores = scores + slopes[:, None, None] * (j - i)
    return scores.masked_fill(j > i, float("-inf")).softmax(-1) @ v


def inputs() -> tuple[Tensor, ...]:
    """Small random tensors and the slopes 1/4, 1/16, … of the paper."""
    heads = 4
    slopes = 2.0 ** (-8.0 / heads * torch.arange(1, heads + 1))
    return torch.randn(2, heads, 64, 64), torch.randn(2, heads, 64, 64), torch.randn(2, heads, 64, 64), slopes
