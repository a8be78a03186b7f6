"""ALiBi slopes and a key mask of bytes; one number of instances for everything; pointers that loops carry."""

# ruff: noqa: E741  (kernels call a row's sum l)

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def kern(q, k, v, o, slopes, kmask, sm, H, M, N, BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr):
    pid = tl.program_id(0)
    nb = tl.cdiv(M, BM)
    mb = pid % nb
    bh = pid // nb
    b = bh // H
    h = bh % H
    rm = mb * BM + tl.arange(0, BM)
    rd = tl.arange(0, D)
    qp = q + (bh * M + rm[:, None]) * D + rd[None, :]
    Q = tl.load(qp, mask=rm[:, None] < M, other=0.0)
    slope = tl.load(slopes + h)
    kp = k + bh * N * D + tl.arange(0, BN)[:, None] * D + rd[None, :]
    vp = v + bh * N * D + tl.arange(0, BN)[:, None] * D + rd[None, :]
    mp = kmask + b * N + tl.arange(0, BN)
    m = tl.full([BM], -1e38, tl.float32)
    l = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, D], tl.float32)
    for s in range(0, N, BN):
        rn = s + tl.arange(0, BN)
        K = tl.load(kp, mask=rn[:, None] < N, other=0.0)
        ok = tl.load(mp, mask=rn < N, other=0)
        x = tl.dot(Q, tl.trans(K)) * sm - slope * tl.abs(rm[:, None] - rn[None, :]).to(tl.float32)
        x = tl.where((ok != 0)[None, :] & (rn < N)[None, :], x, -1e38)
        mn = tl.maximum(m, tl.max(x, 1))
        p = tl.exp(x - mn[:, None])
        a = tl.exp(m - mn)
        l = a * l + tl.sum(p, 1)
        V = tl.load(vp, mask=rn[:, None] < N, other=0.0)
        acc = acc * a[:, None]
        acc += tl.dot(p.to(V.dtype), V)
        m = mn
        kp += BN * D
        vp += BN * D
        mp += BN
    acc = acc / l[:, None]
    tl.store(o + (bh * M + rm[:, None]) * D + rd[None, :], acc.to(o.dtype.element_ty), mask=rm[:, None] < M)


def launch(q, k, v, slopes, kmask):
    B, H, M, D = q.shape
    N = k.shape[2]
    o = torch.empty_like(q)
    kern[(triton.cdiv(M, 64) * B * H,)](q, k, v, o, slopes, kmask, D**-0.5, H, M, N, BM=64, BN=32, D=D, num_warps=4)
    return o


def inputs(B=2, H=3, M=90, N=75, D=64):
    g = torch.Generator().manual_seed(0)
    km = torch.rand(B, N, generator=g) > 0.3
    km[:, 0] = True
    return (
        torch.randn(B, H, M, D, generator=g),
        torch.randn(B, H, N, D, generator=g),
        torch.randn(B, H, N, D, generator=g),
        torch.rand(H, generator=g),
        km.to(torch.int8),
    )


EXAMPLES = [
    {"B": 2, "H": 3, "M": 90, "N": 75},
    {"B": 5, "H": 7, "M": 131, "N": 77},
    {"B": 3, "H": 11, "M": 259, "N": 190},
]
SMALL = [{"B": 1, "H": 2, "M": 90, "N": 75}]
