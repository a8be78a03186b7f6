"""Score and mask modifications as their users write them: factories over tensors, closures, methods, compositions.

Each entry makes (score_mod, mask_mod) for B = 2, H = 4 and given lengths M, N.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import and_masks, noop_mask, or_masks

BATCH, HEADS = 2, 4
Mod = Callable[..., Any]
Pair = tuple[Mod | None, Mod | None]
GLOBAL_SLOPES = torch.tensor([0.5, 0.25, 0.125, 0.0625])
GLOBAL_WINDOW = 9


def noise(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def causal(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return q_idx >= kv_idx


def alibi(m: int, n: int) -> Pair:
    slopes = torch.exp2(-torch.arange(1.0, HEADS + 1))
    return (lambda score, b, h, q_idx, kv_idx: score + slopes[h] * (kv_idx - q_idx)), None


def global_alibi(m: int, n: int) -> Pair:
    def score_mod(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score - GLOBAL_SLOPES[h] * (q_idx - kv_idx).abs()

    return score_mod, causal


def softcap(m: int, n: int) -> Pair:
    def make(cap: float) -> Mod:
        def tanh_softcap(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            return cap * torch.tanh(score / cap)

        return tanh_softcap

    return make(2.0), causal


def softcapped_alibi(m: int, n: int) -> Pair:
    first, second = alibi(m, n)[0], softcap(m, n)[0]
    assert first is not None
    assert second is not None

    def both(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return second(first(score, b, h, q_idx, kv_idx), b, h, q_idx, kv_idx)

    return both, None


def relative_bias(m: int, n: int) -> Pair:
    table = noise(HEADS, m + n)
    return (lambda score, b, h, q_idx, kv_idx: score + table[h, q_idx - kv_idx + n]), None


def relative_buckets(m: int, n: int) -> Pair:
    """As T5: distances in buckets, exact when short, logarithmic when long."""
    table = noise(32, HEADS)

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        distance = (q_idx - kv_idx).clamp(min=0)
        far = 16 + (torch.log(distance.clamp(min=1).float() / 16) / math.log(8) * 16).to(torch.int64)
        return score + table[torch.where(distance < 16, distance, far.clamp(max=31)), h]

    return score_mod, causal


def full_bias(m: int, n: int) -> Pair:
    bias = noise(BATCH, HEADS, m, n)
    return (lambda score, b, h, q_idx, kv_idx: score + bias[b, h, q_idx, kv_idx]), None


def row_bias(m: int, n: int) -> Pair:
    """What a row adds to all of its scores cancels in o and shows in lse."""
    bias = noise(HEADS, m)

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score + bias[h, q_idx] - 0.1 * q_idx

    return score_mod, causal


def bias_row_by_row(m: int, n: int) -> Pair:
    """Indexed one axis at a time, and with slices and integers between."""
    bias = noise(BATCH, 1, HEADS, n)
    return (lambda score, b, h, q_idx, kv_idx: score + bias[b][0, :, kv_idx][h] + bias[b, 0, h][kv_idx]), None


def head_scales(m: int, n: int) -> Pair:
    scales = noise(HEADS).exp()
    return functools.partial(lambda t, score, b, h, q_idx, kv_idx: score * t[h], scales), None


class Learned(torch.nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.inner = torch.nn.Module()
        self.inner.bias = torch.nn.Parameter(noise(HEADS, n), requires_grad=False)
        self.gain = 0.5

    def shifted(self, score: Tensor, h: Tensor, kv_idx: Tensor) -> Tensor:
        return score + self.inner.bias[h, kv_idx] * self.gain

    def score_mod(self, score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return self.shifted(score, h, kv_idx)


def bound_method(m: int, n: int) -> Pair:
    return Learned(n).score_mod, causal


class CallableMask:
    def __init__(self, keep: Tensor) -> None:
        self.keep = keep

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return self.keep[b, kv_idx]


def callable_object(m: int, n: int) -> Pair:
    return None, CallableMask(noise(BATCH, n) > -0.5)


def in_a_loop(m: int, n: int) -> Pair:
    slopes = [noise(HEADS, seed=seed) for seed in range(3)]
    mods = [lambda score, b, h, q_idx, kv_idx, slope=slope: score + slope[h] * kv_idx / n for slope in slopes]

    def total(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        for mod in mods:
            score = mod(score, b, h, q_idx, kv_idx)
        return score

    return total, None


def table_by_name(m: int, n: int) -> Pair:
    tables = {"keys": noise(n), "rows": noise(m, seed=6)}
    return (lambda score, b, h, q_idx, kv_idx: score + tables["keys"][kv_idx] * tables["rows"][q_idx]), None


def prefix_lm(m: int, n: int) -> Pair:
    lengths = torch.tensor([7, 20])
    return None, or_masks(causal, lambda b, h, q_idx, kv_idx: kv_idx < lengths[b])


def document_causal(m: int, n: int) -> Pair:
    ids = torch.arange(max(m, n)) // 13

    def document_mask(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return ids[q_idx] == ids[kv_idx]

    return None, and_masks(document_mask, causal)


def jagged(m: int, n: int) -> Pair:
    """Sequences of different lengths, one after another; positions count from each one's start."""
    length = max(m, n)
    offsets = torch.tensor([0, 11, 12, 30, length])
    owner = torch.repeat_interleave(torch.arange(4), offsets.diff())

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        q_local = q_idx - offsets[owner[q_idx]]
        kv_local = kv_idx - offsets[owner[kv_idx]]
        return score - 0.1 * (q_local - kv_local)

    def mask_mod(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        q_local = q_idx - offsets[owner[q_idx]]
        kv_local = kv_idx - offsets[owner[kv_idx]]
        return (owner[q_idx] == owner[kv_idx]) & causal(b, h, q_local, kv_local)

    return score_mod, mask_mod


def sliding_window(m: int, n: int) -> Pair:
    def window(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return q_idx - kv_idx <= GLOBAL_WINDOW

    return None, and_masks(causal, window)


def dilated_window(m: int, n: int) -> Pair:
    return None, lambda b, h, q_idx, kv_idx: ((q_idx - kv_idx).abs() <= 12) & ((q_idx - kv_idx) % 3 == 0)


def neighbourhood(m: int, n: int) -> Pair:
    """Pixels of an image of width 8 that are near in both directions."""

    def mask_mod(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        q_row, q_column = q_idx // 8, q_idx % 8
        kv_row, kv_column = kv_idx // 8, kv_idx % 8
        return ((q_row - kv_row).abs() <= 2) & ((q_column - kv_column).abs() <= 1)

    return None, mask_mod


def natten(m: int, n: int) -> Pair:
    """Neighbourhoods whose centre stays inside the image, so that each has the same size."""
    width, kernel = 8, 5

    def mask_mod(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        q_x, q_y = q_idx // width, q_idx % width
        kv_x, kv_y = kv_idx // width, kv_idx % width
        centre_x = q_x.clamp(kernel // 2, (width - 1) - kernel // 2)
        centre_y = q_y.clamp(kernel // 2, (width - 1) - kernel // 2)
        return ((centre_x - kv_x).abs() <= kernel // 2) & ((centre_y - kv_y).abs() <= kernel // 2)

    return None, mask_mod


def block_causal(m: int, n: int) -> Pair:
    return None, lambda b, h, q_idx, kv_idx: q_idx // 8 >= kv_idx // 8


def global_and_window(m: int, n: int) -> Pair:
    is_global = torch.arange(max(m, n)) % 17 == 0
    near = lambda b, h, q_idx, kv_idx: (q_idx - kv_idx).abs() < 6  # noqa: E731
    return None, or_masks(near, lambda b, h, q_idx, kv_idx: is_global[kv_idx] | is_global[q_idx])


def share_question(m: int, n: int) -> Pair:
    """Answers see the question and themselves, not each other."""
    answer = (torch.arange(max(m, n)) - 10).div(9, rounding_mode="floor").clamp(min=-1)

    def mask_mod(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        same = (answer[q_idx] == answer[kv_idx]) | (answer[kv_idx] == -1)
        return same & (q_idx >= kv_idx)

    return None, mask_mod


def tree(m: int, n: int) -> Pair:
    """Drafted tokens see their ancestors: one word of bits per node, bit j set where j is an ancestor."""
    nodes = min(m, n, 31)
    parent = [-1, *((i * 7 + 3) % i for i in range(1, nodes))]
    bits = []
    for i, up in enumerate(parent):
        bits.append((1 << i) | (bits[up] if up >= 0 else 0))
    ancestors = torch.tensor(bits, dtype=torch.int64)

    def mask_mod(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        word = ancestors[q_idx.clamp(max=nodes - 1)]
        return ((word >> kv_idx.clamp(max=nodes - 1)) & 1) == 1

    return None, mask_mod


def paged(m: int, n: int) -> Pair:
    """Keys lie in pages in any order: physical index -> logical one, where there is one."""
    page = 8
    pages = -(-n // page)
    logical = torch.stack([torch.randperm(pages, generator=torch.Generator().manual_seed(s)) - s for s in range(BATCH)])

    def mask_mod(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        block = logical[b, kv_idx // page]
        position = block * page + kv_idx % page
        return torch.where(block >= 0, causal(b, h, q_idx, position), False)

    return None, mask_mod


def checkerboard(m: int, n: int) -> Pair:
    def score_mod(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        score = torch.where((kv_idx - q_idx).abs() % 2 == 1, score * 0.5, score)
        return torch.where((kv_idx - q_idx) % 2 == 0, score * 2, score)

    return score_mod, None


def transfusion(m: int, n: int) -> Pair:
    """Text is causal, images inside it see all of themselves."""
    start, length = torch.tensor([[4, 20], [9, 31]]), torch.tensor([[8, 5], [3, 6]])

    def image(part: int) -> Mod:
        def mask_mod(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            first, last = start[b, part], start[b, part] + length[b, part]
            return (q_idx >= first) & (q_idx < last) & (kv_idx >= first) & (kv_idx < last)

        return mask_mod

    return None, or_masks(causal, *(image(part) for part in range(2)))


def head_windows(m: int, n: int) -> Pair:
    windows = torch.tensor([2, 5, 11, 1000])
    return None, lambda b, h, q_idx, kv_idx: (q_idx >= kv_idx) & (q_idx - kv_idx < windows[h])


def batch_lengths(m: int, n: int) -> Pair:
    lengths = torch.tensor([3, 40])
    return None, lambda b, h, q_idx, kv_idx: (q_idx < lengths[b]) & (kv_idx < lengths[b])


def window_from_a_tensor(m: int, n: int) -> Pair:
    window = torch.tensor(8)
    return None, lambda b, h, q_idx, kv_idx: (q_idx - kv_idx).abs() <= window


def random_table(m: int, n: int) -> Pair:
    table = noise(BATCH, 1, m, n) > 0.3
    return None, lambda b, h, q_idx, kv_idx: table[b, 0, q_idx, kv_idx]


def decode_offset(m: int, n: int) -> Pair:
    offset = torch.tensor([n - m, max(n - m - 5, 0)])

    def with_offset(mask_mod: Mod) -> Mod:
        return lambda b, h, q_idx, kv_idx: mask_mod(b, h, q_idx + offset[b], kv_idx)

    return None, with_offset(causal)


def score_as_mask(m: int, n: int) -> Pair:
    def score_mod(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return torch.where(q_idx >= kv_idx, score, -float("inf"))

    return score_mod, None


def nothing(m: int, n: int) -> Pair:
    return None, noop_mask


def none_of_odd_rows(m: int, n: int) -> Pair:
    return None, lambda b, h, q_idx, kv_idx: (q_idx % 2 == 0) & (kv_idx >= 0)


def xor_of_masks(m: int, n: int) -> Pair:
    odd = torch.arange(n) % 2 == 1
    return None, lambda b, h, q_idx, kv_idx: (q_idx >= kv_idx) ^ odd[kv_idx]


GALLERY: dict[str, Callable[[int, int], Pair]] = {
    make.__name__: make
    for make in (
        alibi, global_alibi, softcap, softcapped_alibi, relative_bias, relative_buckets, full_bias, row_bias, bias_row_by_row,
        head_scales, bound_method, callable_object, in_a_loop, table_by_name, prefix_lm, document_causal, jagged,
        sliding_window, dilated_window, neighbourhood, natten, block_causal, global_and_window, share_question, tree,
        paged, checkerboard, transfusion, head_windows, batch_lengths, window_from_a_tensor, random_table,
        decode_offset, score_as_mask, nothing, none_of_odd_rows, xor_of_masks,
    )
}  # fmt: skip
