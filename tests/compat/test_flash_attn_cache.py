"""flash_attn_with_kvcache: what is appended, where, and what is attended to; nothing is written where it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tilewright.compat import flash_attn as fa

from .flash_oracle import assert_right, tensors

BATCH, ROOM, HEADS, KV_HEADS, WIDTH = 3, 160, 4, 2, 64
LENGTHS = (3, 130, 17)


def caches(batch: int = BATCH, room: int = ROOM) -> tuple[torch.Tensor, torch.Tensor]:
    k, v = tensors(*[(batch, room, KV_HEADS, WIDTH)] * 2, seed=5)
    return k, v


def queries(rows: int, batch: int = BATCH) -> torch.Tensor:
    return tensors((batch, rows, HEADS, WIDTH), seed=6)[0]


def news(count: int, batch: int = BATCH) -> tuple[torch.Tensor, torch.Tensor]:
    k, v = tensors(*[(batch, count, KV_HEADS, WIDTH)] * 2, seed=7)
    return k, v


def ints(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def check(result, q, sequences, **options: Any) -> None:
    """o and lse of every sequence, given its own keys and values."""
    o, lse = result
    for b, (k, v) in enumerate(sequences):
        assert_right(o[b], lse[b], q[b], k, v, **options)


@pytest.mark.parametrize("rows", [1, 2, 40])
@pytest.mark.parametrize("lengths", [LENGTHS, (9, 9, 9), 25], ids=["different", "equal", "integer"])
def test_appends_and_attends(rows: int, lengths) -> None:
    k_cache, v_cache = caches()
    before = k_cache.clone(), v_cache.clone()
    rows = min(rows, ROOM - 130)
    q, (k, v) = queries(rows), news(rows)
    given = lengths if isinstance(lengths, int) else ints(*lengths)
    result = fa.flash_attn_with_kvcache(
        q, k_cache, v_cache, k, v, cache_seqlens=given, causal=True, return_softmax_lse=True
    )
    ends = [lengths] * BATCH if isinstance(lengths, int) else list(lengths)
    sequences = []
    for b, end in enumerate(ends):
        for cache, old, new in zip((k_cache, v_cache), before, (k, v), strict=True):
            old[b, end : end + rows] = new[b]
            assert torch.equal(cache[b], old[b])
        sequences.append((before[0][b, : end + rows], before[1][b, : end + rows]))
    check(result, q, sequences, causal=True)


def test_without_appending_and_with_every_option() -> None:
    k_cache, v_cache = caches()
    q, lengths, first = queries(5), ints(*LENGTHS), ints(0, 100, 17)
    options: dict[str, Any] = {"softmax_scale": 0.3, "softcap": 2.0, "window_size": (50, 3)}
    options["alibi_slopes"] = torch.rand(HEADS)
    result = fa.flash_attn_with_kvcache(
        q,
        k_cache,
        v_cache,
        cache_seqlens=lengths,
        cache_leftpad=first,
        return_softmax_lse=True,
        num_splits=3,
        **options,
    )
    ranges = [slice(start, end) for start, end in zip(first.tolist(), LENGTHS, strict=True)]
    check(result, q, [(k_cache[b, r], v_cache[b, r]) for b, r in enumerate(ranges)], **options)
    whole = fa.flash_attn_with_kvcache(q, k_cache, v_cache, return_softmax_lse=True, window_size=(9, 9))
    check(whole, q, list(zip(k_cache, v_cache, strict=True)), window_size=(9, 9))


def test_rows_of_the_cache_by_index() -> None:
    k_cache, v_cache = caches(batch=5)
    before = k_cache.clone()
    q, (k, v), chosen = queries(1), news(1), ints(4, 0, 2)
    result = fa.flash_attn_with_kvcache(
        q, k_cache, v_cache, k, v, cache_seqlens=ints(*LENGTHS), cache_batch_idx=chosen, return_softmax_lse=True
    )
    rows = [(row, slice(end + 1)) for row, end in zip(chosen.tolist(), LENGTHS, strict=True)]
    check(result, q, [(k_cache[at], v_cache[at]) for at in rows])
    for b, (row, end) in enumerate(zip(chosen.tolist(), LENGTHS, strict=True)):
        before[row, end] = k[b, 0]
    assert torch.equal(k_cache, before)


def test_what_lies_beyond_a_sequence_is_never_read() -> None:
    k_cache, v_cache = caches()
    for b, end in enumerate(LENGTHS):
        k_cache[b, end:], v_cache[b, end:] = float("nan"), float("inf")
    q = queries(1)
    result = fa.flash_attn_with_kvcache(q, k_cache, v_cache, cache_seqlens=ints(*LENGTHS), return_softmax_lse=True)
    check(result, q, [(k_cache[b, :end], v_cache[b, :end]) for b, end in enumerate(LENGTHS)])


def paged(page_size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Caches, the same in shuffled pages of one pool each with others of NaN, and the block table."""
    k_cache, v_cache = caches(room=ROOM - ROOM % page_size)
    count = k_cache.shape[1] // page_size
    order = torch.randperm(BATCH * count + 3, generator=torch.Generator().manual_seed(seed))
    table = order[: BATCH * count].reshape(BATCH, count).to(torch.int32)
    pools = torch.full((2, len(order), page_size, KV_HEADS, WIDTH), float("nan"))
    for pool, cache in zip(pools, (k_cache, v_cache), strict=True):
        pool[table.long()] = cache.reshape(BATCH, count, page_size, KV_HEADS, WIDTH)
    return k_cache, v_cache, pools, table


