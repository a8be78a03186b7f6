"""flex_attention inside torch.compile(fullgraph=True): masks from outside and masks made inside."""

from __future__ import annotations

from typing import Any

import torch

from tilewright.compat import flex_attention as ours

LENGTH, HEADS, WIDTH = 70, 2, 16
IDS = torch.arange(LENGTH) // 20
SLOPES = torch.tensor([0.5, 0.25])


def documents(ids: torch.Tensor) -> Any:
    return lambda b, h, i, j: (ids[i] == ids[j]) & (i >= j)


def alibi(score: torch.Tensor, b: Any, h: Any, i: Any, j: Any) -> torch.Tensor:
    return score + SLOPES[h] * (j - i)


def test_one_graph() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, HEADS, LENGTH, WIDTH, generator=generator) for _ in range(3))
    mask = ours.create_block_mask(documents(IDS), None, None, LENGTH, LENGTH, device="cpu")

    def outside(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, ids: torch.Tensor) -> Any:
        return ours.flex_attention(2 * q, k, v, alibi, mask) + 1

    def inside(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, ids: torch.Tensor) -> Any:
        made = ours.create_block_mask(documents(ids), None, None, q.shape[2], k.shape[2], device="cpu")
        return ours.flex_attention(2 * q, k, v, alibi, made) + 1

    wanted = outside(q, k, v, IDS)
    for function in (outside, inside):
        torch._dynamo.reset()
        assert torch.equal(torch.compile(function, fullgraph=True)(q, k, v, IDS), wanted)
