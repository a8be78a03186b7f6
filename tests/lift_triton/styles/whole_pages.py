"""Whole pages of a cache, one a step, heads of a group as rows padded to a tile, keys past the end masked in scores."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def pages(
    q, k, v, o, table, lengths, scale, sq0, sq1, sk0, sk1, sk2, st, G: tl.constexpr, D: tl.constexpr,
    PAGE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    b, g = tl.program_id(0), tl.program_id(1)
    d, r, c = tl.arange(0, D), tl.arange(0, ROWS), tl.arange(0, PAGE)
    length = tl.load(lengths + b)
    at = tl.load(q + b * sq0 + (g * G + r[:, None]) * sq1 + d[None, :], mask=r[:, None] < G, other=0.0)
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    mass = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, D], tl.float32)
    for number in range(tl.cdiv(length, PAGE)):
        page = tl.load(table + b * st + number)
        key = tl.load(k + page * sk0 + c[None, :] * sk1 + g * sk2 + d[:, None])
        value = tl.load(v + page * sk0 + c[:, None] * sk1 + g * sk2 + d[None, :])
        s = tl.where((number * PAGE + c)[None, :] < length, tl.dot(at, key) * scale, float("-inf"))
        higher = tl.maximum(peak, tl.max(s, 1))
        p = tl.exp(s - higher[:, None])
        less = tl.exp(peak - higher)
        mass = mass * less + tl.sum(p, 1)
        acc = acc * less[:, None] + tl.dot(p.to(value.dtype), value)
        peak = higher
    acc = acc / mass[:, None]
    tl.store(o + b * sq0 + (g * G + r[:, None]) * sq1 + d[None, :], acc.to(o.dtype.element_ty), mask=r[:, None] < G)


def launch(q, k, v, table, lengths):
    o = torch.empty_like(q)
    batch, heads, D = q.shape
    pages[(batch, k.shape[2])](
        q, k, v, o, table, lengths, D**-0.5, *q.stride()[:2], *k.stride()[:3], table.stride(0),
        G=heads // k.shape[2], D=D, PAGE=k.shape[1], ROWS=16,
    )  # fmt: skip
    return o


def inputs(B=3, Hq=8, Hkv=2, slots=40, most=7, D=32):
    g = torch.Generator().manual_seed(0)
    return (
        torch.randn(B, Hq, D, generator=g).half(),
        torch.randn(slots, 16, Hkv, D, generator=g).half(),
        torch.randn(slots, 16, Hkv, D, generator=g).half(),
        torch.randint(0, slots, (B, most), generator=g).to(torch.int32),
        torch.randint(1, 16 * most, (B,), generator=g).to(torch.int32),
    )


EXAMPLES = [
    {"B": 3, "Hq": 8, "Hkv": 2, "slots": 40, "most": 7},
    {"B": 5, "Hq": 24, "Hkv": 6, "slots": 61, "most": 11},
    {"B": 7, "Hq": 20, "Hkv": 5, "slots": 97, "most": 13},
]
SMALL = [{"B": 2, "Hq": 4, "Hkv": 1, "slots": 12, "most": 3}]
