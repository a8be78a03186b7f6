"""The drop-in gives what PyTorch's FlexAttention gives, for modifications as their users write them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import flex_attention as peer

from tilewright.compat import flex_attention as ours

from .flex_gallery import BATCH, GALLERY, HEADS, Mod

WIDTH = 16
LENGTHS = (60, 70)


@pytest.fixture(autouse=True)
def peer_runs_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


def qkv(rows: int, columns: int, heads: int = HEADS) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = ((BATCH, HEADS, rows, WIDTH), (BATCH, heads, columns, WIDTH), (BATCH, heads, columns, WIDTH))
    return [torch.randn(shape, generator=generator) for shape in shapes]


def theirs(tensors: list[torch.Tensor], score_mod: Mod | None, mask_mod: Mod | None) -> tuple[Any, Any]:
    rows, columns = tensors[0].shape[2], tensors[1].shape[2]
    mask = mask_mod and peer.create_block_mask(mask_mod, BATCH, HEADS, rows, columns, device="cpu")
    o, aux = peer.flex_attention(*tensors, score_mod, mask, return_aux=peer.AuxRequest(lse=True))
    return o, aux.lse


@pytest.mark.parametrize("name", GALLERY)
def test_gallery(name: str) -> None:
    tensors = qkv(*LENGTHS)
    score_mod, mask_mod = GALLERY[name](*LENGTHS)
    mask = mask_mod and ours.create_block_mask(mask_mod, BATCH, HEADS, *LENGTHS, device="cpu")
    o, aux = ours.flex_attention(*tensors, score_mod, mask, return_aux=ours.AuxRequest(lse=True))
    exact_o, exact_lse = theirs([x.double() for x in tensors], score_mod, mask_mod)
    single_o, single_lse = theirs(tensors, score_mod, mask_mod)
    for got, single, exact in ((o, single_o, exact_o), (aux.lse, single_lse, exact_lse)):
        kept = exact.isfinite()
        assert torch.equal(got.isfinite(), kept)
        rounding = torch.finfo(torch.float32).eps * exact[kept].abs().max()
        budget = 2 * (single[kept] - exact[kept]).abs().max() + 4 * rounding
        assert (got[kept] - exact[kept]).abs().max() <= budget
