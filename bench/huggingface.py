"""Suite `huggingface`: a small Llama through transformers, its prompt and the tokens after it, per implementation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from ..ir.errors import MissingExtra
from .cases import DTYPES, SEED
from .implementations import TILEWRIGHT
from .measure import Session
from .rows import Row, Times
from .timing import interleave

__all__ = ["PHASES", "PROMPT", "huggingface", "model_case"]

PROMPT = 2048
PHASES = ("prefill", "decode")
IMPLEMENTATIONS = (TILEWRIGHT, "sdpa", "eager")
SIZES = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 1000,
    "max_position_embeddings": 2 * PROMPT,
}
Runs = dict[str, Callable[[], Tensor]]
LEAST_ROUNDS = {"prefill": 5, "decode": 40}


def model_case(phase: str, dtype: str) -> str:
    """llama-512x4-prefill-2048-bf16: hidden size x layers."""
    return f"llama-{SIZES['hidden_size']}x{SIZES['num_hidden_layers']}-{phase}-{PROMPT}-{dtype}"


def huggingface(session: Session) -> list[Row]:
    """The whole model's time for a prompt of 2048, and for a token after 2048 cached ones; batch 1, f32 and bf16."""
    with torch.no_grad():
        return [row for dtype in ("f32", "bf16") for phase in PHASES for row in _case(phase, dtype, session)]


def _case(phase: str, dtype: str, session: Session) -> Iterator[Row]:
    case = model_case(phase, dtype)
    session.say(f"huggingface: {case}")
    models = _models(dtype, session.device)
    tokens = torch.randint(SIZES["vocab_size"], (1, PROMPT + 1), generator=torch.Generator().manual_seed(SEED))
    tokens = tokens.to(session.device)
    runs = {name: _run(phase, model, tokens) for name, model in models.items()}
    errors = _complaints(runs, models["eager"], tokens[:, :PROMPT] if phase == "prefill" else tokens)
    right = {name: run for name, run in runs.items() if name not in errors}
    rounds = replace(session.rounds, least=LEAST_ROUNDS[phase])
    for name, seconds in interleave(right, rounds, session.timer).items():
        yield session.row("huggingface", case, name, dtype=dtype, **asdict(Times.of(seconds)))
    for name, error in errors.items():
        yield session.row("huggingface", case, name, dtype=dtype, error=error)


def _models(dtype: str, device: torch.device) -> dict[str, Any]:
    """The same random weights under every implementation."""
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError as error:
        raise MissingExtra("hf", "the suite huggingface") from error
    from ..compat.huggingface import register

    register()
    torch.manual_seed(SEED)
    options = {"dtype": DTYPES[dtype]}
    made = {
        name: LlamaForCausalLM._from_config(LlamaConfig(**SIZES), attn_implementation=name, **options)
        for name in IMPLEMENTATIONS
    }
    for model in made.values():
        model.load_state_dict(made[TILEWRIGHT].state_dict())
        model.eval().to(device)
    return made


def _run(phase: str, model: Any, tokens: Tensor) -> Callable[[], Tensor]:
    """Logits of the last position, each time from the same state."""
    prompt, token = tokens[:, :PROMPT], tokens[:, PROMPT:]
    if phase == "prefill":
        return lambda: model(prompt, use_cache=True, logits_to_keep=1).logits
    cache = model(prompt, use_cache=True, logits_to_keep=1).past_key_values
    kept = [(layer.keys, layer.values) for layer in cache.layers]

    def step() -> Tensor:
        for layer, (keys, values) in zip(cache.layers, kept, strict=True):
            layer.keys, layer.values = keys, values
        logits: Tensor = model(token, past_key_values=cache, logits_to_keep=1).logits
        return logits

    return step


def _complaints(runs: Runs, eager: Any, seen: Tensor) -> dict[str, str]:
    """Why results are wrong, by name: further from the model in float64 than twice what eager is."""
    want = copy.deepcopy(eager).double()(seen, logits_to_keep=1).logits
    errors = {name: float((run().double() - want).abs().max()) for name, run in runs.items()}
    budget = 2 * errors["eager"]
    return {name: f"wrong result: {error:.3g} > {budget:.3g}" for name, error in errors.items() if error > budget}
