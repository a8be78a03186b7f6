"""Document numbers of rows and keys, a prefix length per sequence, rows that may keep nothing."""

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
    ids,
    prefix,
    sqb,
    sqh,
    sqm,
    skb,
    skh,
    skn,
    H,
    N,
    sm: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    D: tl.constexpr,
):
    mb = tl.program_id(1)
    bh = tl.program_id(0)
    b = bh // H
    h = bh % H
    r = mb * BM + tl.arange(0, BM)
    d = tl.arange(0, D)
    Q = tl.load(q + b * sqb + h * sqh + r[:, None] * sqm + d[None, :], mask=(r < N)[:, None], other=0.0)
    rid = tl.load(ids + b * N + r, mask=r < N, other=-1)
    plen = tl.load(prefix + b)
    m = tl.full([BM], float("-inf"), tl.float32)
    l = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, D], tl.float32)
    for nb in range(tl.cdiv(N, BN)):
        c = nb * BN + tl.arange(0, BN)
        K = tl.load(k + b * skb + h * skh + c[:, None] * skn + d[None, :], mask=(c < N)[:, None], other=0.0)
        cid = tl.load(ids + b * N + c, mask=c < N, other=-2)
        s = tl.dot(Q, K.T, input_precision="ieee") * sm
        keep = ((c[None, :] < plen) | (r[:, None] >= c[None, :])) & (rid[:, None] == cid[None, :]) & (c < N)[None, :]
        s = tl.where(keep, s, float("-inf"))
        mn = tl.maximum(m, tl.max(s, 1))
        safe = tl.where(mn == float("-inf"), 0.0, mn)
        p = tl.exp(s - safe[:, None])
        a = tl.exp(m - safe)
        l = l * a + tl.sum(p, 1)
        V = tl.load(v + b * skb + h * skh + c[:, None] * skn + d[None, :], mask=(c < N)[:, None], other=0.0)
        acc = acc * a[:, None] + tl.dot(p.to(V.dtype), V)
        m = mn
    acc = tl.where((l > 0)[:, None], acc / l[:, None], 0.0)
    tl.store(o + b * sqb + h * sqh + r[:, None] * sqm + d[None, :], acc.to(o.dtype.element_ty), mask=(r < N)[:, None])


def launch(q, k, v, ids, prefix):
    B, H, N, D = q.shape
    o = torch.empty_like(q)
    kern[(B * H, triton.cdiv(N, 64))](
        q, k, v, o, ids, prefix, *q.stride()[:3], *k.stride()[:3], H, N, sm=D**-0.5, BM=64, BN=32, D=D
    )
    return o


def inputs(B=2, H=3, N=90, D=64, dt=torch.float32):
    g = torch.Generator().manual_seed(0)
    return (
        *(torch.randn(B, H, N, D, generator=g).to(dt) for _ in range(3)),
        (torch.arange(N) // 37).repeat(B, 1).to(torch.int32),
        torch.full((B,), 11, dtype=torch.int32),
    )


EXAMPLES = [{"B": 2, "H": 3, "N": 190}, {"B": 5, "H": 7, "N": 331}, {"B": 3, "H": 11, "N": 259}]
SMALL = [{"B": 1, "H": 2, "N": 90}]
