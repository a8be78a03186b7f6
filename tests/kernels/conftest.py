"""A causal kernel that several tests look at, built once."""

from __future__ import annotations

import pytest
import torch

import tilewright as tw
from tilewright.ir.dtypes import DType
from tilewright.ir.expr import Op, apply
from tilewright.ir.spec import COLUMN, ROW, AttentionSpec, S

HEAD_DIM = 16


def causal_spec(dtype: DType = DType.F32, group: int = 2) -> AttentionSpec:
    keep = apply(Op.LE, COLUMN, ROW)
    return AttentionSpec("causal", dtype, HEAD_DIM, HEAD_DIM, group, score=S * 0.25, keep=keep)


def qkv(batch: int = 2, kv_heads: int = 2, rows: int = 33, columns: int = 33, group: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (
        (batch, group * kv_heads, rows, HEAD_DIM),
        (batch, kv_heads, columns, HEAD_DIM),
        (batch, kv_heads, columns, HEAD_DIM),
    )
    return [torch.randn(shape, generator=generator) for shape in shapes]


def causal_eager(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    keep = torch.arange(k.shape[2])[None, :] <= torch.arange(q.shape[2])[:, None]
    scores = (q @ k.transpose(-1, -2) * 0.25).masked_fill(~keep, float("-inf"))
    return torch.softmax(scores, -1) @ v


@pytest.fixture(scope="session")
def causal(private_cache: object) -> tw.Kernel:
    """A verified causal kernel for D = 16, group 2, float32."""
    kernel = tw.compile(causal_spec())
    kernel.prepare(*qkv())
    return kernel
