"""The attention of published models, as transformers computes it, lifts to specs that compute the same."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tilewright.ir.lift import lift
from tilewright.ir.lift.selfcheck import difference, holds
from tilewright.ir.printer import print_expr
from tilewright.ir.reference import reference

pytest.importorskip("transformers")

HEADS, KV_HEADS, DIM = 4, 2, 8
PLAIN = ("albert", "aimv2", "bert", "bigbird_pegasus", "blip_2", "clip", "gpt_neox", "internvl", "vit", "whisper")
GROUPED = ("evolla", "gemma3", "idefics2", "inkling", "llama", "llama4", "mistral", "phi3", "qwen2", "qwen3")
WITH_SINKS = ("deepseek_v4", "flint", "gpt_oss", "granite_swa", "mimo_v2_flash", "openai_privacy_filter")


def modeling(name):
    return importlib.import_module(f"transformers.models.{name}.modeling_{name}")


def stub(**extra):
    """What an attention function reads of its layer."""
    layer = SimpleNamespace(training=False, num_key_value_groups=HEADS // KV_HEADS, head_dim=DIM, is_causal=True)
    vars(layer).update(extra)
    return layer


def tensors(kv_heads, m=6, n=6, b=2, dtype=torch.float32):
    torch.manual_seed(m + n)
    return (
        torch.randn(b, HEADS, m, DIM, dtype=dtype),
        torch.randn(b, kv_heads, n, DIM, dtype=dtype),
        torch.randn(b, kv_heads, n, DIM, dtype=dtype),
    )


def causal_bias(b, m, n, dtype=torch.float32):
    """The mask that the models build: 0 and finfo.min, [B, 1, M, N]."""
    keep = torch.ones(m, n, dtype=torch.bool).tril(n - m)
    return torch.zeros(b, 1, m, n, dtype=dtype).masked_fill(~keep, torch.finfo(torch.float32).min)


def check(function, spec, args):
    """The spec's reference equals the function in fp64."""
    assert holds(spec, args)
    got, lse = reference(spec, *(x.numpy() for x in args))
    assert difference(got, lse, function(*args).numpy()) < 2e-6


def check_at_other_sizes(function, spec, kv_heads, *captured):
    for b, m, n in ((2, 6, 6), (3, 4, 7)):
        mask = causal_bias(b, m, n, torch.float64)
        check(function, spec, (*tensors(kv_heads, m, n, b, torch.float64), mask, *captured))


@pytest.mark.parametrize("name", PLAIN + GROUPED)
def test_eager_attention_forward(name):
    forward = modeling(name).eager_attention_forward
    kv_heads = KV_HEADS if name in GROUPED else HEADS

    def attention(q, k, v, mask):
        return forward(stub(), q, k, v, mask, scaling=0.3)[0].transpose(1, 2)

    spec = lift(attention, (*tensors(kv_heads), causal_bias(2, 6, 6)))
    assert spec.group == HEADS // kv_heads
    assert print_expr(spec.score) == "s * 0.3 + mask[b, 0, i, j]"
    check_at_other_sizes(attention, spec, kv_heads)


@pytest.mark.parametrize("name", WITH_SINKS)
def test_sinks(name):
    forward = modeling(name).eager_attention_forward

    def attention(q, k, v, mask, sinks):
        return forward(stub(sinks=sinks), q, k, v, mask, scaling=0.3)[0].transpose(1, 2)

    sinks = torch.randn(HEADS)
    spec = lift(attention, (*tensors(KV_HEADS), causal_bias(2, 6, 6), sinks))
    assert print_expr(spec.score) == "s * 0.3 + mask[b, 0, i, j]"
    assert print_expr(spec.normaliser.sink) == "sinks[h]"
    check_at_other_sizes(attention, spec, KV_HEADS, sinks.double())


def test_gemma2_softcap_and_window():
    forward = modeling("gemma2").eager_attention_forward

    def attention(q, k, v):
        i, j = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])[None, :]
        mask = torch.where((j <= i) & (i - j < 4), 0.0, torch.finfo(torch.float32).min)
        return forward(stub(), q, k, v, mask, scaling=0.3, softcap=50.0)[0].transpose(1, 2)

    spec = lift(attention, tensors(KV_HEADS))
    assert print_expr(spec.keep) == "(j <= i) & (i < j + 4)"
    assert print_expr(spec.score) == "tanh(s * 0.006) * 50.0"
    check(attention, spec, tensors(KV_HEADS, 5, 9, dtype=torch.float64))


def test_t5_with_its_own_bias():
    file = modeling("t5")

    def attention(q, k, v, table):
        layer = stub(
            is_decoder=False, relative_attention_num_buckets=32, relative_attention_max_distance=128,
            relative_attention_bias=lambda bucket: nn.functional.embedding(bucket, table),
            _relative_position_bucket=file.T5Attention._relative_position_bucket,
        )  # fmt: skip
        bias = file.T5Attention.compute_bias(layer, q.shape[2], k.shape[2], device=q.device)
        return file.eager_attention_forward(layer, q, k, v, None, scaling=1.0, position_bias=bias)[0].transpose(1, 2)

    table = torch.randn(32, HEADS)
    spec = lift(attention, (*tensors(HEADS), table))
    check(attention, spec, (*tensors(HEADS, 3, 200, dtype=torch.float64), table.double()))
    check(attention, spec, (*tensors(HEADS, 150, 2, dtype=torch.float64), table.double()))


def test_bloom_layer_with_alibi():
    file = modeling("bloom")
    nothing = lambda x: x  # noqa: E731
    layer = file.BloomAttention

    def attention(q, k, v, alibi):
        b, h, m, d = q.shape
        fused = torch.stack((q, k, v), dim=3).transpose(1, 2).reshape(b, m, 3 * h * d)
        this = stub(
            query_key_value=nothing, attention_dropout=nothing, dense=nothing, num_heads=h, beta=1.0,
            inv_norm_factor=d**-0.5, hidden_size=h * d, pretraining_tp=1, slow_but_exact=False, hidden_dropout=0.0,
            _reshape=lambda x: layer._reshape(this, x), _merge_heads=lambda x: layer._merge_heads(this, x),
        )  # fmt: skip
        bias = alibi.repeat(b, 1, 1)
        mask = torch.full((m, m), torch.finfo(torch.float32).min).triu(1)
        result = layer.forward(this, fused, torch.zeros_like(q[:, 0, :, 0:1]), bias, mask)[0]
        return result.view(b, m, h, d).transpose(1, 2)

    alibi = torch.rand(HEADS, 1, 6)
    spec = lift(attention, (*tensors(HEADS), alibi))
    assert print_expr(spec.keep) == "j <= i"
    check(attention, spec, (*tensors(HEADS, 9, 9, dtype=torch.float64), torch.rand(HEADS, 1, 9).double()))


