"""FlexAttention's callables: the same results as FlexAttention, one compile per pair, tensors as arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import tilewright as tw
from tilewright.kernels import attention as module

HEADS, LENGTH, WIDTH = 4, 37, 16
Mod = Callable[..., torch.Tensor]


@pytest.fixture(autouse=True)
def compiles(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Counts the kernels made."""
    made: list[object] = []
    original = module._new_kernel

    def counting(*args: Any) -> Any:
        made.append(args)
        return original(*args)

    monkeypatch.setattr(module, "_new_kernel", counting)
    monkeypatch.setattr(module, "_kernels", {})
    return made


def qkv(heads: int = HEADS, rows: int = LENGTH, columns: int = LENGTH) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = ((2, HEADS, rows, WIDTH), (2, heads, columns, WIDTH), (2, heads, columns, WIDTH))
    return [torch.randn(shape, generator=generator) for shape in shapes]


def causal(b: torch.Tensor, h: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    return i >= j


def alibi(slopes: torch.Tensor) -> Mod:
    def score_mod(score: torch.Tensor, b: Any, h: Any, i: Any, j: Any) -> torch.Tensor:
        return score + slopes[h] * (j - i)

    return score_mod


def documents(ids: torch.Tensor) -> Mod:
    return lambda b, h, i, j: (ids[i] == ids[j]) & (i >= j)


def assert_same(score_mod: Mod | None, mask_mod: Mod | None) -> None:
    q, k, v = qkv()
    o, lse = tw.attention(q, k, v, score_mod, mask_mod, return_lse=True)
    block_mask = create_block_mask(mask_mod, 2, HEADS, LENGTH, LENGTH, device="cpu") if mask_mod else None
    wanted, wanted_lse = flex_attention(q, k, v, score_mod=score_mod, block_mask=block_mask, return_lse=True)
    torch.testing.assert_close(o, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(lse, wanted_lse, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_like_flex_attention() -> None:
    assert_same(alibi(torch.tensor([0.5, 0.25, 0.125, 0.1])), causal)
    assert_same(lambda s, b, h, i, j: 20 * torch.tanh(s / 20), documents(torch.arange(LENGTH) // 9))


def test_new_tensors_do_not_compile_again(compiles: list[object]) -> None:
    q, k, v = qkv()
    results = [tw.attention(q, k, v, alibi(torch.full((HEADS,), slope)), causal) for slope in (0.1, 0.5)]
    assert len(compiles) == 1
    assert not torch.equal(*results)
    tw.attention(*qkv(rows=5, columns=50), alibi(torch.ones(HEADS)), causal)
    assert len(compiles) == 1
    for scale in (1.0, 0.3):
        o = tw.attention(q, k, v, alibi(torch.ones(HEADS)), causal, scale=scale)
        wanted = tw.attention(q * (scale * WIDTH**0.5), k, v, alibi(torch.ones(HEADS)), causal)
        torch.testing.assert_close(o, wanted, rtol=1e-5, atol=1e-5)
    assert len(compiles) == 2


def test_shared_heads_are_asked_for() -> None:
    q, k, v = qkv(heads=2)
    with pytest.raises(tw.ShapeError, match="q has Hq=4 heads and k has Hkv=2; pass enable_gqa=True"):
        tw.attention(q, k, v)
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    torch.testing.assert_close(tw.attention(q, k, v, enable_gqa=True), wanted, rtol=1e-5, atol=1e-5)


def test_bad_arguments_are_refused() -> None:
    q, k, v = qkv()
    with pytest.raises(tw.DTypeError, match=r"v: got torch.float64, wanted torch.float32"):
        tw.attention(q, k, v.double())
    with pytest.raises(tw.DTypeError, match=r"q: got NoneType, wanted a torch.Tensor"):
        tw.attention(None, k, v)
    with pytest.raises(tw.UnsupportedSpec, match="depends on the data"):
        tw.attention(q, k, v, lambda s, b, h, i, j: s if bool(s.sum() > 0) else -s)


def test_a_table_that_is_too_short_is_refused() -> None:
    table = torch.zeros(HEADS, 2 * LENGTH)

    def relative(s: torch.Tensor, b: Any, h: Any, i: Any, j: Any) -> torch.Tensor:
        return s + table[h, i - j + LENGTH]

    tw.attention(*qkv(), relative)
    with pytest.raises(tw.ShapeError, match=rf"= 0\.\.{2 * LENGTH} of dimension 1, which has size {2 * LENGTH}"):
        tw.attention(*qkv(rows=LENGTH + 1, columns=LENGTH + 1), relative)


def test_indices_that_change_are_checked_again() -> None:
    ids, table = torch.arange(LENGTH) // 10, torch.zeros(4)

    def by_document(s: torch.Tensor, b: Any, h: Any, i: Any, j: Any) -> torch.Tensor:
        return s + table[ids[j]]

    tw.attention(*qkv(), by_document)
    ids[7] = 4
    with pytest.raises(tw.ShapeError, match=r"= 0\.\.4 of dimension 0, which has size 4"):
        tw.attention(*qkv(), by_document)


def test_names_that_are_bound_anew_are_found_for_another_type() -> None:
    """The pair is known from a call in float32; the first call in bfloat16 traces what the names mean now."""
    ids = torch.arange(LENGTH) // 5

    def same(b: Any, h: Any, i: Any, j: Any) -> torch.Tensor:
        return ids[i] == ids[j]

    tw.attention(*qkv(), mask_mod=same)
    ids = torch.arange(LENGTH) // 9
    half = [x.bfloat16() for x in qkv()]
    keep = ids[:, None] == ids[None, :]
    wanted = torch.nn.functional.scaled_dot_product_attention(*(x.double() for x in half), attn_mask=keep)
    torch.testing.assert_close(tw.attention(*half, mask_mod=same).double(), wanted, rtol=0.03, atol=0.03)


def test_integers_beyond_32_bits_are_refused() -> None:
    """At the first call and whenever they appear; kernels would take their low 32 bits."""
    ids = torch.arange(LENGTH) // 7

    def same(b: Any, h: Any, i: Any, j: Any) -> torch.Tensor:
        return ids[i] == ids[j]

    tw.attention(*qkv(), mask_mod=same)
    ids[-1] = 1 << 32
    with pytest.raises(tw.DTypeError, match=r"c0: int64 with values 0\.\.4294967296, and kernels compute with 32 bits"):
        tw.attention(*qkv(), mask_mod=same)
    ids[-1] = 5
    tw.attention(*qkv(), mask_mod=same)
