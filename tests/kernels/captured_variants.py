"""Functions that learn: one for each way in which a captured tensor's gradient is added up, and the tensors it takes."""

from __future__ import annotations

import torch
from torch import Tensor


def positions(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    return torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])[None, :]


def scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).mT * q.shape[-1] ** -0.5


def weighted(p: Tensor, v: Tensor) -> Tensor:
    return p @ v.repeat_interleave(p.shape[1] // v.shape[1], 1)


def causal(x: Tensor, q: Tensor, k: Tensor) -> Tensor:
    i, j = positions(q, k)
    return x.masked_fill(j > i, -torch.inf)


# Elements of their own, and elements that heads and batches share


def whole_bias(q, k, v, bias):
    return weighted(causal(scores(q, k) + bias, q, k).softmax(-1), v)


def shared_bias(q, k, v, bias):
    i, j = positions(q, k)
    x = (scores(q, k) + bias).masked_fill((j > i) | (j <= i - 40), -torch.inf)
    return weighted(x.softmax(-1), v)


def grouped_bias(q, k, v, bias):
    x = scores(q, k) + bias.repeat_interleave(q.shape[1] // bias.shape[0], 0)
    return weighted(x.softmax(-1), v)


def turned_bias(q, k, v, bias):
    return weighted((scores(q, k) + bias.mT).softmax(-1), v)


def both_ways(q, k, v, bias):
    return weighted((scores(q, k) + bias - 0.5 * bias.mT).softmax(-1), v)


def diagonal_bias(q, k, v, bias):
    h = torch.arange(q.shape[1])
    return weighted((scores(q, k) + bias[h, h]).softmax(-1), v)


def repeated_row(q, k, v, bias):
    i, _ = positions(q, k)
    return weighted((scores(q, k) + bias[i[:, 0], i[:, 0]]).softmax(-1), v)


# Rows, columns, heads, scalars


def row_temperature(q, k, v, temperature):
    return weighted(causal(scores(q, k) * temperature[:, None], q, k).softmax(-1), v)


def key_bias(q, k, v, bias, doc):
    keep = doc[:, None, :, None] == doc[:, None, None, :]
    return weighted((scores(q, k) + bias[:, None, None, :]).masked_fill(~keep, -torch.inf).softmax(-1), v)


def row_and_key(q, k, v, position):
    distance = position[:, None] - position[None, :]
    return weighted((scores(q, k) * torch.sigmoid(distance)).softmax(-1), v)


def slopes(q, k, v, slopes):
    i, j = positions(q, k)
    return weighted(causal(scores(q, k) + slopes[:, None, None] * (j - i), q, k).softmax(-1), v)


def grouped_slopes(q, k, v, slopes):
    i, j = positions(q, k)
    each = slopes.repeat_interleave(q.shape[1] // slopes.shape[0])
    return weighted((scores(q, k) - each[:, None, None] * (i - j).abs()).softmax(-1), v)


def softcap(q, k, v, cap):
    return weighted(causal(cap * torch.tanh(scores(q, k) / cap), q, k).softmax(-1), v)


def coefficients(q, k, v, c):
    s = scores(q, k)
    return weighted(causal(c[0] * s + c[2] * torch.tanh(s), q, k).softmax(-1), v)


def sinks(q, k, v, sinks):
    s = causal(scores(q, k), q, k)
    column = sinks[None, :, None, None].expand(s.shape[0], -1, s.shape[2], 1)
    return weighted(torch.cat([s, column], -1).softmax(-1)[..., :-1], v)


# Computed places


def relative(q, k, v, table):
    i, j = positions(q, k)
    bias = table[i - j + (table.shape[0] - 1) // 2].permute(2, 0, 1)
    return weighted((scores(q, k) + bias).softmax(-1), v)


def buckets(q, k, v, table):
    i, j = positions(q, k)
    return weighted(causal(scores(q, k) + table[((i - j).clamp(min=0) // 8).clamp(max=7)], q, k).softmax(-1), v)


def document_temperature(q, k, v, temperature, doc):
    return weighted((scores(q, k) * temperature[doc][:, None, :, None]).softmax(-1), v)


def kind_of_key(q, k, v, bias, kind):
    return weighted(causal(scores(q, k) + bias[kind][:, None, None, :], q, k).softmax(-1), v)


def pooled_bias(q, k, v, bias):
    _, j = positions(q, k)
    return weighted((scores(q, k) + bias[:, j[0] // 16]).softmax(-1), v)


def permuted_bias(q, k, v, bias, order):
    return weighted((scores(q, k) + bias[order[:, None], order[None, :]]).softmax(-1), v)


# Other normalisers, and what comes after them


def gate(q, k, v, gate):
    return weighted(causal(scores(q, k), q, k).softmax(-1) * gate[:, None, None], v)


def mixed_gate(q, k, v, gate):
    return weighted((scores(q, k) + gate).softmax(-1) * torch.sigmoid(gate), v)


def sigmoid_bias(q, k, v, bias):
    return weighted(torch.sigmoid(scores(q, k) + bias), v)


def relu_share(q, k, v, bias):
    i, j = positions(q, k)
    w = torch.relu(scores(q, k) + bias).masked_fill(j > i, 0.0)
    return weighted(w / (w.sum(-1, keepdim=True) + 1e-3), v)


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))) * scale


def documents(b: int, n: int) -> Tensor:
    return (torch.arange(n) * 3 // n).expand(b, n).contiguous()


# function, its captured tensors for (B, Hq, M, N), and whether M = N is needed
VARIANTS = {
    whole_bias: lambda b, h, m, n: (draw(b, h, m, n),),
    shared_bias: lambda b, h, m, n: (draw(m, n),),
    grouped_bias: lambda b, h, m, n: (draw(h // 2, m, n),),
    turned_bias: lambda b, h, m, n: (draw(1, h, n, m),),
    both_ways: lambda b, h, m, n: (draw(m, m),),
    diagonal_bias: lambda b, h, m, n: (draw(h, h, m, n),),
    repeated_row: lambda b, h, m, n: (draw(m, m, n),),
    row_temperature: lambda b, h, m, n: (draw(m).exp(),),
    key_bias: lambda b, h, m, n: (draw(b, n), documents(b, n)),
    row_and_key: lambda b, h, m, n: (draw(n),),
    slopes: lambda b, h, m, n: (draw(h).abs() * 0.1,),
    grouped_slopes: lambda b, h, m, n: (draw(h // 2).abs() * 0.1,),
    softcap: lambda b, h, m, n: (torch.tensor(2.5),),
    coefficients: lambda b, h, m, n: (draw(4),),
    sinks: lambda b, h, m, n: (draw(h),),
    relative: lambda b, h, m, n: (draw(2 * max(m, n) + 1, h),),
    buckets: lambda b, h, m, n: (draw(8),),
    document_temperature: lambda b, h, m, n: (draw(5).exp(), documents(b, m)),
    kind_of_key: lambda b, h, m, n: (draw(6), documents(b, n) * 2),
    pooled_bias: lambda b, h, m, n: (draw(m, n // 16 + 1),),
    permuted_bias: lambda b, h, m, n: (draw(n, n), torch.arange(n).flip(0)),
    gate: lambda b, h, m, n: (draw(h),),
    mixed_gate: lambda b, h, m, n: (draw(m, n),),
    sigmoid_bias: lambda b, h, m, n: (torch.tensor([-1.5]),),
    relu_share: lambda b, h, m, n: (draw(h, 1, 1) * 0.1 + 0.5,),
}  # fmt: skip
SQUARE = frozenset({both_ways, row_and_key, key_bias, permuted_bias, document_temperature, row_temperature})
