"""Lists of blocks to visit, a clamped relative bias read element by element, a choice inside the loop."""

# ruff: noqa: E741  (kernels call a row's sum l)

from __future__ import annotations

import functools
import operator

import torch
import triton
import triton.language as tl


@triton.jit
def kern(Q, K, V, O, rowptr, cols, table, sm, N, H, BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr):
    i = tl.program_id(0)
    bh = tl.program_id(1)
    h = bh % H
    base = bh.to(tl.int64) * N * D
    r = i * BM + tl.arange(0, BM)
    d = tl.arange(0, D)
    q = tl.load(Q + base + r[:, None] * D + d[None, :], mask=r[:, None] < N, other=0.0)
    m = tl.full([BM], -1e30, tl.float32)
    l = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, D], tl.float32)
    first = tl.load(rowptr + i)
    last = tl.load(rowptr + i + 1)
    for t in range(first, last):
        j = tl.load(cols + t)
        c = j * BN + tl.arange(0, BN)
        k = tl.load(K + base + c[:, None] * D + d[None, :], mask=c[:, None] < N, other=0.0)
        s = tl.dot(q, tl.trans(k)) * sm
        rel = tl.minimum(tl.maximum(r[:, None] - c[None, :], -15), 15) + 15
        s += tl.load(table + h * 31 + rel)
        s = tl.where(c[None, :] < N, s, -1e30)
        if j == i:
            s = tl.where(r[:, None] >= c[None, :], s, -1e30)
        mn = tl.maximum(m, tl.max(s, 1))
        p = tl.exp(s - mn[:, None])
        a = tl.exp(m - mn)
        l = l * a + tl.sum(p, 1)
        v = tl.load(V + base + c[:, None] * D + d[None, :], mask=c[:, None] < N, other=0.0)
        acc = acc * a[:, None] + tl.dot(p, v)
        m = mn
    acc = acc / tl.where(l == 0.0, 1.0, l)[:, None]
    tl.store(O + base + r[:, None] * D + d[None, :], acc, mask=r[:, None] < N)


def launch(q, k, v, rowptr, cols, table):
    B, H, N, D = q.shape
    o = torch.empty_like(q)
    kern[(triton.cdiv(N, 32), B * H)](q, k, v, o, rowptr, cols, table, D**-0.5, N, H, BM=32, BN=32, D=D)
    return o


def inputs(B=2, H=3, N=90, D=32):
    g = torch.Generator().manual_seed(0)
    nb = (N + 31) // 32
    rows = [sorted({0, i, max(i - 1, 0)}) for i in range(nb)]
    rp = torch.tensor([0] + [len(x) for x in rows]).cumsum(0).to(torch.int32)
    co = torch.tensor(functools.reduce(operator.iadd, rows, [])).to(torch.int32)
    return (*(torch.randn(B, H, N, D, generator=g) for _ in range(3)), rp, co, torch.randn(H, 31, generator=g))


EXAMPLES = [{"B": 2, "H": 3, "N": 190}, {"B": 5, "H": 7, "N": 331}, {"B": 3, "H": 11, "N": 259}]
SMALL = [{"B": 1, "H": 2, "N": 90}]
