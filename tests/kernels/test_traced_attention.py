"""`attention` under torch.compile and torch.export: callables from anywhere, one node, one kernel for all lengths."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import tilewright as tw
from tilewright.kernels import attention as home


@pytest.fixture(autouse=True)
def forget_compiled() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def qkv(batch: int = 2, heads: int = 4, rows: int = 40) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    return [torch.randn(batch, heads, rows, 16, generator=generator) for _ in range(3)]


def documents(rows: int = 40, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 3, (2, rows), generator=torch.Generator().manual_seed(seed))


def same_document(doc: torch.Tensor) -> Callable[..., torch.Tensor]:
    return lambda b, h, i, j: doc[b, i] == doc[b, j]


SLOPES = torch.rand(4, generator=torch.Generator().manual_seed(1))


def alibi(score, b, h, i, j):  # type: ignore[no-untyped-def]
    return score + SLOPES[h] * (j - i)


def window(width, b, h, i, j):  # type: ignore[no-untyped-def]
    return (i - j < width) & (i >= j)


def inside(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, doc: torch.Tensor) -> torch.Tensor:
    """The mask is defined where it is compiled, and captures a tensor of the graph."""
    shifted = doc + 1
    return tw.attention(q, k, v, mask_mod=lambda b, h, i, j: shifted[b, i] == shifted[b, j])


def compiled(function: Callable[..., Any]) -> tuple[Callable[..., Any], CompileCounterWithBackend]:
    counter = CompileCounterWithBackend("aot_eager")
    return torch.compile(function, fullgraph=True, backend=counter), counter


def test_callables_of_the_module_and_of_the_graph_itself() -> None:
    """Also what captures nothing, is a partial, a score_mod alone, both, or none."""

    def each(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, doc: torch.Tensor) -> list[Any]:
        both = tw.attention(q * 2, k, v, alibi, functools.partial(window, 7), scale=0.3, return_lse=True)
        return [*both, tw.attention(q, k, v, alibi), tw.attention(q, k, v), inside(q, k, v, doc)]

    call, counter = compiled(each)
    tensors = *qkv(), documents()
    for got, wanted in zip(call(*tensors), each(*tensors), strict=True):
        assert torch.equal(got, wanted)
    assert counter.frame_count == 1


def test_lengths_share_graphs_and_kernels() -> None:
    call, counter = compiled(inside)
    known = len(home._kernels)
    for rows in (40, 50, 61, 77):
        tensors = *qkv(rows=rows), documents(rows)
        assert torch.equal(call(*tensors), inside(*tensors))
    assert counter.frame_count == 2  # the second is dynamo's own: sizes become symbolic
    assert len(home._kernels) <= known + 3


def test_new_values_in_a_closure_are_seen() -> None:
    """Dynamo tells functions apart by their code; what they capture are operands, with guards on numbers."""
    call, counter = compiled(lambda q, k, v, mask: tw.attention(q, k, v, mask_mod=mask))
    tensors = qkv()
    for seed in range(3):
        mask = same_document(documents(seed=seed))
        assert torch.equal(call(*tensors, mask), tw.attention(*tensors, mask_mod=mask))
    assert counter.frame_count == 1
    for width in (3, 5):
        mask = functools.partial(window, width)
        assert torch.equal(call(*tensors, mask), tw.attention(*tensors, mask_mod=mask))


def test_an_eager_call_after_a_compiled_one_has_its_own_scale() -> None:
    tensors = qkv()
    got = torch.compile(lambda *t: tw.attention(*t, scale=0.717), fullgraph=True, backend="aot_eager")(*tensors)
    assert torch.equal(tw.attention(*tensors, scale=0.717), got)


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.rand(4), requires_grad=False)

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return tw.attention(q, k, v, lambda score, b, h, i, j: score * self.gain[h], functools.partial(window, 7))


@pytest.mark.parametrize("strict", [False, True], ids=["traced", "strict"])
def test_a_module_is_exported(strict: bool) -> None:
    block = Block()
    program = torch.export.export(block, tuple(qkv()), strict=strict)
    calls = [n for n in program.graph.nodes if n.target is torch.ops.tilewright.call.default]
    assert len(calls) == 1
    assert not calls[0].args[0].startswith("local-")
    assert torch.equal(program.module()(*qkv()), block(*qkv()))


def test_control_flow_on_values_is_refused() -> None:
    def branches(b, h, i, j):  # type: ignore[no-untyped-def]
        return i >= j if i > 3 else i == j

    call, _ = compiled(lambda q, k, v: tw.attention(q, k, v, mask_mod=branches))
    with pytest.raises(Exception, match=r"[Dd]ata-dependent"):
        call(*qkv())


@pytest.mark.slow
def test_inductor() -> None:
    tensors = *qkv(), documents()
    got = torch.compile(inside, fullgraph=True)(*tensors)
    torch.testing.assert_close(got, inside(*tensors), rtol=1e-6, atol=1e-6)
