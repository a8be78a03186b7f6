"""Tiny random models of many architectures, each twice with the same weights: with eager and with our attention."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

HEADS, KV_HEADS, HEAD_DIM, LAYERS, VOCAB = 4, 2, 16, 2, 61
HIDDEN = HEADS * HEAD_DIM
WINDOW = 8
PAD = 0
TEXT = {
    "vocab_size": VOCAB, "hidden_size": HIDDEN, "intermediate_size": 48, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "max_position_embeddings": 128, "pad_token_id": PAD, "bos_token_id": 1,
    "eos_token_id": None,
}  # fmt: skip
GROUPED = {**TEXT, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM}
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
ALTERNATING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
LATENT = {
    "q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16,
    "moe_intermediate_size": 16, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 1,
}  # fmt: skip
T5 = {
    "vocab_size": VOCAB, "d_model": HIDDEN, "d_kv": HEAD_DIM, "d_ff": 48, "num_layers": LAYERS, "num_decoder_layers": LAYERS,
    "num_heads": HEADS, "decoder_start_token_id": PAD, "pad_token_id": PAD, "eos_token_id": None,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16,
}  # fmt: skip
BOTH_SIDES = {
    "vocab_size": VOCAB, "d_model": HIDDEN, "encoder_layers": LAYERS, "decoder_layers": LAYERS,
    "encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
    "pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": None, "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
}  # fmt: skip
WHISPER = {**BOTH_SIDES, "num_mel_bins": 8, "max_source_positions": 12, "max_target_positions": 64,
           "suppress_tokens": None, "begin_suppress_tokens": None}  # fmt: skip
IMAGE = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": 48,
         "image_size": 16, "patch_size": 4}  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    """A model class of transformers, its config class, and what is small about it."""

    name: str
    model: str
    config: str
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


DECODERS = (
    Architecture("llama", "LlamaForCausalLM", "LlamaConfig", GROUPED),
    Architecture("mistral", "MistralForCausalLM", "MistralConfig", {**GROUPED, "sliding_window": WINDOW}),
    Architecture("qwen2", "Qwen2ForCausalLM", "Qwen2Config", GROUPED),
    Architecture("qwen3", "Qwen3ForCausalLM", "Qwen3Config", GROUPED),
    Architecture(
        "gemma2", "Gemma2ForCausalLM", "Gemma2Config",
        {**GROUPED, **ALTERNATING, "query_pre_attn_scalar": HEAD_DIM, "attn_logit_softcapping": 2.0},
    ),
    Architecture(
        "gemma3", "Gemma3ForCausalLM", "Gemma3TextConfig", {**GROUPED, **ALTERNATING, "query_pre_attn_scalar": HEAD_DIM}
    ),
    Architecture("gpt_oss", "GptOssForCausalLM", "GptOssConfig", {**GROUPED, **ALTERNATING, **EXPERTS}),
    Architecture("phi3", "Phi3ForCausalLM", "Phi3Config", {**TEXT, "num_key_value_heads": KV_HEADS}),
    Architecture("gpt_neox", "GPTNeoXForCausalLM", "GPTNeoXConfig", TEXT),
    Architecture(
        "falcon", "FalconForCausalLM", "FalconConfig", {**TEXT, "alibi": False, "new_decoder_architecture": False}
    ),
    Architecture("deepseek_v3", "DeepseekV3ForCausalLM", "DeepseekV3Config", {**TEXT, **LATENT, "num_key_value_heads": HEADS}),
    Architecture(
        "llama4", "Llama4ForCausalLM", "Llama4TextConfig",
        {**GROUPED, **EXPERTS, "attention_chunk_size": WINDOW, "intermediate_size_mlp": 48, "no_rope_layers": [1, 0]},
    ),
)  # fmt: skip
TWO_SIDED = (
    Architecture("t5", "T5ForConditionalGeneration", "T5Config", T5),
    Architecture("bart", "BartForConditionalGeneration", "BartConfig", {**BOTH_SIDES, "max_position_embeddings": 64}),
)
ENCODERS = (
    Architecture("bert", "BertForMaskedLM", "BertConfig", TEXT),
    Architecture(
        "modernbert", "ModernBertForMaskedLM", "ModernBertConfig",
        {**TEXT, "local_attention": WINDOW, "global_attn_every_n_layers": 2, "cls_token_id": 1, "sep_token_id": 2},
    ),
)  # fmt: skip
VIT = Architecture("vit", "ViTForImageClassification", "ViTConfig", IMAGE)
CLIP = Architecture(
    "clip",
    "CLIPModel",
    "CLIPConfig",
    {"text_config": {**TEXT, "eos_token_id": 2}, "vision_config": IMAGE, "projection_dim": 16},
)
SPEECH = Architecture("whisper", "WhisperForConditionalGeneration", "WhisperConfig", WHISPER)


@dataclass(frozen=True)
class Pair:
    """The same weights under both implementations."""

    eager: Any
    ours: Any


def load(architecture: Architecture) -> Pair:
    """Both models; weights are large enough for the choice of keys to matter."""
    import transformers

    config = getattr(transformers, architecture.config)(**architecture.options)
    made = getattr(transformers, architecture.model)
    options = {"experts_implementation": "eager"} if "num_experts_per_tok" in architecture.options else {}
    models = [
        made._from_config(copy.deepcopy(config), attn_implementation=name, **options)
        for name in ("eager", "tilewright")
    ]
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in models[0].named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
            elif "sink" in name:
                parameter.normal_()
    models[1].load_state_dict(models[0].state_dict())
    return Pair(*(model.eval() for model in models))


class InFloat64(TorchFunctionMode):
    """Models take norms, rotations and softmax in float32 whatever their type; here in float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        wide = {torch.float32: torch.float64}
        args = tuple(wide.get(a, a) if isinstance(a, torch.dtype) else a for a in args)
        kwargs = {n: wide.get(a, a) if isinstance(a, torch.dtype) else a for n, a in (kwargs or {}).items()}
        return func(*args, **kwargs)


def worst(
    pair: Pair, seen: torch.Tensor | None = None, output: str = "logits", **inputs: torch.Tensor
) -> tuple[float, float]:
    """Largest error of ours, and what it may be: twice eager's own error against float64, and four roundings.

    seen: which positions [B, M] count; all if None.
    """
    with torch.no_grad():
        ours, eager = (getattr(model(**inputs), output) for model in (pair.ours, pair.eager))
        exact_inputs = {n: t.double() if t.is_floating_point() else t for n, t in inputs.items()}
        with InFloat64():
            exact = getattr(copy.deepcopy(pair.eager).double()(**exact_inputs), output)
    assert exact.dtype is torch.float64
    if seen is not None:
        ours, eager, exact = ours[seen], eager[seen], exact[seen]
    rounding = torch.finfo(torch.float32).eps * float(exact.abs().max())
    return float((ours - exact).abs().max()), 2 * float((eager - exact).abs().max()) + 4 * rounding


def ragged(lengths: tuple[int, ...] = (17, 11), *, left: bool = True) -> dict[str, torch.Tensor]:
    """Random tokens of different lengths, padded on the left or the right, and their attention_mask."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, VOCAB, (len(lengths), max(lengths)), generator=generator)
    position = torch.arange(max(lengths))
    kept = [position >= max(lengths) - n if left else position < n for n in lengths]
    mask = torch.stack(kept).long()
    return {"input_ids": tokens * mask + PAD * (1 - mask), "attention_mask": mask}
