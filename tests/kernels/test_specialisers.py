"""A function is traced once per signature: element type, D, Dv, GQA ratio, captured types and broadcast dims."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tilewright as tw
from tilewright.kernels import specialisers

from .conftest import causal_eager, qkv


def with_bias(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return torch.softmax(q @ k.transpose(-1, -2) * 0.25 + bias, -1) @ v


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was traced, in order."""
    made: list[Any] = []
    original = specialisers.trace

    def counting(function: Any, example: Any, stages: Any) -> Any:
        made.append(tuple(tuple(tensor.shape) for tensor in example))
        return original(function, example, stages)

    monkeypatch.setattr(specialisers, "trace", counting)
    return made


def assert_close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_lengths_and_batches_do_not_trace_again(traces: list[Any]) -> None:
    kernel = tw.compile(causal_eager, target="cpu")
    assert traces == []
    for sizes in ((2, 2, 33, 33), (1, 1, 1, 1), (3, 5, 100, 20), (1, 2, 1, 90)):
        tensors = qkv(*sizes)
        assert_close(kernel(*tensors), causal_eager(*tensors))
    assert len(traces) == 1


def test_what_specialises_traces_again_and_is_kept(traces: list[Any]) -> None:
    kernel = tw.compile(causal_eager, target="cpu", verify=False)
    shared, own = qkv(group=2), qkv(group=1)
    for tensors in (shared, own, shared, own):
        assert_close(kernel(*tensors), causal_eager(*tensors))
    assert len(traces) == 2
    assert kernel(*(tensor.bfloat16() for tensor in own)).dtype is torch.bfloat16
    assert len(traces) == 3


def test_captured_tensors_that_broadcast_are_another_form(traces: list[Any]) -> None:
    kernel = tw.compile(with_bias, target="cpu", verify=False)
    for shape in ((1, 1, 7, 9), (2, 3, 7, 9), (1, 1, 7, 9), (2, 1, 7, 9)):
        q, k, v = qkv(2, 3, 7, 9, group=1)
        bias = torch.randn(shape)
        assert_close(kernel(q, k, v, bias), with_bias(q, k, v, bias))
    assert len(traces) == 3


def test_example_traces_at_once(traces: list[Any]) -> None:
    kernel = tw.compile(causal_eager, target="cpu", example=qkv())
    assert len(traces) == 1
    assert kernel.report is not None
    assert kernel.report.verified
    kernel(*qkv())
    assert len(traces) == 1


def test_wrong_arguments_are_refused_before_tracing(traces: list[Any]) -> None:
    kernel = tw.compile(causal_eager)
    q, k, v = qkv()
    with pytest.raises(tw.ShapeError, match=r"k: size 8 for D in .*; wanted D=16"):
        kernel(q, k[..., :8], v)
    with pytest.raises(tw.ShapeError, match="wanted Hq a multiple of Hkv"):
        kernel(q[:, :3], k, v)
    assert traces == []


def test_a_refused_function_can_be_tried_again() -> None:
    def depends(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return q if bool(q.sum() > 0) else v

    kernel = tw.compile(depends)
    for _ in range(2):
        with pytest.raises(tw.UnsupportedSpec, match=r"test_specialisers\.py:\d+: .*depends on the data"):
            kernel(*qkv(group=1))


def test_captured_tensors_may_have_names_of_our_programs():
    """A gate called g, a mask called m, weights called p: such names are locals of expert programs."""
    import torch

    import tilewright as tw

    def gated(q, k, v, g, m, p):
        return (q @ k.mT * p).masked_fill(m, float("-inf")).softmax(-1) @ v * g

    torch.manual_seed(0)
    q, k, v = torch.randn(1, 2, 9, 8), torch.randn(1, 2, 9, 8), torch.randn(1, 2, 9, 8)
    captured = torch.rand(2, 1, 1), torch.ones(9, 9).triu(1).bool(), torch.rand(())
    kernel = tw.compile(gated, target="cpu", verify=False)
    torch.testing.assert_close(kernel(q, k, v, *captured), gated(q, k, v, *captured), rtol=1e-4, atol=1e-5)
