"""Variants mean the same to every implementation, and work is counted on the pairs that a variant keeps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from tilewright.bench.cases import Case, Shape
from tilewright.bench.forward import forward_cases
from tilewright.bench.variants import VARIANTS, WINDOW

CPU = torch.device("cpu")
N = WINDOW + 130


@pytest.fixture(params=sorted(VARIANTS))
def case(request: pytest.FixtureRequest) -> Case:
    return Case(VARIANTS[request.param], "f32", Shape(1, 2, 2, N, N, 8, 8))


def kept(case: Case) -> torch.Tensor:
    """Which pairs the plain function keeps [N, N]: those whose value reaches the output."""
    inputs = case.inputs(CPU)
    zero = torch.zeros(1, 1, N, 1)
    slopes = tuple(torch.zeros_like(t) if t.is_floating_point() else t for t in inputs.captured)
    return case.variant.spec(zero, zero, torch.eye(N)[None, None], *slopes)[0, 0] > 0


def test_pairs_are_what_the_function_keeps(case: Case) -> None:
    assert case.variant.pairs(N, N) == int(kept(case).sum())


def test_flex_computes_the_same(case: Case) -> None:
    inputs, variant = case.inputs(CPU), case.variant
    mask = variant.mask_mod and create_block_mask(variant.mask_mod(*inputs.captured), None, None, N, N, device="cpu")
    score = variant.score_mod and variant.score_mod(*inputs.captured)
    got = flex_attention(inputs.q, inputs.k, inputs.v, score_mod=score or None, block_mask=mask or None)
    torch.testing.assert_close(got, variant.spec(*inputs.tensors))


@pytest.mark.parametrize("name", ["full", "causal"])
def test_sdpa_computes_the_same(name: str) -> None:
    case = Case(VARIANTS[name], "f32", Shape(1, 2, 2, 70, 70, 8, 8))
    q, k, v = case.inputs(CPU).tensors
    got = F.scaled_dot_product_attention(q, k, v, is_causal=bool(case.variant.is_causal))
    torch.testing.assert_close(got, case.variant.spec(q, k, v))


def test_flops_count_both_products_of_every_head() -> None:
    case = Case(VARIANTS["causal"], "bf16", Shape(2, 6, 3, 10, 10, 4, 8))
    assert case.flops == 2 * 6 * 55 * 2 * (4 + 8)


def test_inputs_are_the_same_every_time(case: Case) -> None:
    first, second = case.inputs(CPU), case.inputs(CPU)
    assert all(torch.equal(a, b) for a, b in zip(first.tensors, second.tensors, strict=True))


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        (Shape(1, 8, 8, 2048, 2048, 64, 64), "B1-H8-N2048-D64-f32-full"),
        (Shape(1, 8, 2, 7, 2048, 64, 32), "B1-H8:2-N7x2048-D64x32-f32-full"),
    ],
)
def test_a_case_has_a_readable_name(shape: Shape, name: str) -> None:
    assert str(Case(VARIANTS["full"], "f32", shape)) == name


def test_the_forward_suite_has_every_case_once() -> None:
    names = [str(case) for case in forward_cases("cpu")]
    assert len(names) == len(set(names)) == 16
    assert {"B1-H8-N2048-D128-bf16-causal", "B1-H8-N2048-D64-f32-documents"} <= set(names)
