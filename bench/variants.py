"""The attention variants that are measured: plain PyTorch functions, and the same in FlexAttention's terms.

The plain function is the specification: Tilewright compiles it, eager runs it, and in float64 it is the
reference that every implementation has to match before it is timed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["SOFTCAP", "VARIANTS", "WINDOW", "Variant", "all_pairs", "causal_pairs", "window_pairs"]

WINDOW = 512  # keys a row sees, its own included
SOFTCAP = 50.0
DOCUMENT_SHARES = (1, 2, 3, 10, 16)  # lengths of the documents in a sequence, in parts of their sum

Captured = tuple[Tensor, ...]
ScoreMod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Variant:
    """One attention variant.

    spec(q, k, v, *captured) -> o; captured(heads, length, device) makes the captured tensors; pairs(M, N)
    counts the (query, key) pairs that no mask removes. is_causal is SDPA's argument of that name, None where
    it cannot say the variant; score_mod and mask_mod take the captured tensors and return FlexAttention's,
    and is_flex is False where those two cannot say it either.
    """

    name: str
    spec: Callable[..., Tensor]
    pairs: Callable[[int, int], int]
    is_causal: bool | None = None
    captured: Callable[[int, int, torch.device], Captured] = lambda heads, length, device: ()
    score_mod: Callable[..., ScoreMod] | None = None
    mask_mod: Callable[..., MaskMod] | None = None
    is_flex: bool = True


def full(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return torch.softmax(scores, dim=-1) @ v


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    i = torch.arange(q.shape[-2], device=q.device)[:, None]
    j = torch.arange(k.shape[-2], device=q.device)[None, :]
    scores = scores.masked_fill(j > i, float("-inf"))
    return torch.softmax(scores, dim=-1) @ v


def window(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    i = torch.arange(q.shape[-2], device=q.device)[:, None]
    j = torch.arange(k.shape[-2], device=q.device)[None, :]
    keep = (j <= i) & (i - j < WINDOW)
    scores = scores.masked_fill(~keep, float("-inf"))
    return torch.softmax(scores, dim=-1) @ v


def softcap(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    scores = SOFTCAP * torch.tanh(scores / SOFTCAP)
    i = torch.arange(q.shape[-2], device=q.device)[:, None]
    j = torch.arange(k.shape[-2], device=q.device)[None, :]
    scores = scores.masked_fill(j > i, float("-inf"))
    return torch.softmax(scores, dim=-1) @ v


def alibi(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    i = torch.arange(q.shape[-2], device=q.device)[:, None]
    j = torch.arange(k.shape[-2], device=q.device)[None, :]
    scores = scores + slopes[:, None, None] * (j - i)
    scores = scores.masked_fill(j > i, float("-inf"))
    return torch.softmax(scores, dim=-1).to(v.dtype) @ v


def documents(q: Tensor, k: Tensor, v: Tensor, document: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    i = torch.arange(q.shape[-2], device=q.device)[:, None]
    j = torch.arange(k.shape[-2], device=q.device)[None, :]
    keep = (j <= i) & (document[:, None] == document[None, :])
    scores = scores.masked_fill(~keep, float("-inf"))
    return torch.softmax(scores, dim=-1) @ v


def all_pairs(m: int, n: int) -> int:
    """Every pair."""
    return m * n


def causal_pairs(m: int, n: int) -> int:
    """Pairs with j <= i."""
    return sum(min(i + 1, n) for i in range(m))


def window_pairs(m: int, n: int, width: int = WINDOW) -> int:
    """Pairs with 0 <= i - j < width."""
    return sum(max(0, min(i + 1, n) - max(0, i + 1 - width)) for i in range(m))


def _document_lengths(length: int) -> list[int]:
    unit = length // sum(DOCUMENT_SHARES)
    lengths = [share * unit for share in DOCUMENT_SHARES]
    return [*lengths[:-1], length - sum(lengths[:-1])]


def _document_pairs(m: int, n: int) -> int:
    del n  # documents are over one sequence: as many keys as queries
    return sum(length * (length + 1) // 2 for length in _document_lengths(m))


def _slopes(heads: int, length: int, device: torch.device) -> Captured:
    del length
    return (torch.tensor([2.0 ** (-8.0 * (h + 1) / heads) for h in range(heads)], device=device),)


def _documents(heads: int, length: int, device: torch.device) -> Captured:
    del heads
    ids = [number for number, rows in enumerate(_document_lengths(length)) for _ in range(rows)]
    return (torch.tensor(ids, dtype=torch.int32, device=device),)


def _causal_mask(*captured: Tensor) -> MaskMod:
    return lambda b, h, i, j: j <= i


def _window_mask(*captured: Tensor) -> MaskMod:
    return lambda b, h, i, j: (j <= i) & (i - j < WINDOW)


def _document_mask(document: Tensor) -> MaskMod:
    return lambda b, h, i, j: (j <= i) & (document[i] == document[j])


def _softcap_score(*captured: Tensor) -> ScoreMod:
    return lambda s, b, h, i, j: SOFTCAP * torch.tanh(s / SOFTCAP)


def _alibi_score(slopes: Tensor) -> ScoreMod:
    return lambda s, b, h, i, j: s + slopes[h] * (j - i)


_ROWS: Sequence[Variant] = (
    Variant("full", full, all_pairs, is_causal=False),
    Variant("causal", causal, causal_pairs, is_causal=True, mask_mod=_causal_mask),
    Variant("window", window, window_pairs, mask_mod=_window_mask),
    Variant("softcap", softcap, causal_pairs, score_mod=_softcap_score, mask_mod=_causal_mask),
    Variant("alibi", alibi, causal_pairs, captured=_slopes, score_mod=_alibi_score, mask_mod=_causal_mask),
    Variant("documents", documents, _document_pairs, captured=_documents, mask_mod=_document_mask),
)
VARIANTS = {variant.name: variant for variant in _ROWS}
