"""One query row of one head in an instance, products by sums, keys by a list of rows in which sequences follow."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def decode(
    q, k, v, o, places, start, scale, sq0, sq1, sk0, sk1, G: tl.constexpr, D: tl.constexpr, BN: tl.constexpr
):  # fmt: skip
    b, h = tl.program_id(0), tl.program_id(1)
    d = tl.arange(0, D)
    at = tl.load(q + b * sq0 + h * sq1 + d).to(tl.float32)
    first = tl.load(start + b)
    length = tl.load(start + b + 1) - first
    peak = -float("inf")
    mass = 0.0
    acc = tl.zeros([D], tl.float32)
    for begin in range(0, length, BN):
        j = begin + tl.arange(0, BN)
        row = tl.load(places + first + j, mask=j < length, other=0)
        key = tl.load(k + row[:, None] * sk0 + (h // G) * sk1 + d[None, :], mask=j[:, None] < length, other=0.0)
        s = tl.sum(at[None, :] * key, 1) * scale
        s = tl.where(j < length, s, float("-inf"))
        higher = tl.maximum(tl.max(s, 0), peak)
        less = tl.exp(peak - higher)
        p = tl.exp(s - higher)
        value = tl.load(v + row[:, None] * sk0 + (h // G) * sk1 + d[None, :], mask=j[:, None] < length, other=0.0)
        acc = acc * less + tl.sum(p[:, None] * value, 0)
        mass = mass * less + tl.sum(p, 0)
        peak = higher
    tl.store(o + b * sq0 + h * sq1 + d, (acc / mass).to(o.dtype.element_ty))


def launch(q, k, v, places, start):
    o = torch.empty_like(q)
    batch, heads, D = q.shape
    decode[(batch, heads)](
        q, k, v, o, places, start, D**-0.5, *q.stride()[:2], *k.stride()[:2], G=heads // k.shape[1], D=D, BN=64
    )
    return o


def inputs(lengths=(30, 80, 129), Hq=4, Hkv=2, slots=700, D=32):
    g = torch.Generator().manual_seed(0)
    return (
        torch.randn(len(lengths), Hq, D, generator=g).half(),
        torch.randn(slots, Hkv, D, generator=g).half(),
        torch.randn(slots, Hkv, D, generator=g).half(),
        torch.randint(0, slots, (sum(lengths),), generator=g).to(torch.int32),
        torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32),
    )


EXAMPLES = [
    {"lengths": (30, 80, 129), "Hq": 4, "Hkv": 2, "slots": 700},
    {"lengths": (31, 57, 212, 90), "Hq": 12, "Hkv": 6, "slots": 1103},
    {"lengths": (311, 77, 12, 41, 5), "Hq": 10, "Hkv": 5, "slots": 1409},
]
SMALL = [{"lengths": (20, 70), "Hq": 2, "Hkv": 1, "slots": 300}]
