"""Loops over whole and masked tiles on the cpu: masks are left out in the whole ones, and no bit shows it."""

from __future__ import annotations

import re

import pytest
import torch

from tilewright.ir.parser import parse_program
from tilewright.ir.spec import AttentionSpec
from tilewright.ir.transfer import Orchestration, transfer
from tilewright.kernels.references import reference_program
from tilewright.lowering.cpp.target import CpuTarget
from tilewright.lowering.toolchain import supported_isas

from .test_cpp import SHAPES, arguments, launch
from .variants import VARIANTS, Variant, check

PER_HEAD = Variant(keep="(j <= i) & ((h < 2) | (i - j < 30))")  # a condition without axes inside the mask


def outputs(spec: AttentionSpec, stages: int, *, is_joined: bool, isa: str | None = None) -> list[torch.Tensor]:
    how = Orchestration((("m", 32), ("n", 16)), stages=stages, is_packed=True, is_joined=is_joined)
    program = parse_program(str(transfer(reference_program(), spec, how)))
    inputs, sizes = arguments(spec, SHAPES["B2-H4-M130-N97"])
    found = launch(program, inputs, sizes, isa or CpuTarget().default_arch())
    check(spec, inputs, found)
    return found


@pytest.mark.parametrize(("name", "stages"), [("window", 2), ("share-question", 1), ("bias", 1), ("sigmoid", 1)])
def test_one_loop_computes_the_formula(name: str, stages: int) -> None:
    outputs(VARIANTS[name].spec(d=32, group=1), stages, is_joined=True)


@pytest.mark.parametrize("isa", supported_isas()[:1] + supported_isas()[-1:])
def test_a_condition_of_the_head_in_the_mask(isa: str) -> None:
    outputs(PER_HEAD.spec(d=32, group=1), 1, is_joined=True, isa=isa)


@pytest.mark.parametrize(("name", "dtype"), [("causal", "f32"), ("alibi", "f32"), ("softcap", "bf16")])
def test_one_loop_and_two_in_the_same_order_have_the_same_bits(name: str, dtype: str) -> None:
    """Whole tiles come first under a causal mask, whether they have a loop of their own or not."""
    spec = VARIANTS[name].spec(d=32, group=1, dtype=dtype)
    for one, two in zip(outputs(spec, 1, is_joined=True), outputs(spec, 1, is_joined=False), strict=True):
        assert torch.equal(one, two)


def source(variant: Variant) -> str:
    how = Orchestration((("m", 32), ("n", 16)), is_packed=True, is_joined=True)
    program = transfer(reference_program(), variant.spec(d=32, group=1), how)
    return CpuTarget().lower(program, "portable").source


def test_masks_are_asked_in_masked_tiles_only() -> None:
    text = source(VARIANTS["bias"])
    assert "const bool n_is_whole = n >= full_lo && n < full_hi;" in text
    whole, masked = text.partition("if (n_is_whole) {")[2].split("} else {")[:2]
    assert "a.N - (n0" not in whole  # a whole tile's loads end where the tile does
    assert "a.N - (n0" in masked
    text = source(PER_HEAD)
    whole, masked = text.partition("if (n_is_whole) {")[2].split("} else {", 1)
    assert not re.search(r"iota\(\)", whole)
    assert "if (h < 2) {" in masked

