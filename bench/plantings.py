"""Functions whose kernels get planted errors, and the programs that the errors are planted in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ir.parser import parse_program
from ..ir.transfer import transfer
from ..kernels.compiled import Stages
from ..kernels.judging import ProgramJudge, SpecClaim, make_judge
from ..kernels.references import reference_program
from ..kernels.specialisers import trace

__all__ = ["BASES", "Base", "judge_and_text"]

WIDTH = 16
TILE = 16
WINDOW = 5
HEADS = (4, 2)


def _scores(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q k^T / 4, v per query head, row and column indices."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    i = torch.arange(q.shape[2], device=q.device)[:, None]
    j = torch.arange(k.shape[2], device=q.device)[None, :]
    return q @ k.mT * q.shape[-1] ** -0.5, v, i, j


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Two query heads to a key head."""
    s, v, i, j = _scores(q, k, v)
    return torch.where(j <= i, s, float("-inf")).softmax(-1) @ v


def window(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Keys on both sides."""
    s, v, i, j = _scores(q, k, v)
    return torch.where((i - j < WINDOW) & (j - i < WINDOW), s, float("-inf")).softmax(-1) @ v


def alibi(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor) -> Tensor:
    """A slope per query head."""
    s, v, i, j = _scores(q, k, v)
    return (s + slopes[:, None, None] * (j - i)).softmax(-1) @ v


def softcap(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scores bent below 5, then a causal mask."""
    s, v, i, j = _scores(q, k, v)
    return torch.where(j <= i, 5.0 * torch.tanh(s / 5.0), float("-inf")).softmax(-1) @ v


def bias(q: Tensor, k: Tensor, v: Tensor, added: Tensor) -> Tensor:
    """A bias for every head, row and key."""
    s, v, _, _ = _scores(q, k, v)
    return (s + added[None]).softmax(-1) @ v


def documents(q: Tensor, k: Tensor, v: Tensor, ids: Tensor) -> Tensor:
    """Causal inside a document; ids per batch entry and position."""
    s, v, i, j = _scores(q, k, v)
    same = ids[:, None, :, None] == ids[:, None, None, :]
    return torch.where(same & (j <= i), s, float("-inf")).softmax(-1) @ v


def prefix(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
    """Everything sees a prefix of each batch entry; the rest is causal."""
    s, v, i, j = _scores(q, k, v)
    return torch.where((j < lengths[:, None, None, None]) | (j <= i), s, float("-inf")).softmax(-1) @ v


def sink(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor) -> Tensor:
    """One learned logit per head takes part in the sum."""
    s, v, i, j = _scores(q, k, v)
    s = torch.where(j <= i, s, float("-inf"))
    column = sinks.reshape(1, -1, 1, 1).expand(q.shape[0], -1, q.shape[2], 1)
    return torch.cat([s, column], dim=-1).softmax(-1)[..., :-1] @ v


def sigmoid(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """A sigmoid of every score, with a constant bias, causal."""
    s, v, i, j = _scores(q, k, v)
    return torch.where(j <= i, torch.sigmoid(s - 2.0), 0.0) @ v


def relu(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Positive scores, divided by their sum and a little more, causal."""
    s, v, i, j = _scores(q, k, v)
    weights = torch.where(j <= i, torch.relu(s), 0.0)
    return weights / (weights.sum(-1, keepdim=True) + 0.5) @ v


def thinned(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Normalised weights that are dropped at fixed places, the others made larger."""
    s, v, i, j = _scores(q, k, v)
    weights = torch.where(j <= i, s, float("-inf")).softmax(-1)
    return torch.where((i * 7 + j * 4) % 5 != 0, weights * 1.25, 0.0) @ v


def _qkv() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hq, hkv = HEADS
    q, k, v = (torch.randn((2, heads, 21, WIDTH), generator=generator) for heads in (hq, hkv, hkv))
    return q, k, v


@dataclass(frozen=True, slots=True)
class Base:
    """A function, the captured tensors of its example, the expert's program, and edits that make the text small."""

    function: Callable[..., Tensor]
    captured: tuple[Tensor, ...] = ()
    reference: str = "flash_forward"
    edits: tuple[tuple[str, str], ...] = ()


SMALL_SPLITS = (
    ("max((columns + 16383) // 16384 * 256, 512)", "max((columns + 1023) // 1024 * 16, 32)"),
    ("tiles(N, 64,", f"tiles(N, {TILE},"),
)
LOADED = "            k_tile = load(k[b, g, n, :])\n"
WAITED = "            commit()\n            wait_group(0)\n"
STAGED = (
    (", 64,", f", {TILE},"),
    (", 64)", f", {TILE})"),
    (
        "        g = h // (Hq // Hkv)\n",
        f'        g = h // (Hq // Hkv)\n        ring = alloc(f32[{TILE}, D], space="shared")\n',
    ),
    (LOADED, f"            copy_async(ring[n, :], k[b, g, n, :])\n{WAITED}            k_tile = load(ring[n, :])\n"),
)
BASES: dict[str, Base] = {
    "causal": Base(causal),
    "window": Base(window),
    "alibi": Base(alibi, (torch.tensor([0.5, 0.25, 0.125, 0.0625]),)),
    "softcap": Base(softcap),
    "bias": Base(bias, (torch.randn((4, 21, 21), generator=torch.Generator().manual_seed(1)),)),
    "documents": Base(documents, (torch.arange(42).reshape(2, 21) // 4 % 5,)),
    "prefix": Base(prefix, (torch.tensor([3, 7]),)),
    "sink": Base(sink, (torch.tensor([0.5, -1.0, 2.0, 0.0]),)),
    "sigmoid": Base(sigmoid),
    "relu": Base(relu),
    "thinned": Base(thinned),
    "staged": Base(causal, (), "flash_forward", STAGED),
    "split": Base(causal, (), "flash_split", SMALL_SPLITS),
}


def judge_and_text(name: str) -> tuple[ProgramJudge, str]:
    """A judge of the base's function, and a right program for it in tiles of 16."""
    base = BASES[name]
    example: Sequence[Tensor] = (*_qkv(), *base.captured)
    spec = trace(base.function, example, Stages()).spec
    judge = make_judge(base.function, example, spec=spec)
    assert isinstance(judge.claim, SpecClaim)
    text = str(transfer(reference_program(base.reference), spec))
    edits = base.edits or ((", 64,", f", {TILE},"), (", 64)", f", {TILE})"))
    for old, new in edits:
        assert old in text, (name, old)
        text = text.replace(old, new)
    return judge, str(parse_program(text))
