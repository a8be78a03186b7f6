"""Tiles of keys and values loaded a step ahead by hand, where there is a next step; keys counted by a while loop."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def ahead(q, k, v, o, scale, M, N, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    m, bh = tl.program_id(0), tl.program_id(1)
    d, r = tl.arange(0, D), tl.arange(0, BN)
    i = m * BM + tl.arange(0, BM)
    at = tl.load(q + bh * M * D + i[:, None] * D + d[None, :], mask=i[:, None] < M, other=0.0)
    ks, vs = k + bh * N * D + r[None, :] * D + d[:, None], v + bh * N * D + r[:, None] * D + d[None, :]
    peak = tl.full([BM], float("-inf"), tl.float32)
    mass = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, D], tl.float32)
    key = tl.load(ks, mask=r[None, :] < N, other=0.0)
    value = tl.load(vs, mask=r[:, None] < N, other=0.0)
    begin = 0
    while begin < N:
        next_key, next_value = key, value
        if begin + BN < N:
            j = begin + BN + r
            next_key = tl.load(ks + (begin + BN) * D, mask=j[None, :] < N, other=0.0)
            next_value = tl.load(vs + (begin + BN) * D, mask=j[:, None] < N, other=0.0)
        s = tl.where((begin + r)[None, :] < N, tl.dot(at, key) * scale, float("-inf"))
        higher = tl.maximum(peak, tl.max(s, 1))
        p = tl.exp(s - higher[:, None])
        less = tl.exp(peak - higher)
        mass = mass * less + tl.sum(p, 1)
        acc = acc * less[:, None] + tl.dot(p.to(value.dtype), value)
        peak, key, value = higher, next_key, next_value
        begin += BN
    tl.store(o + bh * M * D + i[:, None] * D + d[None, :], acc / mass[:, None], mask=i[:, None] < M)


def launch(q, k, v):
    o = torch.empty_like(q)
    B, H, M, D = q.shape
    ahead[(triton.cdiv(M, 64), B * H)](q, k, v, o, D**-0.5, M, k.shape[2], D=D, BM=64, BN=32)
    return o


def inputs(B=2, H=3, M=90, N=175, D=32):
    g = torch.Generator().manual_seed(0)
    return tuple(torch.randn(B, H, rows, D, generator=g).half() for rows in (M, N, N))


EXAMPLES = [
    {"B": 2, "H": 3, "M": 90, "N": 175},
    {"B": 5, "H": 7, "M": 131, "N": 277},
    {"B": 3, "H": 11, "M": 259, "N": 390},
]
SMALL = [{"B": 1, "H": 2, "M": 70, "N": 90}]
