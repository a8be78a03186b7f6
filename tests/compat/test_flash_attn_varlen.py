"""flash_attn_varlen_func against its definition, sequence by sequence; pages; one build for all batches."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from tilewright.compat import flash_attn as fa

from .flash_oracle import assert_right, tensors

HEADS, WIDTH = 4, 64
BATCHES = (
    ((5, 0, 100, 17), (5, 0, 100, 17)),
    ((9, 0, 1, 140, 3), (0, 7, 130, 20, 3)),
    ((1, 1, 1), (60, 1, 200)),
    ((300,), (300,)),
    ((0, 0), (4, 0)),
    ((), ()),
)
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"causal": True},
    {"window_size": (9, 3)},
    {"window_size": (30, -1)},
)


def starts(lengths: tuple[int, ...]) -> torch.Tensor:
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)


def call(q, k, v, rows, columns, **options: Any) -> torch.Tensor:
    longest = (max(rows, default=0), max(columns, default=0))
    return fa.flash_attn_varlen_func(q, k, v, starts(rows), starts(columns), *longest, **options)


def check(o, q, k, v, rows, columns, **options: Any) -> None:
    """Every sequence by itself; slopes by sequence or not."""
    slopes = options.pop("alibi_slopes", None)
    of_q, of_k = starts(rows).tolist(), starts(columns).tolist()
    for s in range(len(rows)):
        queries, keys = slice(of_q[s], of_q[s + 1]), slice(of_k[s], of_k[s + 1])
        of_s = slopes if slopes is None or slopes.dim() == 1 else slopes[s]
        assert_right(o[queries], None, q[queries], k[keys], v[keys], alibi_slopes=of_s, **options)


@pytest.mark.parametrize(("rows", "columns"), BATCHES)
def test_sequences_end_to_end(rows, columns) -> None:
    q, k, v = tensors((sum(rows), HEADS, WIDTH), *[(sum(columns), 2, WIDTH)] * 2)
    for options in OPTIONS:
        check(call(q, k, v, rows, columns, **options), q, k, v, rows, columns, **options)


@pytest.mark.parametrize("per_sequence", [False, True])
def test_all_options_at_once(per_sequence: bool) -> None:
    for rows, columns in BATCHES:
        q, k, v = tensors((sum(rows), HEADS, 40), (sum(columns), HEADS, 40), (sum(columns), HEADS, 24))
        slopes = torch.rand(len(rows), HEADS) if per_sequence else torch.rand(HEADS)
        options = {"alibi_slopes": slopes, "softcap": 1.5, "softmax_scale": 0.4, "window_size": (40, 2)}
        check(call(q, k, v, rows, columns, **options), q, k, v, rows, columns, **options)


def test_bfloat16() -> None:
    rows = (3, 70, 1, 0, 129)
    q, k, v = tensors(*[(sum(rows), HEADS, WIDTH)] * 3, dtype=torch.bfloat16)
    check(call(q, k, v, rows, rows, causal=True), q, k, v, rows, rows, causal=True)


def test_what_lies_after_the_last_sequence() -> None:
    """Rows there give 0, keys there are seen by nobody, whatever they hold."""
    rows = (5, 60)
    q, k, v = tensors((80, HEADS, WIDTH), *[(90, 2, WIDTH)] * 2)
    k[65:], v[65:] = float("nan"), float("nan")
    o = call(q, k, v, rows, rows)
    check(o, q, k, v, rows, rows)
    assert not o[65:].any()


def test_lengths_changed_in_place_are_seen() -> None:
    q, k, v = tensors((40, HEADS, WIDTH), *[(40, 2, WIDTH)] * 2)
    cu = starts((10, 30))
    fa.flash_attn_varlen_func(q, k, v, cu, cu, 40, 40, causal=True)
    cu[1] = 33
    o = fa.flash_attn_varlen_func(q, k, v, cu, cu, 40, 40, causal=True)
    check(o, q, k, v, (33, 7), (33, 7), causal=True)


@pytest.mark.parametrize("page_size", [1, 7, 16])
def test_keys_in_pages(page_size: int) -> None:
    rows, columns = (4, 1, 20), (33, 0, 20)
    q, k, v = tensors((25, HEADS, WIDTH), *[(53, 2, WIDTH)] * 2)
    counts = [-(-length // page_size) for length in columns]
    generator = torch.Generator().manual_seed(page_size)
    order = torch.randperm(sum(counts) + 2, generator=generator).tolist()
    pools = torch.full((2, len(order), page_size, 2, WIDTH), float("nan"))
    table = torch.full((3, max(counts) + 1), -7, dtype=torch.int32)
    for s, (start, length) in enumerate(zip(starts(columns).tolist(), columns, strict=False)):
        for page, first in enumerate(range(0, length, page_size)):
            table[s, page] = order.pop()
            here = slice(start + first, start + min(first + page_size, length))
            for pool, source in zip(pools, (k, v), strict=True):
                pool[table[s, page], : here.stop - here.start] = source[here]
    o = call(q, pools[0], pools[1], rows, columns, causal=True, block_table=table)
    check(o, q, k, v, rows, columns, causal=True)
