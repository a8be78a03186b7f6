"""Kernels that are refused, each for one operation."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def summed(x, o, N, W: tl.constexpr):
    i = tl.program_id(0) * W + tl.arange(0, W)
    tl.store(o + i, tl.cumsum(tl.load(x + i, mask=i < N, other=0.0), 0), mask=i < N)


@triton.jit
def dropped(x, o, N, W: tl.constexpr):
    i = tl.program_id(0) * W + tl.arange(0, W)
    value = tl.load(x + i, mask=i < N, other=0.0)
    tl.store(o + i, tl.where(tl.rand(7, i) > 0.1, value, 0.0), mask=i < N)


@triton.jit
def halved(x, o, N, W: tl.constexpr):
    i = tl.program_id(0) * W + tl.arange(0, W)
    value = tl.load(x + i, mask=i < N, other=0.0)
    left = N
    while left > 1:
        value = value * 0.5
        left = left // 2
    tl.store(o + i, value, mask=i < N)


@triton.jit
def carried(x, o, N, STEP: tl.constexpr, W: tl.constexpr):
    """Each step loads the tile that lies STEP further; W further would be the next one."""
    r = tl.arange(0, W)
    total = tl.zeros([W], tl.float32)
    value = tl.load(x + r + 1, mask=r + 1 < N, other=0.0)
    for begin in range(0, N, W):
        total += value
        value = tl.load(x + begin + STEP + r, mask=begin + STEP + r < N, other=0.0)
    tl.store(o + r, total, mask=r < N)


def _launched(kernel, x, *more):
    o = torch.empty_like(x)
    kernel[(triton.cdiv(x.shape[0], 64),)](x, o, x.shape[0], *more, W=64)
    return o


def scan(x):
    return _launched(summed, x)


def dropout(x):
    return _launched(dropped, x)


def halves(x):
    return _launched(halved, x)


def ahead(x):
    return _launched(carried, x, 64)
