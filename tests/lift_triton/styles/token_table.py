"""Queries packed, keys in a cache found row by row through a table of requests, a prefix that is cached already."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def prefill(
    q, k, v, o, table, request, start, cached, lengths, scale,
    sq0, sq1, sk0, sk1, so0, so1, st, G: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    b, h, tile = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first = tl.load(start + b)
    before = tl.load(cached + b)
    total = tl.load(lengths + b)
    mine = tl.load(request + b)
    d = tl.arange(0, D)
    i = tile * BM + tl.arange(0, BM)
    there = i[:, None] < total - before
    at = tl.load(q + (first + i[:, None]) * sq0 + h * sq1 + d[None, :], mask=there, other=0.0)
    peak = tl.zeros([BM], tl.float32) - float("inf")
    mass = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, D], tl.float32)
    end = tl.minimum(tile * BM + BM + before, total)
    for begin in range(0, end, BN):
        j = begin + tl.arange(0, BN)
        row = tl.load(table + mine * st + j, mask=j < end, other=0)
        key = tl.load(k + row[None, :] * sk0 + (h // G) * sk1 + d[:, None], mask=j[None, :] < end, other=0.0)
        s = tl.where(i[:, None] + before >= j[None, :], tl.dot(at, key) * scale, -1.0e8)
        higher = tl.maximum(peak, tl.max(s, 1))
        p = tl.math.exp2(s - higher[:, None])
        less = tl.math.exp2(peak - higher)
        mass = mass * less + tl.sum(p, 1)
        value = tl.load(v + row[:, None] * sk0 + (h // G) * sk1 + d[None, :], mask=j[:, None] < end, other=0.0)
        acc = tl.dot(p.to(value.dtype), value, acc * less[:, None])
        peak = higher
    tl.store(o + (first + i[:, None]) * so0 + h * so1 + d[None, :], acc / mass[:, None], mask=there)


def launch(q, k, v, table, request, start, cached, lengths, longest):
    o = torch.empty_like(q)
    heads, D = q.shape[1:]
    prefill[(request.shape[0], heads, triton.cdiv(longest, 64))](
        q, k, v, o, table, request, start, cached, lengths, 1.4426950408889634 * D**-0.5, *q.stride()[:2],
        *k.stride()[:2], *o.stride()[:2], table.stride(0), G=heads // k.shape[1], D=D, BM=64, BN=32,
    )  # fmt: skip
    return o


def inputs(rows=(30, 80, 129), Hq=4, Hkv=2, slots=700, requests=9, D=32):
    g = torch.Generator().manual_seed(0)
    new = torch.tensor(rows, dtype=torch.int32)
    cached = torch.randint(1, 40, (len(rows),), generator=g).to(torch.int32)
    widest = int((new + cached).max())
    return (
        torch.randn(sum(rows), Hq, D, generator=g).half(),
        torch.randn(slots, Hkv, D, generator=g).half(),
        torch.randn(slots, Hkv, D, generator=g).half(),
        torch.randint(0, slots, (requests, widest), generator=g).to(torch.int32),
        torch.randperm(requests, generator=g)[: len(rows)].to(torch.int32),
        (new.cumsum(0) - new).to(torch.int32),
        cached,
        new + cached,
        max(rows),
    )


EXAMPLES = [
    {"rows": (30, 80, 129), "Hq": 4, "Hkv": 2, "slots": 700, "requests": 9},
    {"rows": (31, 57, 412, 90), "Hq": 12, "Hkv": 6, "slots": 1103, "requests": 14},
    {"rows": (571, 77, 12, 41, 5), "Hq": 10, "Hkv": 5, "slots": 1409, "requests": 21},
]
SMALL = [{"rows": (20, 70), "Hq": 2, "Hkv": 1, "slots": 300, "requests": 4}]
