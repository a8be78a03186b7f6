"""Grouped-query attention in many spellings; `test_lift.py` lifts every one with 3 query heads per key head."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

GROUPED: dict[str, Callable[..., Tensor]] = {}


def grouped(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    GROUPED[function.__name__] = function
    return function


@grouped
def repeat_interleave(q, k, v):
    n_rep = q.size(1) // k.size(1)
    k, v = k.repeat_interleave(n_rep, dim=1), v.repeat_interleave(n_rep, dim=1)
    return (q @ k.mT * 0.3).softmax(-1) @ v


def repeat_kv(x, n_rep):
    batch, heads, length, dim = x.shape
    if n_rep == 1:
        return x
    x = x[:, :, None, :, :].expand(batch, heads, n_rep, length, dim)
    return x.reshape(batch, heads * n_rep, length, dim)


@grouped
def expand_and_reshape(q, k, v):
    n_rep = q.shape[1] // k.shape[1]
    s = torch.matmul(q, repeat_kv(k, n_rep).transpose(2, 3)) / math.sqrt(q.shape[-1])
    return torch.matmul(F.softmax(s, dim=-1), repeat_kv(v, n_rep))


@grouped
def grouped_view(q, k, v):
    b, hq, m, d = q.shape
    hkv = k.shape[1]
    q = q.view(b, hkv, hq // hkv, m, d)
    s = q @ k.unsqueeze(2).transpose(-1, -2) * 0.3
    return (s.softmax(-1) @ v.unsqueeze(2)).view(b, hq, m, -1)


@grouped
def grouped_einsum(q, k, v):
    b, _, m, d = q.shape
    q = q.reshape(b, k.shape[1], -1, m, d)
    s = torch.einsum("bhgid,bhjd->bhgij", q, k) * 0.3
    i, j = torch.arange(m)[:, None], torch.arange(k.shape[2])[None]
    s = s.masked_fill(j > i, float("-inf"))
    return torch.einsum("bhgij,bhjd->bhgid", s.softmax(-1), v).flatten(1, 2)


@grouped
def rows_of_all_heads_together(q, k, v):
    b, hq, m, d = q.shape
    hkv = k.shape[1]
    folded = q.reshape(b, hkv, hq // hkv * m, d)
    p = (folded @ k.mT * 0.3).softmax(-1)
    return (p @ v).reshape(b, hq, m, v.shape[-1])


@grouped
def library_gqa(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


@grouped
def stacked_copies(q, k, v):
    g = q.shape[1] // k.shape[1]
    k = torch.stack([k] * g, dim=2).flatten(1, 2)
    v = torch.stack([v] * g, dim=2).flatten(1, 2)
    return (q @ k.mT * 0.3).softmax(-1) @ v


@grouped
def gathered_heads(q, k, v):
    g = q.shape[1] // k.shape[1]
    heads = torch.arange(q.shape[1]) // g
    return (q @ k[:, heads].mT * 0.3).softmax(-1) @ v.index_select(1, heads)


@grouped
def alibi_by_group(q, k, v):
    b, hq, m, d = q.shape
    hkv = k.shape[1]
    slopes = torch.pow(0.5, torch.arange(1, hq + 1, dtype=q.dtype)).view(hkv, hq // hkv, 1, 1)
    s = torch.einsum("bhgid,bhjd->bhgij", q.unflatten(1, (hkv, -1)), k)
    s = s + slopes * (torch.arange(k.shape[2])[None, :] - torch.arange(m)[:, None])
    return torch.einsum("bhgij,bhjd->bhgid", s.softmax(-1), v).reshape(b, hq, m, d)


def one_key_head(q, k, v):
    """k and v [B, 1, N, D]: broadcast over all query heads."""
    return (q @ k.mT * 0.3).softmax(-1) @ v
