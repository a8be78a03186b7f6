"""Query heads of a group packed into rows, scores transposed, the head dimension in two halves."""

# ruff: noqa: E741  (kernels call a row's sum l)

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def kern(
    q,
    k,
    v,
    o,
    sm,
    sqb,
    sqm,
    sqh,
    skb,
    skn,
    skh,
    M,
    N,
    G: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    D: tl.constexpr,
    HALF: tl.constexpr,
):
    rb = tl.program_id(0)
    g = tl.program_id(1)
    b = tl.program_id(2)
    r = rb * BM + tl.arange(0, BM)
    live = r < G * M
    h = g * G + r // M
    i = r % M
    d0 = tl.arange(0, HALF)
    base = b * sqb + i * sqm + h * sqh
    q0 = tl.load(q + base[None, :] + d0[:, None], mask=live[None, :], other=0.0)
    q1 = tl.load(q + base[None, :] + (HALF + d0)[:, None], mask=live[None, :], other=0.0)
    m = tl.full([BM], -1e30, tl.float32)
    l = tl.zeros([BM], tl.float32)
    dd = tl.arange(0, D)
    acc = tl.zeros([D, BM], tl.float32)
    for s0 in range(0, N, BN):
        c = s0 + tl.arange(0, BN)
        ok = c < N
        k0 = tl.load(k + b * skb + g * skh + c[:, None] * skn + d0[None, :], mask=ok[:, None], other=0.0)
        k1 = tl.load(k + b * skb + g * skh + c[:, None] * skn + (HALF + d0)[None, :], mask=ok[:, None], other=0.0)
        st = tl.dot(k0, q0)
        st = tl.dot(k1, q1, st)
        st = tl.where(ok[:, None] & (c[:, None] <= i[None, :] + N - M), st * sm, -1e30)
        mn = tl.maximum(m, tl.max(st, 0))
        p = tl.exp(st - mn[None, :])
        a = tl.exp(m - mn)
        l = l * a + tl.sum(p, 0)
        vt = tl.load(v + b * skb + g * skh + c[None, :] * skn + dd[:, None], mask=ok[None, :], other=0.0)
        acc = tl.dot(vt, p.to(vt.dtype), acc * a[None, :])
        m = mn
    acc = acc / l[None, :]
    tl.store(o + base[None, :] + dd[:, None], acc.to(o.dtype.element_ty), mask=live[None, :])


def launch(q, k, v):
    B, M, H, D = q.shape
    N, HK = k.shape[1], k.shape[2]
    o = torch.empty_like(q)
    kern[(triton.cdiv(M * (H // HK), 64), HK, B)](
        q, k, v, o, D**-0.5, *q.stride()[:3], *k.stride()[:3], M, N, G=H // HK, BM=64, BN=32, D=D, HALF=D // 2
    )
    return o


def inputs(B=2, Hq=6, Hkv=3, M=50, N=90, D=64):
    g = torch.Generator().manual_seed(0)
    return (
        torch.randn(B, M, Hq, D, generator=g).half(),
        torch.randn(B, N, Hkv, D, generator=g).half(),
        torch.randn(B, N, Hkv, D, generator=g).half(),
    )


EXAMPLES = [
    {"B": 2, "Hq": 6, "Hkv": 3, "M": 90, "N": 175},
    {"B": 5, "Hq": 21, "Hkv": 7, "M": 131, "N": 277},
    {"B": 3, "Hq": 22, "Hkv": 11, "M": 259, "N": 390},
]
SMALL = [{"B": 1, "Hq": 4, "Hkv": 2, "M": 50, "N": 90}]