@pytest.mark.parametrize("page_size", [1, 16, 48])
@pytest.mark.parametrize("rows", [1, 20])
def test_pages(page_size: int, rows: int) -> None:
    lengths = tuple(min(length, 120) for length in LENGTHS)
    k_cache, v_cache, pools, table = paged(page_size, seed=page_size)
    for b, length in enumerate(lengths):  # what is not needed may hold anything
        table[b, -(-(length + rows) // page_size) :] = -1
    q, (k, v) = queries(rows), news(rows)
    result = fa.flash_attn_with_kvcache(
        q,
        pools[0],
        pools[1],
        k,
        v,
        cache_seqlens=ints(*lengths),
        block_table=table,
        causal=True,
        return_softmax_lse=True,
    )
    sequences = []
    for b, end in enumerate(lengths):
        k_cache[b, end : end + rows], v_cache[b, end : end + rows] = k[b], v[b]
        sequences.append((k_cache[b, : end + rows], v_cache[b, : end + rows]))
        pages = table[b, : -(-(end + rows) // page_size)].long()
        assert torch.equal(pools[0][pages].flatten(0, 1)[: end + rows], sequences[-1][0])
        assert torch.equal(pools[1][pages].flatten(0, 1)[: end + rows], sequences[-1][1])
    check(result, q, sequences, causal=True)


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_rotary(interleaved: bool, causal: bool) -> None:
    width, new = 32, 3
    angles = torch.rand(ROOM, width // 2) * 6
    k_cache, v_cache = caches()
    before = k_cache.clone()
    q, (k, v), lengths = queries(2), news(new), ints(*LENGTHS)
    tables: dict[str, Any] = {"rotary_cos": angles.cos(), "rotary_sin": angles.sin(), "rotary_interleaved": interleaved}
    result = fa.flash_attn_with_kvcache(
        q, k_cache, v_cache, k, v, cache_seqlens=lengths, causal=causal, return_softmax_lse=True, **tables
    )
    turned = torch.empty_like(q)
    for b, end in enumerate(LENGTHS):
        for i in range(2):
            turned[b, i] = turn(q[b, i], angles[end + (i if causal else 0)], interleaved)
        for t in range(new):
            before[b, end + t] = turn(k[b, t], angles[end + t], interleaved)
    assert torch.allclose(k_cache, before, atol=1e-6)
    check(
        result, turned, [(k_cache[b, : e + new], v_cache[b, : e + new]) for b, e in enumerate(LENGTHS)], causal=causal
    )


def turn(x: torch.Tensor, angles: torch.Tensor, interleaved: bool) -> torch.Tensor:
    """x [H, D] as complex numbers times exp(i angle)."""
    width = 2 * len(angles)
    part = x[:, :width].unflatten(-1, (-1, 2)) if interleaved else x[:, :width].unflatten(-1, (2, -1)).mT
    turned = torch.view_as_real(torch.view_as_complex(part.contiguous()) * torch.polar(torch.ones_like(angles), angles))
    return torch.cat((turned.flatten(-2) if interleaved else turned.mT.flatten(-2), x[:, width:]), -1)
