"""Attention that FlexAttention cannot say: other normalisers, sinks, dropout. Measured against eager PyTorch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..kernels.dropout import dropout as seeded_dropout
from .variants import Captured, Variant, all_pairs, causal_pairs

__all__ = ["NORMALISERS"]

DROPPED = 0.1


def _scores(q: Tensor, k: Tensor) -> Tensor:
    return torch.matmul(q, k.mT) * float(q.shape[-1] ** -0.5)


def _future(scores: Tensor) -> Tensor:
    return torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)


def _sigmoid(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.sigmoid(_scores(q, k) - math.log(k.shape[2])) @ v


def _relu(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.relu(_scores(q, k)) / k.shape[2] @ v


def _relu_squared(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    seen = torch.arange(1, q.shape[2] + 1, device=q.device)[:, None]
    return torch.relu(_scores(q, k)).square().tril() / seen @ v


def _no_normaliser(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _scores(q, k).tril() @ v


def _sinks(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor) -> Tensor:
    scores = _scores(q, k)
    scores = scores.masked_fill(_future(scores), float("-inf"))
    column = sinks.to(q.dtype)[None, :, None, None].expand(*scores.shape[:-1], 1)
    return torch.cat([scores, column], dim=-1).softmax(-1)[..., :-1] @ v


def _dropout(q: Tensor, k: Tensor, v: Tensor, seed: Tensor) -> Tensor:
    scores = _scores(q, k)
    weights = scores.masked_fill(_future(scores), float("-inf")).softmax(-1)
    return seeded_dropout(weights, DROPPED, seed) @ v


def _sink_per_head(heads: int, length: int, device: torch.device) -> Captured:
    del length
    return (torch.linspace(-1.0, 1.0, heads, device=device),)


def _seed(heads: int, length: int, device: torch.device) -> Captured:
    del heads, length
    return (torch.tensor(2026, device=device),)


NORMALISERS = (
    Variant("sigmoid", _sigmoid, all_pairs, is_flex=False),
    Variant("relu", _relu, all_pairs, is_flex=False),
    Variant("relu-squared", _relu_squared, causal_pairs, is_flex=False),
    Variant("no-normaliser", _no_normaliser, causal_pairs, is_flex=False),
    Variant("sinks", _sinks, causal_pairs, captured=_sink_per_head, is_flex=False),
    Variant("dropout", _dropout, causal_pairs, captured=_seed, is_flex=False),
)
