"""Parts of the keys, as many as a sequence is long, merged by a second kernel; keys through a table of requests."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def part(
    q, k, v, table, request, lengths, sums, logs, scale, sq0, sq1, sk0, sk1, st, ss0, ss1, ss2, sl0, sl1,
    G: tl.constexpr, D: tl.constexpr, SIZE: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    b, h, number = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    d = tl.arange(0, D)
    mine, length = tl.load(request + b), tl.load(lengths + b)
    begin = number * SIZE
    end = tl.minimum(length, begin + SIZE)
    at = tl.load(q + b * sq0 + h * sq1 + d)
    steps = tl.where(end - begin <= 0, 0, end - begin + BN - 1) // BN
    peak = -float("inf")
    mass = 0.0
    acc = tl.zeros([D], tl.float32)
    for step in range(steps):
        j = begin + step * BN + tl.arange(0, BN)
        row = tl.load(table + mine * st + j, mask=j < end, other=0)
        key = tl.load(k + row[:, None] * sk0 + (h // G) * sk1 + d[None, :], mask=j[:, None] < end, other=0.0)
        s = tl.sum(at[None, :].to(tl.float32) * key, 1) * scale
        s = tl.where(j < end, s, float("-inf"))
        value = tl.load(v + row[:, None] * sk0 + (h // G) * sk1 + d[None, :], mask=j[:, None] < end, other=0.0)
        higher = tl.maximum(tl.max(s, 0), peak)
        p = tl.exp(s - higher)
        less = tl.exp(peak - higher)
        acc = acc * less + tl.sum(p[:, None] * value, 0)
        mass = mass * less + tl.sum(p, 0)
        peak = higher
    for _ in range(tl.where(steps != 0, 1, 0)):
        tl.store(sums + b * ss0 + h * ss1 + number * ss2 + d, acc / mass)
        tl.store(logs + b * sl0 + h * sl1 + number, peak + tl.log(mass))


@triton.jit
def merge(lengths, sums, logs, o, ss0, ss1, ss2, sl0, sl1, so0, so1, D: tl.constexpr, SIZE: tl.constexpr):
    b, h = tl.program_id(0), tl.program_id(1)
    d = tl.arange(0, D)
    peak = -float("inf")
    mass = 0.0
    acc = tl.zeros([D], tl.float32)
    for number in range(tl.cdiv(tl.load(lengths + b), SIZE)):
        there = tl.load(sums + b * ss0 + h * ss1 + number * ss2 + d)
        log = tl.load(logs + b * sl0 + h * sl1 + number)
        higher = tl.maximum(log, peak)
        less, share = tl.exp(peak - higher), tl.exp(log - higher)
        acc = acc * less + share * there
        mass = mass * less + share
        peak = higher
    tl.store(o + b * so0 + h * so1 + d, (acc / mass).to(o.dtype.element_ty))


def launch(q, k, v, table, request, lengths, longest):
    batch, heads, D = q.shape
    parts = triton.cdiv(longest, 128)
    sums = torch.empty(batch, heads, parts, D, dtype=torch.float32)
    logs = torch.empty(batch, heads, parts, dtype=torch.float32)
    o = torch.empty_like(q)
    part[(batch, heads, parts)](
        q, k, v, table, request, lengths, sums, logs, D**-0.5, *q.stride()[:2], *k.stride()[:2], table.stride(0),
        *sums.stride()[:3], *logs.stride()[:2], G=heads // k.shape[1], D=D, SIZE=128, BN=32,
    )  # fmt: skip
    merge[(batch, heads)](
        lengths, sums, logs, o, *sums.stride()[:3], *logs.stride()[:2], *o.stride()[:2], D=D, SIZE=128
    )
    return o


def inputs(B=3, Hq=4, Hkv=2, slots=900, requests=12, longest=300, D=32):
    g = torch.Generator().manual_seed(0)
    return (
        torch.randn(B, Hq, D, generator=g).half(),
        torch.randn(slots, Hkv, D, generator=g).half(),
        torch.randn(slots, Hkv, D, generator=g).half(),
        torch.randint(0, slots, (requests, longest), generator=g).to(torch.int32),
        torch.randperm(requests, generator=g)[:B].to(torch.int32),
        torch.randint(1, longest, (B,), generator=g).to(torch.int32),
        longest,
    )


EXAMPLES = [
    {"B": 3, "Hq": 4, "Hkv": 2, "slots": 900, "requests": 12, "longest": 300},
    {"B": 5, "Hq": 12, "Hkv": 6, "slots": 1103, "requests": 17, "longest": 511},
    {"B": 7, "Hq": 10, "Hkv": 5, "slots": 1409, "requests": 23, "longest": 907},
]
SMALL = [{"B": 2, "Hq": 2, "Hkv": 1, "slots": 300, "requests": 3, "longest": 200}]
