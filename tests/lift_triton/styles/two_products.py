"""Scores of two products, the second with keys that all heads share, from packed sequences with a prefix."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def latent(
    q, r, k, t, v, o, start, begin, lengths, cached, scale, sq0, sq1, sr0, sr1, sk0, sk1, st0, D: tl.constexpr,
    R: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    b, h, m = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first, own, before = tl.load(start + b), tl.load(begin + b), tl.load(cached + b)
    rows = tl.load(lengths + b) - before
    d, e, c = tl.arange(0, D), tl.arange(0, R), tl.arange(0, BN)
    i = m * BM + tl.arange(0, BM)
    at = tl.load(q + (first + i[:, None]) * sq0 + h * sq1 + d[None, :], mask=i[:, None] < rows, other=0.0)
    turned = tl.load(r + (first + i[:, None]) * sr0 + h * sr1 + e[None, :], mask=i[:, None] < rows, other=0.0)
    peak = tl.full([BM], float("-inf"), tl.float32)
    mass = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, D], tl.float32)
    end = tl.minimum((m + 1) * BM + before, rows + before)
    for n in range(0, end, BN):
        j = n + c
        key = tl.load(k + (own + j[None, :]) * sk0 + h * sk1 + d[:, None], mask=j[None, :] < end, other=0.0)
        place = tl.load(t + (own + j[None, :]) * st0 + e[:, None], mask=j[None, :] < end, other=0.0)
        s = tl.dot(at, key)
        s += tl.dot(turned, place)
        s = tl.where(i[:, None] + before >= j[None, :], s * scale, -1.0e8)
        higher = tl.maximum(peak, tl.max(s, 1))
        p = tl.exp(s - higher[:, None])
        less = tl.exp(peak - higher)
        value = tl.load(v + (own + j[:, None]) * sk0 + h * sk1 + d[None, :], mask=j[:, None] < end, other=0.0)
        mass = mass * less + tl.sum(p, 1)
        acc = acc * less[:, None] + tl.dot(p.to(value.dtype), value)
        peak = higher
    acc = acc / mass[:, None]
    tl.store(o + (first + i[:, None]) * sq0 + h * sq1 + d[None, :], acc, mask=i[:, None] < rows)


def launch(q, r, k, t, v, start, begin, lengths, cached, longest):
    o = torch.empty_like(q)
    heads, D = q.shape[1:]
    latent[(start.shape[0], heads, triton.cdiv(longest, 64))](
        q, r, k, t, v, o, start, begin, lengths, cached, 0.125, *q.stride()[:2], *r.stride()[:2], *k.stride()[:2],
        t.stride(0), D=D, R=r.shape[-1], BM=64, BN=32,
    )  # fmt: skip
    return o


def inputs(rows=(30, 80, 129), H=4, D=32, R=16):
    g = torch.Generator().manual_seed(0)
    new = torch.tensor(rows)
    cached = torch.arange(len(rows)) * 5 + 3
    total = new + cached
    keys = int(total.sum())
    return (
        torch.randn(sum(rows), H, D, generator=g).half(),
        torch.randn(sum(rows), H, R, generator=g).half(),
        torch.randn(keys, H, D, generator=g).half(),
        torch.randn(keys, 1, R, generator=g).half(),
        torch.randn(keys, H, D, generator=g).half(),
        (new.cumsum(0) - new).int(),
        (total.cumsum(0) - total).int(),
        total.int(),
        cached.int(),
        max(rows),
    )


EXAMPLES = [
    {"rows": (30, 80, 129), "H": 4},
    {"rows": (31, 57, 412, 90), "H": 7},
    {"rows": (571, 77, 12, 41, 5), "H": 11},
]
SMALL = [{"rows": (20, 70), "H": 2}]
