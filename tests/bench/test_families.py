"""The suite `variants`: every case once, masks that mean the same to the plain function and to FlexAttention."""

from __future__ import annotations

import pytest
import torch

from tilewright.bench.families import family_cases
from tilewright.bench.masks import MASKS
from tilewright.bench.normalisers import NORMALISERS
from tilewright.bench.targets import GOALS

LENGTH, HEADS = 256, 2
CPU = torch.device("cpu")


def test_every_case_once_and_each_has_a_goal() -> None:
    names = [str(case) for case in family_cases()]
    assert len(names) == len(set(names)) >= 40
    assert {"B1-H8-N2048-D64-bf16-packed-mask", "B1-H8:1-N128x2048-D576x512-f32-full"} <= set(names)
    goals = {goal.name for goal in GOALS}
    assert all(any(goal.startswith(f"variants {name} against") for goal in goals) for name in names)


@pytest.mark.parametrize("variant", MASKS, ids=lambda variant: variant.name)
def test_both_forms_of_a_mask_keep_the_same_pairs(variant) -> None:
    captured = variant.captured(HEADS, LENGTH, CPU)
    b = h = torch.tensor(0)
    i, j = torch.arange(LENGTH)[:, None], torch.arange(LENGTH)[None, :]
    kept = variant.mask_mod(*captured)(b, h, i, j)
    q = k = torch.randn(1, HEADS, LENGTH, 8)
    weights = variant.spec(q, k, torch.eye(LENGTH)[None, None].expand(1, HEADS, -1, -1), *captured)
    assert kept.any(1).all()
    assert torch.equal(weights[0, 1] > 0, kept)
    assert variant.pairs(LENGTH, LENGTH) == int(kept.sum())


@pytest.mark.parametrize("variant", NORMALISERS, ids=lambda variant: variant.name)
def test_normalisers_are_what_flex_cannot_say(variant) -> None:
    captured = variant.captured(HEADS, 64, CPU)
    q, k, v = (torch.randn(1, HEADS, 64, 8) for _ in range(3))
    assert not variant.is_flex
    assert variant.spec(q, k, v, *captured).shape == v.shape
