"""Block pointers, made once and advanced, keys as columns."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def blocks(q, k, v, o, scale, M, N, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    m, bh = tl.program_id(0), tl.program_id(1).to(tl.int64)
    at = tl.make_block_ptr(q + bh * M * D, (M, D), (D, 1), (m * BM, 0), (BM, D), (1, 0))
    to = tl.make_block_ptr(o + bh * M * D, (M, D), (D, 1), (m * BM, 0), (BM, D), (1, 0))
    keys = tl.make_block_ptr(k + bh * N * D, (D, N), (1, D), (0, 0), (D, BN), (0, 1))
    values = tl.make_block_ptr(v + bh * N * D, (N, D), (D, 1), (0, 0), (BN, D), (1, 0))
    rows = tl.load(at, boundary_check=(0, 1), padding_option="zero")
    peak = tl.full([BM], float("-inf"), tl.float32)
    mass = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, D], tl.float32)
    for begin in range(0, N, BN):
        key = tl.load(keys, boundary_check=(1,))
        s = tl.dot(rows, key) * scale
        s = tl.where((begin + tl.arange(0, BN))[None, :] < N, s, float("-inf"))
        higher = tl.maximum(peak, tl.max(s, 1))
        p = tl.exp(s - higher[:, None])
        less = tl.exp(peak - higher)
        value = tl.load(values, boundary_check=(0,), padding_option="zero")
        mass = mass * less + tl.sum(p, 1)
        acc = acc * less[:, None] + tl.dot(p.to(values.dtype.element_ty), value)
        peak = higher
        keys = tl.advance(keys, (0, BN))
        values = tl.advance(values, (BN, 0))
    tl.store(to, (acc / mass[:, None]).to(o.type.element_ty), boundary_check=(0, 1))


def launch(q, k, v):
    o = torch.empty_like(q)
    B, H, M, D = q.shape
    blocks[(triton.cdiv(M, 64), B * H)](q, k, v, o, D**-0.5, M, k.shape[2], D=D, BM=64, BN=32)
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
