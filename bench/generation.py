"""A real model goes on with a text, under each of transformers' attention implementations: words, speed, agreement."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .implementations import TILEWRIGHT
from .smollm2 import load_smollm2

__all__ = ["IMPLEMENTATIONS", "Generation", "generate"]

IMPLEMENTATIONS = ("eager", "sdpa", TILEWRIGHT)
QUESTION = "Why is the sky blue?"
PROMPT = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
TOKENS = 24


@dataclass(frozen=True, slots=True)
class Generation:
    """What one implementation went on with: the text, its tokens, and seconds for all of them."""

    impl: str
    text: str
    tokens: tuple[int, ...]
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second, the prompt's pass included."""
        return len(self.tokens) / self.seconds


def generate(say: Callable[[str], None] = lambda text: None) -> list[Generation]:
    """SmolLM2's greedy answer in float32, in the order of IMPLEMENTATIONS; eager's is what the others must give.

    Raises WeightsMissing without the weights, MissingExtra without transformers or gguf.
    """
    from ..compat.huggingface import register

    register()
    say("SmolLM2: reading its weights")
    smollm2 = load_smollm2()
    prompt = smollm2.encode(PROMPT)
    found = []
    for name in IMPLEMENTATIONS:
        say(f"SmolLM2: generating with attn_implementation={name!r}")
        smollm2.model.set_attn_implementation(name)
        _continue(smollm2.model, prompt, 2)  # compiles and verifies what is new
        start = time.perf_counter()
        tokens = _continue(smollm2.model, prompt, TOKENS)
        seconds = time.perf_counter() - start
        found.append(Generation(name, smollm2.decode(tokens), tuple(tokens.tolist()), seconds))
    return found


def _continue(model: torch.nn.Module, prompt: torch.Tensor, count: int) -> torch.Tensor:
    tokens: torch.Tensor = model.generate(prompt, max_new_tokens=count, min_new_tokens=count, do_sample=False)  # type: ignore[operator]
    return tokens[0, prompt.shape[1] :]
