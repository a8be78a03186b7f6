"""The models' attention keeps what its description says, so that peers and flops are right."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from tilewright.bench import models
from tilewright.bench.cases import Case
from tilewright.ir.errors import MissingExtra

pytest.importorskip("transformers")
LENGTH = models.WINDOW + 60


@pytest.fixture(params=models.MODELS, ids=lambda case: case.variant.name)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param.variant, "f32", request.param.shape._replace(M=LENGTH, N=LENGTH))


def test_pairs_are_what_the_model_keeps(case: Case) -> None:
    q = torch.zeros(1, models.HEADS, LENGTH, models.HEAD_DIM)
    v = torch.eye(LENGTH).expand(1, case.shape.Hkv, -1, -1)
    captured = case.inputs(torch.device("cpu")).captured
    o = case.variant.spec(q, q[:, : case.shape.Hkv], v, *captured)
    assert case.variant.pairs(LENGTH, LENGTH) == int((o[0, 0] > 0).sum())


def test_peers_compute_the_same(case: Case) -> None:
    inputs, variant = case.inputs(torch.device("cpu")), case.variant
    q, k, v = inputs.q, inputs.k, inputs.v
    want = variant.spec(*inputs.tensors)
    if variant.is_causal:
        torch.testing.assert_close(F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True), want)
    if variant.is_flex and variant.mask_mod:
        mask = create_block_mask(variant.mask_mod(), None, None, LENGTH, LENGTH, device="cpu")
        score = variant.score_mod and variant.score_mod()
        got = flex_attention(q, k, v, score_mod=score or None, block_mask=mask, enable_gqa=True)
        torch.testing.assert_close(got, want)


def test_an_absent_extra_is_named() -> None:
    with pytest.raises(MissingExtra, match=r"pip install 'tilewright\[hf\]'"):
        models._layer("no_such_model", "NoSuchModel")
