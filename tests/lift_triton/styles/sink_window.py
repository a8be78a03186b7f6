"""A sink per head and a sliding window whose first key is no multiple of a tile."""

# ruff: noqa: E741  (kernels call a row's sum l)

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def kern(
    Q,
    K,
    V,
    S,
    O,
    sm,
    sqb,
    sqh,
    sqm,
    skb,
    skh,
    skn,
    H,
    HK,
    M,
    N,
    WIN: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    D: tl.constexpr,
):
    mb = tl.program_id(0)
    h = tl.program_id(1) % H
    b = tl.program_id(1) // H
    g = h * HK // H
    Q += b.to(tl.int64) * sqb + h.to(tl.int64) * sqh
    O += b.to(tl.int64) * sqb + h.to(tl.int64) * sqh
    K += b.to(tl.int64) * skb + g.to(tl.int64) * skh
    V += b.to(tl.int64) * skb + g.to(tl.int64) * skh
    r = mb * BM + tl.arange(0, BM)
    d = tl.arange(0, D)
    q = tl.load(Q + r[:, None] * sqm + d[None, :], mask=r[:, None] < M, other=0.0)
    sink = tl.load(S + h).to(tl.float32) * 1.44269504
    m = tl.zeros([BM], tl.float32) + sink
    l = tl.full([BM], 1.0, tl.float32)
    acc = tl.zeros([BM, D], tl.float32)
    off = N - M
    lo = tl.maximum(0, mb * BM + off - WIN + 1)
    hi = tl.minimum(N, (mb + 1) * BM + off)
    for s in range(lo, hi, BN):
        c = s + tl.arange(0, BN)
        k = tl.load(K + c[None, :] * skn + d[:, None], mask=c[None, :] < N, other=0.0)
        x = tl.dot(q, k) * sm * 1.44269504
        ok = (c[None, :] <= r[:, None] + off) & (c[None, :] > r[:, None] + off - WIN) & (c[None, :] < N)
        x = tl.where(ok, x, float("-inf"))
        mn = tl.maximum(m, tl.max(x, 1))
        al = tl.exp2(m - mn)
        p = tl.exp2(x - mn[:, None])
        l = l * al + tl.sum(p, 1)
        v = tl.load(V + c[:, None] * skn + d[None, :], mask=c[:, None] < N, other=0.0)
        acc = acc * al[:, None]
        acc = tl.dot(p.to(v.dtype), v, acc)
        m = mn
    acc = acc / l[:, None]
    tl.store(O + r[:, None] * sqm + d[None, :], acc.to(O.type.element_ty), mask=r[:, None] < M)


def launch(q, k, v, sinks):
    B, H, M, D = q.shape
    o = torch.empty_like(q)
    kern[(triton.cdiv(M, 64), B * H)](
        q,
        k,
        v,
        sinks,
        o,
        D**-0.5,
        q.stride(0),
        q.stride(1),
        q.stride(2),
        k.stride(0),
        k.stride(1),
        k.stride(2),
        H,
        k.shape[1],
        M,
        k.shape[2],
        WIN=50,
        BM=64,
        BN=32,
        D=D,
    )
    return o


def inputs(B=2, Hq=6, Hkv=3, M=90, N=175, D=64):
    g = torch.Generator().manual_seed(0)
    return (
        torch.randn(B, Hq, M, D, generator=g).half(),
        torch.randn(B, Hkv, N, D, generator=g).half(),
        torch.randn(B, Hkv, N, D, generator=g).half(),
        torch.randn(Hq, generator=g),
    )


EXAMPLES = [
    {"B": 2, "Hq": 6, "Hkv": 3, "M": 90, "N": 175},
    {"B": 5, "Hq": 21, "Hkv": 7, "M": 131, "N": 277},
    {"B": 3, "Hq": 22, "Hkv": 11, "M": 259, "N": 390},
]
SMALL = [{"B": 1, "Hq": 2, "Hkv": 1, "M": 90, "N": 175}, {"B": 1, "Hq": 2, "Hkv": 2, "M": 65, "N": 65}]
