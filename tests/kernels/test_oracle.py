"""The oracle is the user's function in fp64; its budget follows the element type and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import tilewright as tw
from tilewright.ir.dtypes import DType
from tilewright.ir.expr import const
from tilewright.ir.lift import lift
from tilewright.ir.spec import AttentionSpec, Normaliser, NormaliserKind
from tilewright.kernels.oracle import distance, expect

from .conftest import HEAD_DIM, causal_eager, causal_spec, qkv

ELEMENTWISE = NormaliserKind.ELEMENTWISE


def upcasting(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The same attention as people write it for low precision."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    hidden = torch.zeros(q.shape[2], k.shape[2]).masked_fill(
        torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).triu(1), float("-inf")
    )
    scores = torch.matmul(q.float(), k.float().transpose(-1, -2)) * torch.full((1,), 0.25)
    weights = torch.softmax(scores + hidden, dim=-1, dtype=torch.float32).to(q.dtype)
    return torch.matmul(weights, v)


@pytest.mark.parametrize("function", [causal_eager, upcasting])
def test_the_function_runs_in_fp64_whatever_it_casts_to(function: object) -> None:
    expected = expect(function, causal_spec(), qkv())
    exact = causal_eager(*(tensor.double() for tensor in qkv())).numpy()
    assert np.abs(expected.o.exact - exact).max() < 1e-13
    assert torch.get_default_dtype() is torch.float32


@pytest.mark.parametrize(
    ("dtype", "least", "most"), [(DType.F32, 1e-7, 1e-5), (DType.BF16, 1e-3, 1e-1), (DType.F16, 1e-4, 2e-2)]
)
def test_budget_follows_the_element_type(dtype: DType, least: float, most: float) -> None:
    torch_dtype = {DType.F32: torch.float32, DType.BF16: torch.bfloat16, DType.F16: torch.float16}[dtype]
    tensors = [tensor.to(torch_dtype) for tensor in qkv()]
    expected = expect(upcasting, causal_spec(dtype), tensors)
    assert least < expected.o.budget < most
    assert expected.o.error(upcasting(*tensors).double().numpy()) <= expected.o.budget


def test_a_spec_that_masks_too_much_is_found_out() -> None:
    """The rows it leaves out have defined values, but only where the function gives none."""
    empty = replace(causal_spec(), keep=const(False))
    expected = expect(causal_eager, empty, qkv())
    assert np.abs(expected.o.exact).max() > 0.1
    assert expected.blame == "the lifted spec already differs from the function"


@pytest.mark.parametrize("value", [float("-inf"), torch.finfo(torch.float32).min])
def test_rows_that_keep_nothing_are_zero(value: float) -> None:
    def nothing(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        scores = (q @ k.transpose(-1, -2)).masked_fill(torch.ones(1, dtype=torch.bool), value)
        return torch.softmax(scores, -1) @ v

    spec = replace(causal_spec(group=1), keep=const(False))
    expected = expect(nothing, spec, qkv(group=1))
    assert not expected.o.exact.any()
    assert np.isneginf(expected.lse.exact).all()
    assert expected.blame == "the spec agrees with the function"


def test_rows_that_keep_nothing_are_zero_where_weights_are_scaled_after_the_softmax() -> None:
    """Such a row of the function is no mean of the values, but what equal weights give."""

    def scaled(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        hidden = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).triu(1)
        hidden[3] = True
        scores = (q @ k.mT).masked_fill(hidden, torch.finfo(q.dtype).min)
        return (scores.softmax(-1) * scale) @ v

    spec = lift(scaled, tensors := (*(torch.randn(1, 2, 9, 8) for _ in range(3)), torch.rand(9)))
    expected = expect(scaled, spec, tensors)
    assert (expected.o.exact[:, :, 3] == 0).all()
    assert np.abs(expected.o.exact[:, :, [2, 4]]).min() > 0
    assert expected.spec_error < 1e-12


def test_distance_minds_nan_and_infinity() -> None:
    nan, inf = float("nan"), float("inf")
    one = np.array([1.0, nan, inf, -inf])
    assert distance(one, one) == 0.0
    assert distance(np.array([1.5, nan, inf, -inf]), one) == 0.5
    for wrong in ([nan, nan, inf, -inf], [1.0, 0.0, inf, -inf], [1.0, nan, -inf, -inf], [1.0, nan, inf, 3.0]):
        assert distance(np.array(wrong), one) == inf
    assert distance(np.zeros(3), one) == inf
    assert distance(np.zeros(0), np.zeros(0)) == 0.0


def test_what_overflows_in_low_precision_is_not_judged() -> None:
    tensors = [tensor.half() for tensor in qkv()]
    tensors[2][0, :, :2] = 60000.0
    weight = AttentionSpec(
        "sum", DType.F16, HEAD_DIM, HEAD_DIM, 2, normaliser=Normaliser(ELEMENTWISE, weight=const(1.0))
    )
    truth = expect(None, weight, tensors).o
    huge = truth.exact > 65504
    assert huge.any()
    assert not huge.all()
    assert np.array_equal(truth.is_judged, ~huge)
    wrong = np.where(huge, np.inf, truth.exact)
    assert truth.error(wrong) <= truth.budget
    assert truth.error(wrong + 1e5) > truth.budget


def test_a_function_that_returns_no_tensor_is_refused() -> None:
    with pytest.raises(tw.UnsupportedSpec, match=r"the function returned dict; wanted a tensor \[B, Hq, M, Dv\]"):
        expect(lambda q, k, v: {}, causal_spec(), qkv())


def test_a_tuple_s_first_tensor_is_the_output() -> None:
    expected = expect(lambda *tensors: (causal_eager(*tensors), None), causal_spec(), qkv())
    assert np.array_equal(expected.o.exact, expect(causal_eager, causal_spec(), qkv()).o.exact)
