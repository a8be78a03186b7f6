"""Weights too small for a normal float are zero in kernels, and in nobody else's arithmetic."""

from __future__ import annotations

import torch

import tilewright as tw
from tilewright.ir.dtypes import DType
from tilewright.ir.spec import AttentionSpec, S


def test_tiny_weights_are_zero_and_the_thread_keeps_its_own_mode() -> None:
    q = torch.zeros(1, 1, 1, 16)
    k, v = torch.zeros(1, 1, 2, 16), torch.zeros(1, 1, 2, 16)
    q[..., 0], k[0, 0, 1, 0], v[0, 0, 1] = 1.0, -90.0, 1e30  # a weight of 8e-40, which times 1e30 would be seen
    kernel = tw.compile(AttentionSpec("tiny", DType.F32, 16, 16, score=S), verify=False)
    assert kernel(q, k, v).abs().max() == 0.0
    smallest = torch.tensor([1e-40])
    assert (smallest * 1.0).item() != 0.0


def test_weights_that_are_small_but_normal_stay() -> None:
    q = torch.zeros(1, 1, 1, 16)
    k, v = torch.zeros(1, 1, 2, 16), torch.zeros(1, 1, 2, 16)
    q[..., 0], k[0, 0, 1, 0], v[0, 0, 1] = 1.0, -80.0, 1e30
    kernel = tw.compile(AttentionSpec("small", DType.F32, 16, 16, score=S), verify=False)
    torch.testing.assert_close(kernel(q, k, v)[0, 0, 0, 0].item(), 1e30 * 1.8048513878454153e-35, rtol=1e-5, atol=0.0)
