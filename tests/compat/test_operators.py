"""Functions of the interfaces are one node where torch records calls, and give what they give eagerly."""

from __future__ import annotations

import inspect

import pytest
import torch

from tilewright.compat import flash_attn as fa
from tilewright.ir.errors import UnsupportedSpec


def dense(rows: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    return [torch.randn(2, rows, heads, 64, generator=generator) for heads in (4, 2, 2)]


def packed(*lengths: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(lengths))
    starts = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    return [torch.randn(sum(lengths), heads, 64, generator=generator) for heads in (4, 2, 2)], starts


def test_one_graph_for_equal_lengths() -> None:
    def block(q, k, v, slopes):
        return fa.flash_attn_func(q * 2, k, v, causal=True, softcap=20.0, alibi_slopes=slopes) + 1

    compiled = torch.compile(block, fullgraph=True, backend="aot_eager", dynamic=True)
    slopes = torch.tensor([0.5, 0.25, 0.125, 0.0625])
    for rows in (40, 41, 97):
        tensors = dense(rows)
        assert torch.equal(compiled(*tensors, slopes), block(*tensors, slopes))


def test_one_graph_for_sequences_end_to_end() -> None:
    def block(q, k, v, starts, longest):
        return fa.flash_attn_varlen_func(q, k, v, starts, starts, longest, longest, window_size=(16, 0)) * 2

    compiled = torch.compile(block, fullgraph=True, backend="aot_eager", dynamic=True)
    for lengths in ((30, 7), (64, 5), (11, 90)):
        tensors, starts = packed(*lengths)
        longest = max(lengths)
        assert torch.equal(compiled(*tensors, starts, longest), block(*tensors, starts, longest))


def test_checks_happen_when_the_node_runs() -> None:
    def block(q, k, v, starts):
        return fa.flash_attn_varlen_func(q, k, v, starts, starts, 30, 30)

    tensors, starts = packed(30, 7)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    compiled(*tensors, starts)
    with pytest.raises(Exception, match="does not ascend"):
        compiled(*tensors, torch.tensor([0, 37, 30], dtype=torch.int32))


def test_fake_tensors_have_the_outputs_shape() -> None:
    with torch._subclasses.FakeTensorMode():
        q, k, v = torch.empty(3, 50, 8, 64), torch.empty(3, 50, 2, 64), torch.empty(3, 50, 2, 32)
        assert fa.flash_attn_func(q, k, v).shape == (3, 50, 8, 32)


def test_what_cannot_be_recorded_is_refused() -> None:
    q, k, v = dense(8)
    with pytest.raises(UnsupportedSpec, match=r"vmap over this kernel is not available"):
        torch.vmap(fa.flash_attn_func)(*(x[None] for x in (q, k, v)))
    with pytest.raises(UnsupportedSpec, match="changes its cache in place"):
        torch.vmap(fa.flash_attn_with_kvcache)(*(x[None] for x in (q, k, v)))
    with pytest.raises(Exception, match="changes its cache in place"):
        torch.compile(lambda *x: fa.flash_attn_with_kvcache(*x) + 1, fullgraph=True, backend="eager")(q, k, v)


def test_what_changes_a_cache_runs_beside_the_graph() -> None:
    def block(q, k, v, k_cache, v_cache):
        return fa.flash_attn_with_kvcache(q, k_cache, v_cache, k, v, cache_seqlens=5) + 1

    q, k, v = dense(1)
    caches = [[torch.zeros(2, 20, 2, 64) for _ in range(2)] for _ in range(2)]
    o = torch.compile(block, backend="eager")(q, k, v, *caches[0])
    assert torch.equal(o, block(q, k, v, *caches[1]))
    assert torch.equal(caches[0][0], caches[1][0])
    assert caches[0][0].count_nonzero() > 0


def test_signatures_are_kept() -> None:
    assert next(iter(inspect.signature(fa.flash_attn_varlen_func).parameters)) == "q"
    assert fa.flash_attn_func.__doc__ is not None
