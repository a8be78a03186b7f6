"""Attention as published models compute it: transformers' own functions, with tiny random configurations.

Nothing here says what the models compute. Each function below calls the `eager_attention_forward` of the
model's file in transformers, the code that runs with attn_implementation="eager", and undoes its last
transpose; the masks are built from positions as the models' mask functions define them.
"""

from __future__ import annotations

import functools
import importlib
import math
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ir.errors import MissingExtra
from .cases import Case, Shape
from .variants import MaskMod, ScoreMod, Variant, all_pairs, causal_pairs, window_pairs

__all__ = ["MODELS", "gemma2", "gpt_oss", "llama", "t5"]

HEADS, KV_HEADS, HEAD_DIM, LENGTH = 8, 2, 64, 1024
WINDOW = 256
SIZES = {
    "hidden_size": HEADS * HEAD_DIM,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
}


def llama(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Llama: causal, grouped heads. q [B, 8, M, 64], k and v [B, 2, N, 64] -> o [B, 8, M, 64]."""
    layer, file = _layer("llama", "Llama")
    return _output(file.eager_attention_forward(layer, q, k, v, _bias(q, k), scaling=layer.scaling))


def gemma2(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Gemma 2: softcap and sliding window, in the layers that have one; shapes as for llama."""
    layer, file = _layer("gemma2", "Gemma2", sliding_window=WINDOW)
    options = {"scaling": layer.scaling, "softcap": layer.attn_logit_softcapping}
    return _output(file.eager_attention_forward(layer, q, k, v, _bias(q, k, layer.sliding_window), **options))


def gpt_oss(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor) -> Tensor:
    """GPT-OSS: a learned sink per head and a sliding window; sinks [8], shapes as for llama."""
    layer, file = _layer("gpt_oss", "GptOss", sliding_window=WINDOW)
    with_sinks = SimpleNamespace(num_key_value_groups=layer.num_key_value_groups, sinks=sinks, training=False)
    bias = _bias(q, k, layer.sliding_window)
    return _output(file.eager_attention_forward(with_sinks, q, k, v, bias, scaling=layer.scaling))


def t5(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
    """T5's encoder: a learned number per head and bucket of distance; k, v [B, 8, N, 64], table [32, 8]."""
    layer, file = _layer("t5", "T5", d_kv=HEAD_DIM)
    attention = file.T5Attention
    with_table = SimpleNamespace(
        is_decoder=layer.is_decoder,
        relative_attention_num_buckets=layer.relative_attention_num_buckets,
        relative_attention_max_distance=layer.relative_attention_max_distance,
        relative_attention_bias=lambda bucket: F.embedding(bucket, table),
        _relative_position_bucket=attention._relative_position_bucket,
    )
    bias = attention.compute_bias(with_table, q.shape[2], k.shape[2], device=q.device)
    options = {"scaling": layer.scaling, "position_bias": bias}
    return _output(file.eager_attention_forward(layer, q, k, v, None, **options))


@functools.cache
def _layer(name: str, prefix: str, **options: Any) -> tuple[Any, ModuleType]:
    """The model's first attention layer and the file it comes from; MissingExtra without transformers."""
    try:
        file = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
        configuration = importlib.import_module(f"transformers.models.{name}.configuration_{name}")
    except ImportError as error:
        raise MissingExtra("hf", f"the attention of {prefix}") from error
    config = getattr(configuration, f"{prefix}Config")(**SIZES, num_hidden_layers=2, **options)
    return getattr(file, f"{prefix}Attention")(config, 0).eval(), file


def _bias(q: Tensor, k: Tensor, width: int | None = None) -> Tensor:
    """What a model adds to its scores: 0 where a row may look, -inf elsewhere [M, N]."""
    i = torch.arange(q.shape[-2], device=q.device)[:, None]
    j = torch.arange(k.shape[-2], device=q.device)[None, :]
    keep = j <= i
    if width is not None:
        keep = keep & (i - j < width)
    return torch.zeros_like(keep, dtype=q.dtype).masked_fill(~keep, float("-inf"))


def _output(result: tuple[Tensor, Tensor]) -> Tensor:
    return result[0].transpose(1, 2)


def _causal_mask(*captured: Tensor) -> MaskMod:
    return lambda b, h, i, j: j <= i


def _window_mask(*captured: Tensor) -> MaskMod:
    return lambda b, h, i, j: (j <= i) & (i - j < WINDOW)


def _gemma2_score(*captured: Tensor) -> ScoreMod:
    """FlexAttention scales by 1/sqrt(D) first; Gemma 2 scales by its own factor."""
    layer, _ = _layer("gemma2", "Gemma2", sliding_window=WINDOW)
    cap, factor = layer.attn_logit_softcapping, layer.scaling * math.sqrt(HEAD_DIM)
    return lambda s, b, h, i, j: cap * torch.tanh(s * factor / cap)


def _sinks(heads: int, length: int, device: torch.device) -> tuple[Tensor, ...]:
    del length
    return (torch.linspace(-2.0, 2.0, heads, device=device),)


def _table(heads: int, length: int, device: torch.device) -> tuple[Tensor, ...]:
    del length
    layer, _ = _layer("t5", "T5", d_kv=HEAD_DIM)
    size = (layer.relative_attention_num_buckets, heads)
    return (torch.randn(size, generator=torch.Generator(device).manual_seed(0), device=device),)


def _in_window(m: int, n: int) -> int:
    return window_pairs(m, n, WINDOW)


_SHAPE = Shape(1, HEADS, KV_HEADS, LENGTH, LENGTH, HEAD_DIM, HEAD_DIM)
_VARIANTS = (
    Variant("llama", llama, causal_pairs, is_causal=True, mask_mod=_causal_mask),
    Variant("gemma2", gemma2, _in_window, score_mod=_gemma2_score, mask_mod=_window_mask),
    Variant("gpt_oss", gpt_oss, _in_window, captured=_sinks, is_flex=False),
)
MODELS = (
    *(Case(variant, "f32", _SHAPE) for variant in _VARIANTS),
    Case(Variant("t5", t5, all_pairs, captured=_table, is_flex=False), "f32", _SHAPE._replace(Hkv=HEADS)),
)
