"""Refusals name the operation and its line, and say what to do."""

from __future__ import annotations

import pytest
import torch

from tilewright.ir.errors import UnsupportedKernel
from tilewright.ir.lift.triton import lift_triton

from . import refused

EXAMPLES = [(torch.randn(rows),) for rows in (300, 517, 901)]
REASONS = {
    "scan": r"refused.py:13: a scan \(cumsum\) is out of reach; compute it before the launch \(operation tt.scan\)",
    "dropout": r"random numbers \(dropout\) are out of reach; lift the kernel with dropout off",
    "halves": r"refused.py:28: a loop that does not count is out of reach; `while s < end:`",
    "ahead": r"refused.py:42: a tile that is carried to the next step is not loaded from the place that follows",
}


@pytest.mark.parametrize("name", REASONS)
def test_refusals(name: str) -> None:
    with pytest.raises(UnsupportedKernel, match=REASONS[name]):
        lift_triton(getattr(refused, name), EXAMPLES)


def test_elements_of_8_bits() -> None:
    examples = [(example[0].to(torch.float8_e4m3fn),) for example in EXAMPLES]
    with pytest.raises(UnsupportedKernel, match="x has elements of float8_e4m3fn; known are float64"):
        lift_triton(refused.scan, examples)
