"""A persistent grid whose instances count their tiles, a window whose first tile is computed, ALiBi and a sink."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def turns(
    q, k, v, slopes, sinks, o, scale, H, BH, M, N, W: tl.constexpr, D: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr,
):  # fmt: skip
    number, instances = tl.program_id(0), tl.num_programs(0)
    tiles = tl.cdiv(M, BM)
    share = tiles * BH // instances
    if number < tiles * BH % instances:
        share += 1
    tile = number
    d = tl.arange(0, D)
    for _ in range(share):
        m, bh = tile % tiles, tile // tiles
        i = m * BM + tl.arange(0, BM)
        at = tl.load(q + bh * M * D + i[:, None] * D + d[None, :], mask=i[:, None] < M, other=0.0)
        slope = tl.load(slopes + bh % H)
        peak = tl.zeros([BM], tl.float32) + tl.load(sinks + bh % H)
        mass = tl.full([BM], 1.0, tl.float32)
        acc = tl.zeros([BM, D], tl.float32)
        first = tl.maximum(0, (m * BM + N - M - W + 1) // BN * BN)
        for begin in range(first, tl.minimum(N, (m + 1) * BM + N - M), BN):
            j = begin + tl.arange(0, BN)
            key = tl.load(k + bh * N * D + j[None, :] * D + d[:, None], mask=j[None, :] < N, other=0.0)
            back = i[:, None] + N - M - j[None, :]
            s = tl.dot(at, key) * scale - slope * back
            s = tl.where((back >= 0) & (back < W) & (j[None, :] < N), s, -1e30)
            higher = tl.maximum(peak, tl.max(s, 1))
            p = tl.exp(s - higher[:, None])
            less = tl.exp(peak - higher)
            value = tl.load(v + bh * N * D + j[:, None] * D + d[None, :], mask=j[:, None] < N, other=0.0)
            mass = mass * less + tl.sum(p, 1)
            acc = acc * less[:, None] + tl.dot(p.to(value.dtype), value)
            peak = higher
        tl.store(o + bh * M * D + i[:, None] * D + d[None, :], acc / mass[:, None], mask=i[:, None] < M)
        tile += instances


def launch(q, k, v, slopes, sinks):
    o = torch.empty_like(q)
    B, H, M, D = q.shape
    turns[(132,)](q, k, v, slopes, sinks, o, D**-0.5, H, B * H, M, k.shape[2], W=50, D=D, BM=64, BN=32)
    return o


def inputs(B=2, H=3, M=90, N=175, D=32):
    g = torch.Generator().manual_seed(0)
    return (
        torch.randn(B, H, M, D, generator=g).half(),
        torch.randn(B, H, N, D, generator=g).half(),
        torch.randn(B, H, N, D, generator=g).half(),
        torch.rand(H, generator=g),
        torch.randn(H, generator=g),
    )


EXAMPLES = [
    {"B": 2, "H": 3, "M": 90, "N": 175},
    {"B": 5, "H": 7, "M": 131, "N": 277},
    {"B": 3, "H": 11, "M": 259, "N": 390},
]
SMALL = [{"B": 1, "H": 2, "M": 70, "N": 90}]
