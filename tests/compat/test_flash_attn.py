"""flash_attn_func against its definition: lengths, heads, widths and every option; one build for all values."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from tilewright.compat import flash_attn as fa
from tilewright.compat.flash_attn.forms import _kernels
from tilewright.ir.errors import UnsupportedSpec
from tilewright.lowering import build

from .flash_oracle import assert_right, tensors

LENGTHS = ((33, 33), (5, 70), (70, 5), (1, 130), (1, 1), (130, 129), (3, 0))
BATCH, HEADS, KV_HEADS, WIDTH = 2, 4, 2, 64
WINDOWS = ((-1, -1), (-1, 0), (-1, 20), (0, -1), (0, 0), (20, -1), (3, 1), (20, 30), (-5, -5))


def check(o: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> None:
    """Every sequence of a batch, slopes by batch or not."""
    slopes = options.pop("alibi_slopes", None)
    for b in range(q.shape[0]):
        of_b = slopes if slopes is None or slopes.dim() == 1 else slopes[b]
        assert_right(o[b], None, q[b], k[b], v[b], alibi_slopes=of_b, **options)


@pytest.mark.parametrize(("rows", "columns"), LENGTHS)
def test_windows_of_every_sign(rows: int, columns: int) -> None:
    q, k, v = tensors((BATCH, rows, HEADS, WIDTH), (BATCH, columns, KV_HEADS, WIDTH), (BATCH, columns, KV_HEADS, WIDTH))
    for window in WINDOWS:
        for causal in (False, True):
            options: dict[str, Any] = {"window_size": window, "causal": causal}
            check(fa.flash_attn_func(q, k, v, **options), q, k, v, **options)


@pytest.mark.parametrize(("rows", "columns"), LENGTHS)
@pytest.mark.parametrize("per_batch", [False, True])
def test_all_options_at_once(rows: int, columns: int, per_batch: bool) -> None:
    q, k, v = tensors((BATCH, rows, 3, 40), (BATCH, columns, 1, 40), (BATCH, columns, 1, 24))
    slopes = torch.rand(BATCH, 3) if per_batch else torch.rand(3)
    for scale, window in ((0.3, (-1, 0)), (0.2, (7, 9))):
        options: dict[str, Any] = {"softmax_scale": scale, "softcap": 2 * scale, "window_size": window}
        options["alibi_slopes"] = slopes
        check(fa.flash_attn_func(q, k, v, **options), q, k, v, **options)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "width", "dtype"),
    [
        pytest.param(8, 1, 128, torch.bfloat16, id="H8:1-D128-bf16"),
        pytest.param(4, 4, 64, torch.float16, id="H4-D64-f16", marks=pytest.mark.slow),
    ],
)
def test_low_precision(heads: int, kv_heads: int, width: int, dtype: torch.dtype) -> None:
    for rows, columns in ((40, 40), (1, 90), (90, 20)):
        shapes = ((BATCH, rows, heads, width), *[(BATCH, columns, kv_heads, width)] * 2)
        q, k, v = tensors(*shapes, dtype=dtype)
        o = fa.flash_attn_func(q, k, v, causal=True)
        assert o.dtype is dtype
        check(o, q, k, v, causal=True)


def test_new_values_and_sizes_build_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = tensors((BATCH, 30, HEADS, WIDTH), *[(BATCH, 30, KV_HEADS, WIDTH)] * 2)
    fa.flash_attn_func(q, k, v, causal=True)
    before = len(_kernels)

    def refuse(*args: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr(build, "build_shared_library", refuse)
    monkeypatch.setattr("tilewright.lowering.cpp.target.build_shared_library", refuse)
    for rows, columns, window in ((1, 1, (0, 0)), (7, 200, (99, -1)), (200, 7, (-1, 5)), (20, 20, (3, 4))):
        q, k, v = tensors((1, rows, HEADS, WIDTH), *[(1, columns, KV_HEADS, WIDTH)] * 2)
        check(fa.flash_attn_func(q, k, v, window_size=window), q, k, v, window_size=window)
    assert len(_kernels) == before


def test_views_are_read_in_place_and_the_result_is_contiguous() -> None:
    (qkv,) = tensors((BATCH, 50, 3, HEADS, WIDTH))
    q, k, v = qkv.unbind(2)
    o = fa.flash_attn_qkvpacked_func(qkv, causal=True)
    assert o.is_contiguous()
    check(o, q, k, v, causal=True)
    assert torch.equal(fa.flash_attn_kvpacked_func(q.contiguous(), qkv[:, :, 1:], causal=True), o)
    starts = torch.tensor([0, 50, 100], dtype=torch.int32)
    flat = qkv.flatten(0, 1)
    along = fa.flash_attn_varlen_qkvpacked_func(flat, starts, 50, causal=True)
    assert torch.allclose(along, o.flatten(0, 1), atol=1e-6)
    separate = fa.flash_attn_varlen_kvpacked_func(flat[:, 0], flat[:, 1:], starts, starts, 50, 50, causal=True)
    assert torch.equal(separate, along)


@pytest.mark.parametrize("deterministic", [True, False])
def test_gradients(deterministic: bool) -> None:
    q, k, v = tensors((BATCH, 30, HEADS, WIDTH), *[(BATCH, 30, KV_HEADS, WIDTH)] * 2)
    leaves = [tensor.requires_grad_() for tensor in (q, k, v)]
    slopes = torch.rand(HEADS).requires_grad_()
    d_o = torch.randn(BATCH, 30, HEADS, WIDTH)
    o = fa.flash_attn_func(*leaves, causal=True, alibi_slopes=slopes, deterministic=deterministic)
    assert o.is_contiguous()
    got = torch.autograd.grad(o, [*leaves, slopes], d_o)
    distance = torch.arange(30)[:, None] - torch.arange(30)[None, :]
    bias = -slopes[:, None, None] * distance.abs()
    bias = bias.masked_fill(distance < 0, float("-inf"))
    moved = [tensor.transpose(1, 2) for tensor in leaves]
    wanted_o = torch.nn.functional.scaled_dot_product_attention(*moved, attn_mask=bias, enable_gqa=True)
    wanted = torch.autograd.grad(wanted_o.transpose(1, 2), [*leaves, slopes], d_o)
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_gradients_that_there_are_none_of_are_refused_and_not_lost() -> None:
    q, k, v = tensors((BATCH, 30, HEADS, WIDTH), *[(BATCH, 30, KV_HEADS, WIDTH)] * 2)
    starts = torch.tensor([0, 30], dtype=torch.int32)
    with pytest.raises(UnsupportedSpec, match="no backward"):
        fa.flash_attn_varlen_func(q[0].requires_grad_(), k[0], v[0], starts, starts, 30, 30)
    with torch.no_grad():
        fa.flash_attn_func(q, k, v, causal=True)
    with torch.inference_mode():
        fa.flash_attn_func(q, k, v, window_size=(3, 17))


@pytest.mark.parametrize("name", [name for name in fa.__all__ if name.startswith("flash")])
def test_the_table_lists_every_argument(name: str) -> None:
    listed = [argument.name for argument in fa.ARGUMENTS if argument.function == name]
    assert listed == list(inspect.signature(getattr(fa, name)).parameters)
