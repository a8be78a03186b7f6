"""Functions that are attention with steps around it, as models write them; `test_around.py` reads and runs every one.

Each entry of AROUND is a function f(q, k, v, *captured) and a function that makes its captured tensors from sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Maker = Callable[..., tuple[Tensor, ...]]
AROUND: dict[str, tuple[Callable[..., Tensor], Maker]] = {}


def around(captured: Maker = lambda **_: ()) -> Callable[[Any], Any]:
    def register(function: Any) -> Any:
        AROUND[function.__name__] = function, captured
        return function

    return register


# q and k changed before their product


@around(lambda M, N, D, **_: (torch.randn(max(M, N), D), torch.randn(max(M, N), D)))
def rotated(q, k, v, cos, sin):
    def rotate(x):
        a, b = x.chunk(2, -1)
        return x * cos[: x.shape[2]] + torch.cat((-b, a), -1) * sin[: x.shape[2]]

    return F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True)


@around()
def rotated_by_angles(q, k, v):
    half = q.shape[-1] // 2
    frequency = 1.0 / (10000 ** (torch.arange(half) / half))

    def rotate(x):
        angle = torch.arange(x.shape[2])[:, None] * frequency
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)

    return (rotate(q) @ rotate(k).mT * 0.3).softmax(-1) @ v


@around(lambda D, **_: (torch.rand(D) + 0.5, torch.rand(D) + 0.5))
def root_mean_square(q, k, v, q_weight, k_weight):
    def norm(x, weight):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight

    return F.scaled_dot_product_attention(norm(q, q_weight), norm(k, k_weight), v)


@around(lambda D, **_: (torch.rand(D) + 0.5, torch.randn(D)))
def layer_norm(q, k, v, weight, bias):
    q, k = F.layer_norm(q, q.shape[-1:], weight, bias), F.layer_norm(k, k.shape[-1:], weight, bias)
    return (q @ k.mT).softmax(-1) @ v


@around(lambda Hq, **_: (torch.rand(Hq, 1, 1) + 0.5,))
def cosine(q, k, v, scale):
    s = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT
    return (s * torch.clamp(scale, max=math.log(100.0)).exp()).softmax(-1) @ v


@around(lambda Hq, D, **_: (torch.randn(Hq, D),))
def content_bias(q, k, v, u):
    return (torch.einsum("bhid,bhjd->bhij", q + u[:, None], k) * 0.3).softmax(-1) @ v


@around()
def feature_maps(q, k, v):
    a = ((F.elu(q) + 1) @ (F.elu(k) + 1).mT).tril()
    return a / (a.sum(-1, keepdim=True) + 1e-6) @ v


@around()
def squared_distances(q, k, v):
    s = 2 * q @ k.mT - q.pow(2).sum(-1, keepdim=True) - k.pow(2).sum(-1)[..., None, :]
    return (s / 8).softmax(-1) @ v


@around()
def rolled_keys(q, k, v):
    return (q @ k.roll(1, 2).mT * 0.3).softmax(-1) @ v.roll(1, 2)


# Tensors that kernels cannot make


@around(lambda Hq, D, **_: (torch.randn(9, D),))
def clipped_relative_keys(q, k, v, table):
    m, n = q.shape[2], k.shape[2]
    distance = (torch.arange(m)[:, None] - torch.arange(n) + 4).clamp(0, 8)
    c2p = torch.gather(q @ table.t(), -1, distance.expand(*q.shape[:2], m, n))
    return ((q @ k.mT + c2p) * 0.2).softmax(-1) @ v


@around(lambda B, Hq, N, **_: (torch.randn(B, Hq, N),))
def forgetting(q, k, v, gates):
    decay = F.logsigmoid(gates).cumsum(-1)
    s = q @ k.mT * 0.3 + decay[..., : q.shape[2], None] - decay[..., None, :]
    return s.masked_fill(torch.ones(s.shape[-2:], dtype=torch.bool).triu(1), -math.inf).softmax(-1) @ v


@around(lambda N, **_: (torch.tensor([0, 2, 5, 9, 11, 12, 13, 14, 15, 16, 30]),))
def packed_documents(q, k, v, offsets):
    document = torch.searchsorted(offsets, torch.arange(k.shape[2]), right=True)
    same = document[: q.shape[2], None] == document
    return (q @ k.mT * 0.3).masked_fill(~same, -math.inf).softmax(-1) @ v


# The result


@around(lambda B, Hq, M, Dv, **_: (torch.randn(B, Hq, M, Dv),))
def gated(q, k, v, gate):
    return (q @ k.mT * 0.3).softmax(-1) @ v * torch.sigmoid(gate)


@around()
def with_a_residual(q, k, v):
    return q + (q @ k.mT * 0.3).softmax(-1) @ v


@around()
def merged_heads(q, k, v):
    o = (q @ k.mT * 0.3).softmax(-1) @ v
    return o.transpose(1, 2).reshape(q.shape[0], q.shape[2], -1)


@around(lambda **_: (torch.rand(()),))
def differential(q, k, v, factor):
    q1, q2 = q.chunk(2, -1)
    k1, k2 = k.chunk(2, -1)
    return ((q1 @ k1.mT).softmax(-1) - factor * (q2 @ k2.mT).softmax(-1)) @ v


# Python loops


@around()
def heads_one_by_one(q, k, v):
    outs = []
    for h in range(q.shape[1]):
        distance = (torch.arange(q.shape[2])[:, None] - torch.arange(k.shape[2])).abs()
        s = torch.bmm(q[:, h], k[:, h].mT) - 2.0 ** -(h + 1) * distance
        outs.append(torch.bmm(s.softmax(-1), v[:, h]))
    return torch.stack(outs, dim=1)


@around()
def heads_side_by_side(q, k, v):
    outs = [(q[:, h] @ k[:, h].mT * 0.3).softmax(-1) @ v[:, h] for h in range(q.shape[1])]
    return torch.cat(outs, dim=-1)


@around()
def batches_one_by_one(q, k, v):
    return torch.stack([(q[b] @ k[b].mT * 0.3).softmax(-1) @ v[b] for b in range(q.shape[0])])


@around(lambda D, **_: (torch.randn(3, 2, D), torch.randn(3, 2, D)))
def learned_keys_in_front(q, k, v, more_keys, more_values):
    k, v = (torch.cat((x.expand(q.shape[0], -1, -1, -1), y), 2) for x, y in ((more_keys, k), (more_values, v)))
    return (q @ k.mT * 0.3).softmax(-1) @ v
