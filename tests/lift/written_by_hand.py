"""Attention functions as people write them, in many dialects; `test_lift.py` lifts every one.

Each entry of VARIANTS is a function f(q, k, v, *captured) and a function that makes its captured tensors
from (B, Hq, Hkv, M, N).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, einsum, nn

Maker = Callable[..., tuple[Tensor, ...]]
VARIANTS: dict[str, tuple[Callable[..., Tensor], Maker]] = {}


def variant(captured: Maker = lambda **_: ()) -> Callable[[Any], Any]:
    def register(function: Any) -> Any:
        VARIANTS[function.__name__] = function, captured
        return function

    return register


# Softmax, spelled in different ways


@variant()
def textbook(q, k, v):
    scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(q.size(-1))
    return torch.matmul(F.softmax(scores, dim=-1), v)


@variant()
def by_hand_with_max(q, k, v):
    s = q @ k.mT * q.shape[-1] ** -0.5
    s = s - s.max(dim=-1, keepdim=True)[0]
    e = s.exp()
    return (e / e.sum(dim=-1, keepdim=True)) @ v


@variant()
def divided_last(q, k, v):
    s = einsum("b h i d, b h j d -> b h i j", q, k)
    m = torch.amax(s, dim=-1, keepdim=True).detach()
    p = torch.exp(s - m)
    return einsum("b h i j, b h j d -> b h i d", p, v) / p.sum(-1).unsqueeze(-1)


@variant()
def log_space(q, k, v):
    logits = (q * 0.2) @ k.transpose(2, 3)
    return F.log_softmax(logits, dim=-1).exp() @ v


@variant()
def through_logsumexp(q, k, v):
    logits = q @ k.transpose(2, 3) * 0.2
    return torch.exp(logits - torch.logsumexp(logits, -1, keepdim=True)) @ v


@variant()
def base_two(q, k, v):
    s = q @ k.mT * (0.3 * math.log2(math.e))
    p = torch.exp2(s - s.amax(-1, keepdim=True))
    return p @ v / p.sum(-1, keepdim=True)


@variant()
def upcast_and_back(q, k, v):
    w = torch.matmul(q, k.transpose(2, 3)) * 0.125
    w = nn.functional.softmax(w, dim=-1, dtype=torch.float32).to(q.dtype)
    w = nn.functional.dropout(w, p=0.1, training=False)
    return torch.matmul(w, v)


@variant()
def inplace_everything(q, k, v):
    s = q @ k.mT
    s *= 0.25
    s.sub_(s.amax(-1, keepdim=True)).exp_()
    s /= s.sum(-1, keepdim=True)
    return s @ v


@variant()
def two_scales(q, k, v):
    scale = q.shape[-1] ** -0.25
    return torch.softmax((q * scale) @ (k * scale).transpose(-1, -2), -1) @ v


@variant()
def merged_batches(q, k, v):
    b, h, m, d = q.shape
    n = k.shape[2]
    q, k, v = q.reshape(b * h, m, d), k.reshape(b * h, n, d), v.reshape(b * h, n, v.shape[-1])
    s = torch.bmm(q, k.transpose(1, 2)).mul_(d**-0.5)
    return torch.bmm(s.softmax(-1), v).view(b, h, m, -1)


@variant()
def baddbmm_scaled(q, k, v):
    b, h, m, _ = q.shape
    n = k.shape[2]
    empty = torch.empty(b * h, m, n, dtype=q.dtype)
    s = torch.baddbmm(empty, q.flatten(0, 1), k.flatten(0, 1).transpose(-1, -2), beta=0, alpha=0.3)
    return torch.bmm(s.softmax(dim=-1), v.flatten(0, 1)).unflatten(0, (b, h))


@variant()
def heads_last_inside(q, k, v):
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    s = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
    return torch.einsum("bhqk,bkhd->bqhd", s.softmax(-1), v).transpose(1, 2)


@variant()
def keys_first(q, k, v):
    s = (k @ q.transpose(-1, -2)).softmax(dim=-2)
    return s.transpose(-1, -2) @ v


@variant()
def multiply_and_sum(q, k, v):
    s = (q[:, :, :, None, :] * k[:, :, None, :, :]).sum(-1)
    w = s.softmax(-1)
    return (w[..., None] * v[:, :, None]).sum(-2)


@variant()
def library_function(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, scale=0.3)


# Masks


@variant()
def causal_by_tril(q, k, v):
    t = q.size(-2)
    att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
    att = att.masked_fill(torch.tril(torch.ones(t, t)).view(1, 1, t, t) == 0, float("-inf"))
    return F.softmax(att, dim=-1) @ v


@variant()
def causal_by_adding_triu(q, k, v):
    s = q @ k.mT * 0.25 + torch.triu(torch.full((q.shape[2], k.shape[2]), float("-inf")), diagonal=1)
    return s.softmax(-1) @ v


@variant()
def causal_bottom_right(q, k, v):
    m, n = q.shape[-2], k.shape[-2]
    keep = torch.ones(m, n, dtype=torch.bool).tril(diagonal=n - m)
    return torch.where(keep, q @ k.mT, torch.finfo(q.dtype).min).softmax(-1) @ v


@variant()
def causal_by_offset(q, k, v):
    s = q @ k.mT * 0.3
    offset = k.shape[2] - q.shape[2]
    rows = torch.arange(q.shape[2])[:, None] + offset
    s = s.masked_fill(rows < torch.arange(k.shape[2]), -1e30)
    return s.softmax(-1) @ v


@variant()
def documented_definition(q, k, v):
    L, S = q.size(-2), k.size(-2)
    attn_bias = torch.zeros(L, S, dtype=q.dtype)
    temp_mask = torch.ones(L, S, dtype=torch.bool).tril(diagonal=0)
    attn_bias.masked_fill_(temp_mask.logical_not(), float("-inf"))
    w = q @ k.transpose(-2, -1) * (1 / math.sqrt(q.size(-1)))
    w += attn_bias
    return torch.softmax(w, dim=-1) @ v


@variant()
def sliding_window(q, k, v):
    i, j = torch.arange(q.shape[2]).unsqueeze(1), torch.arange(k.shape[2]).unsqueeze(0)
    keep = (j <= i) & (i - j < 4)
    return (q @ k.mT * 0.3).masked_fill(~keep, -torch.inf).softmax(-1) @ v


@variant()
def window_on_both_sides(q, k, v):
    distance = (torch.arange(q.shape[2])[:, None] - torch.arange(k.shape[2])[None, :]).abs()
    return (q @ k.mT * 0.3).masked_fill(distance > 3, float("-inf")).softmax(-1) @ v


@variant()
def chunks(q, k, v):
    i, j = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])
    same = torch.div(i, 4, rounding_mode="floor") == j // 4
    return (q @ k.mT * 0.3).where(same & (i >= j), -math.inf).softmax(-1) @ v


@variant()
def dilated(q, k, v):
    i, j = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])
    keep = ((i - j) % 2 == 0) & (j <= i)
    return (q @ k.mT).masked_fill(keep.logical_not(), float("-inf")).softmax(-1) @ v


@variant()
def first_tokens_and_window(q, k, v):
    i, j = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])
    keep = torch.logical_or(j < 2, i - j <= 3) & torch.ge(i, j)
    return torch.where(keep, q @ k.mT * 0.3, torch.tensor(float("-inf"))).softmax(-1) @ v


@variant(lambda M, N, **_: (torch.arange(M).view(-1, 1) >= torch.arange(N).view(1, -1),))
def captured_bool(q, k, v, allowed):
    return (q @ k.mT * 0.3).masked_fill(~allowed, float("-inf")).softmax(-1) @ v


@variant(lambda B, M, N, **_: (torch.randn(B, 1, M, N),))
def captured_additive(q, k, v, mask):
    return F.softmax(q @ k.mT * 0.3 + mask, dim=-1) @ v


@variant(lambda B, N, **_: (torch.arange(N).expand(B, N) < N - 1,))
def key_padding(q, k, v, keep):
    s = q @ k.mT * 0.3
    s = s.masked_fill(keep[:, None, None, :] == False, -1e9)  # noqa: E712
    return s.softmax(-1) @ v


@variant(lambda B, N, **_: (torch.arange(N).expand(B, N) < N - 1,))
def inverted_padding(q, k, v, attention_mask):
    extended = (1.0 - attention_mask[:, None, None, :].to(q.dtype)) * torch.finfo(q.dtype).min
    return F.softmax(q @ k.mT * 0.3 + extended, dim=-1) @ v


@variant(lambda B, **_: (torch.arange(B) % 3 + 3,))
def lengths(q, k, v, seqlens):
    valid = torch.arange(k.shape[2])[None, :] < seqlens[:, None]
    return (q @ k.mT).masked_fill(~valid[:, None, None], float("-inf")).softmax(-1) @ v


@variant(lambda B, N, **_: (torch.randint(0, 2, (B, N)), torch.randint(0, 2, (B, N))))
def documents(q, k, v, q_ids, k_ids):
    keep = q_ids[:, None, : q.shape[2], None] == k_ids[:, None, None, :]
    return (q @ k.mT).masked_fill(~keep, float("-inf")).softmax(-1).nan_to_num(0.0) @ v


@variant(lambda B, **_: (torch.arange(B) % 3 + 1,))
def prefix_lm(q, k, v, prefix):
    i, j = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])[None, :]
    keep = (j <= i)[None, None] | (j < prefix.view(-1, 1, 1, 1))
    return torch.where(keep, q @ k.mT * 0.3, -1e10).softmax(-1) @ v


@variant()
def written_into(q, k, v):
    mask = torch.zeros(q.shape[2], k.shape[2])
    mask[:, 3:] = float("-inf")
    mask[-1] = 0.0
    mask[:, 0] = 1.0
    return (q @ k.mT * 0.3 + mask).softmax(-1) @ v


@variant()
def boolean_assignment(q, k, v):
    s = q @ k.mT * 0.3
    i, j = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])
    s[(j > i).expand_as(s)] = -float("inf")
    return s.softmax(-1) @ v


@variant()
def masked_and_renormalised(q, k, v):
    p = (q @ k.mT * 0.3).softmax(-1)
    p = p * torch.ones_like(p).tril()
    return (p / p.sum(-1, keepdim=True)) @ v


@variant()
def gpt2_style(q, k, v):
    w = q @ k.transpose(-1, -2) / math.sqrt(v.size(-1))
    nd, ns = w.size(-2), w.size(-1)
    b = torch.tril(torch.ones(ns, ns)).view(1, 1, ns, ns)[:, :, ns - nd : ns, :ns]
    w = w * b - 1e10 * (1 - b)
    return nn.Softmax(dim=-1)(w) @ v


@variant()
def mild_mask(q, k, v):
    w = q @ k.transpose(-1, -2)
    keep = torch.ones(w.shape[-2:]).tril()
    return torch.softmax(w * keep + -10.0 * (1 - keep), -1) @ v


@variant(lambda M, N, **_: (torch.rand(M, N) > 0.3,))
def rows_without_keys(q, k, v, keep):
    s = (q @ k.mT).masked_fill(~keep, float("-inf"))
    p = s.softmax(-1)
    p = torch.where(keep.any(-1, keepdim=True), p, 0.0)
    return p @ v


# Scores that are changed


@variant()
def softcap(q, k, v):
    s = q @ k.mT * q.shape[-1] ** -0.5
    s = s / 20.0
    s = torch.tanh(s)
    s = s * 20.0
    return s.softmax(-1) @ v


@variant(lambda Hq, **_: (torch.rand(Hq),))
def alibi(q, k, v, slopes):
    context = torch.arange(q.shape[2])[:, None]
    memory = torch.arange(k.shape[2])[None, :]
    relative = torch.abs(memory - context)
    bias = -slopes.unsqueeze(1).unsqueeze(1) * relative.unsqueeze(0)
    return torch.softmax(q @ k.mT * 0.25 + bias, dim=-1) @ v


@variant()
def alibi_slopes_inside(q, k, v):
    heads = q.shape[1]
    slopes = 2.0 ** (-8.0 / heads * torch.arange(1, heads + 1))
    distance = torch.arange(k.shape[2])[None, :] - torch.arange(q.shape[2])[:, None]
    return torch.softmax(q @ k.mT + slopes[:, None, None] * distance, dim=-1) @ v


@variant()
def alibi_by_lists(q, k, v):
    slopes = torch.tensor(slopes_of(q.shape[1]), dtype=q.dtype)
    distance = torch.arange(k.shape[2])[None, :] - torch.arange(q.shape[2])[:, None]
    return torch.softmax(q @ k.mT + slopes[:, None, None] * distance, dim=-1) @ v


def slopes_of(n):
    def power_of_two(n):
        start = 2 ** (-(2 ** -(math.log2(n) - 3)))
        return [start * start**i for i in range(n)]

    if math.log2(n).is_integer():
        return power_of_two(n)
    closest = 2 ** math.floor(math.log2(n))
    return power_of_two(closest) + slopes_of(2 * closest)[0::2][: n - closest]


@variant()
def scale_per_head(q, k, v):
    scales = torch.tensor([1.0, 0.5, 0.25]).view(1, -1, 1, 1)
    return (q @ k.mT * scales).softmax(-1) @ v


@variant(lambda Hq, N, **_: (torch.rand(Hq, 1, N),))
def bloom(q, k, v, alibi):
    b, h, m, d = q.shape
    n = k.shape[2]
    bias = alibi.repeat(b, 1, 1)
    s = bias.baddbmm(
        batch1=q.reshape(b * h, m, d), batch2=k.reshape(b * h, n, d).transpose(1, 2), beta=1.0, alpha=d**-0.5
    )
    p = F.softmax(s.view(b, h, m, n), dim=-1, dtype=torch.float32).to(q.dtype)
    return torch.bmm(p.view(b * h, m, n), v.reshape(b * h, n, d)).view(b, h, m, d)


@variant(lambda Hq, **_: (torch.randn(32, Hq),))
def t5_buckets(q, k, v, table):
    context = torch.arange(q.shape[2], dtype=torch.long)[:, None]
    memory = torch.arange(k.shape[2], dtype=torch.long)[None, :]
    relative = memory - context
    buckets = (relative > 0).to(torch.long) * 16
    relative = torch.abs(relative)
    large = 8 + (torch.log(relative.float() / 8) / math.log(128 / 8) * 8).to(torch.long)
    large = torch.min(large, torch.full_like(large, 15))
    buckets += torch.where(relative < 8, relative, large)
    bias = F.embedding(buckets, table).permute(2, 0, 1).unsqueeze(0)
    return (q @ k.mT + bias).softmax(-1) @ v


@variant(lambda Hq, M, N, **_: (torch.randn(2 * max(M, N) + 1, Hq),))
def relative_table(q, k, v, table):
    i, j = torch.arange(q.shape[2]), torch.arange(k.shape[2])
    center = table.shape[0] // 2
    index = (i[:, None] - j[None, :] + center).clamp(0, table.shape[0] - 1)
    bias = table[index].permute(2, 0, 1)
    return (q @ k.mT * 0.3 + bias).softmax(-1) @ v


@variant(lambda Hq, N, **_: (torch.randn(5 * 5, Hq), torch.randint(0, 25, (N, N))))
def swin(q, k, v, relative_position_bias_table, relative_position_index):
    n = k.shape[2]
    q = q * 0.25
    attn = q @ k.transpose(-2, -1)
    bias = relative_position_bias_table[relative_position_index.view(-1)].view(n, n, -1)
    attn = attn + bias.permute(2, 0, 1).contiguous().unsqueeze(0)
    return nn.functional.softmax(attn, dim=-1) @ v


@variant(lambda B, N, **_: (torch.rand(B, N) + 0.1,))
def key_weights(q, k, v, weights):
    return torch.softmax(q @ k.mT * 0.3 + weights.log()[:, None, None, :], -1) @ v


@variant(lambda Hq, **_: (torch.rand(Hq, 1, 1),))
def temperature_per_head(q, k, v, temperature):
    return ((q @ k.transpose(-2, -1)) * temperature).softmax(dim=-1) @ v


@variant(lambda **_: (torch.tensor(0.4),))
def scalar_temperature(q, k, v, log_scale):
    return torch.softmax(q @ k.mT * log_scale.exp().clamp(max=100.0), -1) @ v


@variant()
def scaled_by_length(q, k, v):
    return torch.softmax(q @ k.mT * (math.log(k.shape[2]) / math.sqrt(q.shape[-1])), -1) @ v


@variant()
def distance_decay(q, k, v):
    i = torch.arange(q.shape[2], dtype=q.dtype)[:, None]
    j = torch.arange(k.shape[2], dtype=q.dtype)[None]
    return torch.softmax(q @ k.mT - 0.1 * (i - j) ** 2, -1) @ v


# One more logit


@variant(lambda Hq, **_: (torch.randn(Hq),))
def sinks(q, k, v, sinks):
    w = torch.matmul(q, k.transpose(2, 3)) * 0.25
    s = sinks.reshape(1, -1, 1, 1).expand(q.shape[0], -1, q.shape[-2], -1)
    c = torch.cat([w, s], dim=-1)
    c = c - c.max(dim=-1, keepdim=True).values
    p = F.softmax(c, dim=-1, dtype=c.dtype)
    return torch.matmul(p[..., :-1], v)


@variant(lambda Hq, **_: (torch.randn(Hq),))
def sink_in_front(q, k, v, sink):
    s = q @ k.mT * 0.25
    s = s.masked_fill(torch.ones(s.shape[-2:]).triu(1).bool(), -math.inf)
    column = sink[None, :, None, None].expand(*s.shape[:-1], 1)
    p = torch.cat((column, s), -1).softmax(-1)[..., 1:]
    return p @ v


@variant()
def softmax_plus_one(q, k, v):
    s = q @ k.mT * 0.3
    m = s.amax(-1, keepdim=True).clamp(min=0)
    e = torch.exp(s - m)
    return e @ v / (e.sum(-1, keepdim=True) + torch.exp(-m))


@variant()
def zero_column(q, k, v):
    s = F.pad(q @ k.mT * 0.3, (1, 0))
    return s.softmax(-1)[..., 1:] @ v


@variant()
def zero_key_and_value(q, k, v):
    k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
    return (q @ k.mT * 0.3).softmax(-1) @ v


# Not softmax


@variant()
def sigmoid(q, k, v):
    return torch.sigmoid(q @ k.mT * 0.3 - math.log(k.shape[-2])) @ v


@variant()
def relu_over_length(q, k, v):
    return F.relu(q @ k.mT * 0.3) / k.shape[-2] @ v


@variant()
def squared_relu_causal(q, k, v):
    s = q @ k.mT * 0.3
    s = s.masked_fill(torch.ones_like(s, dtype=torch.bool).triu(1), float("-inf"))
    return F.relu(s).square() @ v


@variant()
def laplace(q, k, v):
    s = q @ k.mT / k.shape[2]
    w = 0.5 * (1.0 + torch.erf((s - math.sqrt(0.5)) / (math.sqrt(0.25 / math.pi) * math.sqrt(2.0))))
    return w @ v


@variant()
def no_nonlinearity(q, k, v):
    s = q @ k.mT * 0.3
    return s.tril() @ v


@variant(lambda Hq, **_: (torch.rand(Hq) * 0.5 + 0.4,))
def retention(q, k, v, gamma):
    i, j = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])[None]
    decay = torch.where(i >= j, gamma[:, None, None] ** (i - j), 0.0)
    return (q @ k.mT * decay) @ v


@variant()
def relu_normalised(q, k, v):
    w = F.relu(q @ k.mT) ** 2
    return w / (w.sum(-1, keepdim=True) + 1e-3) @ v


@variant()
def relu_with_a_guard(q, k, v):
    w = F.relu(q @ k.mT - 1.0)
    total = w.sum(-1, keepdim=True)
    return w / torch.where(total == 0, torch.ones_like(total), total) @ v


@variant()
def softplus_weights(q, k, v):
    w = F.softplus(q @ k.mT * 0.3)
    return (w / w.sum(-1, keepdim=True)) @ v


@variant()
def cubic_weights(q, k, v):
    s = q @ k.mT * 0.1
    return (s + s**3 / 6) @ v


# From popular repositories, in their manner


@variant()
def finfo_max_and_shifted_triangle(q, k, v):
    sim = einsum("b h i d, b h j d -> b h i j", q, k) * q.shape[-1] ** -0.5
    mask_value = -torch.finfo(sim.dtype).max
    i, j = sim.shape[-2:]
    causal_mask = torch.ones((i, j), dtype=torch.bool).triu(j - i + 1)
    sim = sim.masked_fill(causal_mask, mask_value)
    attn = sim.softmax(dim=-1, dtype=torch.float32)
    return einsum("b h i j, b h j d -> b h i d", attn.type(sim.dtype), v)


@variant()
def ones_times_infinity(q, k, v):
    mask = torch.triu(torch.ones(q.shape[2], k.shape[2]) * float("-inf"), diagonal=1)
    return (q @ k.mT + mask).softmax(-1) @ v


@variant()
def band_of_ones(q, k, v):
    band = torch.ones(q.shape[2], k.shape[2]).triu(-2).tril(2)
    return (q @ k.mT).masked_fill(band == 0, -1e9).softmax(-1) @ v


@variant()
def zeros_of_tril(q, k, v):
    w = (q @ k.mT).tril()
    return w.masked_fill(w == 0, float("-inf")).softmax(-1) @ v


@variant()
def scale_by_row(q, k, v):
    scale = torch.log(torch.arange(2, q.shape[2] + 2)) / math.log(512)
    return (q @ k.mT * scale[:, None]).softmax(-1) @ v


@variant(lambda M, N, **_: (torch.randn(1, 1, M + 3, N + 2),))
def last_rows_of_a_mask(q, k, v, mask):
    return (q @ k.mT + mask[:, :, -q.shape[2] :, : k.shape[2]]).softmax(-1) @ v


@variant()
def rounded_to_bf16(q, k, v):
    p = (q @ k.mT).to(torch.float32).softmax(-1).to(torch.bfloat16)
    return (p.float() @ v.float()).to(q.dtype)


@variant()
def einsum_in_another_order(q, k, v):
    a = torch.einsum("bhid,bhjd->bijh", q, k).softmax(2)
    return torch.einsum("bijh,bhjd->bhid", a, v)


@variant(lambda B, N, **_: (torch.arange(N).expand(B, N) < N - 1,))
def exponentials_times_mask(q, k, v, mask):
    e = torch.exp(q @ k.mT * 0.1) * mask[:, None, None].float()
    return e @ v / e.sum(-1, keepdim=True).clamp(min=1e-6)


@variant(lambda B, N, **_: (torch.arange(N).expand(B, N) < N - 1,))
def outer_product_of_masks(q, k, v, mask):
    both = mask[:, None, :, None] & mask[:, None, None, :]
    return (q @ k.mT).masked_fill(~both, -1e9).softmax(-1) @ v


@variant()
def halves_of_a_mask(q, k, v):
    mask = torch.zeros(q.shape[2], k.shape[2])
    _, right = mask.chunk(2, -1)
    right.fill_(-1.0)
    return (q @ k.mT + mask).softmax(-1) @ v


@variant()
def multiply_accumulate(q, k, v):
    s = torch.addcmul(torch.zeros(1, dtype=q.dtype), q.unsqueeze(3), k.unsqueeze(2)).sum(-1)
    return s.softmax(-1) @ v


@variant(lambda B, M, N, **_: (torch.rand(B, 1, M, N),))
def multiplied_by_a_bias(q, k, v, b):
    return ((q @ k.mT) * b).softmax(-1) @ v


@variant()
def clipped(q, k, v):
    return (q @ k.mT).clamp(-5, 5).softmax(-1) @ v


@variant()
def length_as_a_number(q, k, v):
    return (q @ k.mT * torch.log(torch.tensor(float(k.shape[2])))).softmax(-1) @ v


@variant(lambda Hq, **_: (torch.randn(Hq, 11),))
def clipped_distances(q, k, v, w):
    r = torch.arange(max(q.shape[2], k.shape[2]))
    d = (r[None, : k.shape[2]] - r[: q.shape[2], None]).clamp(-5, 5) + 5
    return (q @ k.mT + w[:, d]).softmax(-1) @ v


@variant()
def vectorised_map(q, k, v):
    return torch.vmap(torch.vmap(lambda q, k, v: (q @ k.T).softmax(-1) @ v))(q, k, v)


@variant()
def strided_pattern(q, k, v):
    i, j = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])[None]
    fixed = (torch.div(i, 3, rounding_mode="trunc") == torch.div(j, 3, rounding_mode="trunc")) | (j % 3 == 2)
    return (q @ k.mT).masked_fill(~(fixed & (i >= j)), -torch.inf).softmax(-1) @ v


@variant(lambda M, N, **_: (torch.rand((M + 1) // 2, (N + 1) // 2) > 0.3,))
def blocks_of_two(q, k, v, blocks):
    mask = blocks.repeat_interleave(2, 0).repeat_interleave(2, 1)[: q.shape[2], : k.shape[2]]
    return (q @ k.mT).masked_fill(~mask, -1e30).softmax(-1) @ v


@variant()
def sum_of_absolute_values(q, k, v):
    return F.normalize(F.relu(q @ k.mT), p=1, dim=-1) @ v


@variant()
def assigned_where_true(q, k, v):
    mask = torch.zeros(q.shape[2], k.shape[2], dtype=torch.bool)
    mask[torch.arange(q.shape[2])[:, None] >= torch.arange(k.shape[2])] = True
    return (q @ k.mT).masked_fill(mask.logical_not(), -torch.inf).softmax(-1) @ v


@variant()
def grid_of_positions(q, k, v):
    i, j = torch.meshgrid(torch.arange(q.shape[2]), torch.arange(k.shape[2]), indexing="ij")
    return (q @ k.mT - (i - j).abs() * 0.1).masked_fill(i < j, -1e9).softmax(-1) @ v


@variant()
def with_its_lse(q, k, v):
    s = q @ k.mT
    return s.softmax(-1) @ v, s.logsumexp(-1)


class WithBuffer(nn.Module):
    """A layer that keeps its triangle in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bias", torch.tril(torch.ones(32, 32)).view(1, 1, 32, 32))
        self.dropout = nn.Dropout(0.0)

    def forward(self, q, k, v):
        length = q.size(2)
        att = (q @ k.transpose(-2, -1)) * 0.3
        att = att.masked_fill(self.bias[:, :, :length, :length] == 0, float("-inf"))
        return self.dropout(F.softmax(att, dim=-1)) @ v


def with_options(q, k, v, scale=1.0, is_causal=False):
    s = q @ k.mT * scale
    if is_causal:
        s = s + torch.full((q.shape[2], k.shape[2]), -torch.inf).triu_(1)
    return s.softmax(-1) @ v


def nothing(**_):
    return ()


VARIANTS["module"] = WithBuffer(), nothing
VARIANTS["partial"] = functools.partial(with_options, scale=0.2, is_causal=True), nothing
VARIANTS["nameless"] = (lambda q, k, v: (q @ k.mT).softmax(-1) @ v), nothing
