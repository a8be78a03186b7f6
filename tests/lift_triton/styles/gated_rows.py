"""A gate per row and key in the exponent beside a sink: what a row's sums are multiplied by does not cancel."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def gated(q, k, v, g, sinks, o, scale, T, H: tl.constexpr, G: tl.constexpr, D: tl.constexpr, BM: tl.constexpr,
          BN: tl.constexpr):  # fmt: skip
    m, bh = tl.program_id(0), tl.program_id(1)
    b, h = bh // H, bh % H
    i, d = m * BM + tl.arange(0, BM), tl.arange(0, D)
    heads: tl.constexpr = H // G
    at = tl.load(q + ((b * T + i[:, None]) * H + h) * D + d[None, :], mask=i[:, None] < T, other=0.0)
    own = tl.load(g + (b * T + i) * H + h, mask=i < T, other=0.0)
    peak = tl.full([BM], float("-inf"), tl.float32)
    mass = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, D], tl.float32)
    for begin in range(0, tl.minimum((m + 1) * BM, T), BN):
        j = begin + tl.arange(0, BN)
        key = tl.load(k + ((b * T + j[None, :]) * heads + h // G) * D + d[:, None], mask=j[None, :] < T, other=0.0)
        theirs = tl.load(g + (b * T + j) * H + h, mask=j < T, other=0.0)
        s = tl.dot(at, key) * scale + own[:, None] - theirs[None, :]
        s = tl.where(i[:, None] >= j[None, :], s, float("-inf"))
        higher = tl.maximum(peak, tl.max(s, 1))
        p = tl.exp2(s - higher[:, None])
        less = tl.exp2(peak - higher)
        value = tl.load(v + ((b * T + j[:, None]) * heads + h // G) * D + d[None, :], mask=j[:, None] < T, other=0.0)
        mass = mass * less + tl.sum(p, 1)
        acc = acc * less[:, None] + tl.dot(p.to(value.dtype), value)
        peak = higher
    mass += tl.exp2(tl.load(sinks + h) - peak)
    tl.store(o + ((b * T + i[:, None]) * H + h) * D + d[None, :], acc / mass[:, None], mask=i[:, None] < T)


def launch(q, k, v, g, sinks):
    o = torch.empty_like(q)
    B, T, H, D = q.shape
    gated[(triton.cdiv(T, 64), B * H)](
        q, k, v, g, sinks, o, 1.4426950408889634 * D**-0.5, T, H=H, G=H // k.shape[2], D=D, BM=64, BN=32
    )
    return o


def inputs(B=2, T=175, Hq=4, Hkv=2, D=32):
    g = torch.Generator().manual_seed(0)
    return (
        torch.randn(B, T, Hq, D, generator=g).half(),
        torch.randn(B, T, Hkv, D, generator=g).half(),
        torch.randn(B, T, Hkv, D, generator=g).half(),
        torch.randn(B, T, Hq, generator=g),
        torch.randn(Hq, generator=g),
    )


EXAMPLES = [
    {"B": 2, "T": 175, "Hq": 4, "Hkv": 2},
    {"B": 5, "T": 277, "Hq": 12, "Hkv": 6},
    {"B": 3, "T": 390, "Hq": 22, "Hkv": 11},
]
SMALL = [{"B": 1, "T": 90, "Hq": 2, "Hkv": 1}]
