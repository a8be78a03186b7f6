"""Hugging Face transformers: `register()`, then attn_implementation="tilewright" in any model that uses its interface.

    from tilewright.compat import huggingface
    huggingface.register()
    model = AutoModelForCausalLM.from_pretrained(name, attn_implementation="tilewright")

Two functions are registered: `make_mask` makes masks, `attention_forward` computes attention. Each variant is compiled
and verified at its first call and serves every length after that. docs/compat.md says what becomes of every argument.
"""

from __future__ import annotations

from ...ir.errors import MissingExtra
from .arguments import ARGUMENTS
from .attention import attention_forward
from .falcon import register_falcon
from .masks import SymbolicMask, make_mask

__all__ = ["ARGUMENTS", "NAME", "SymbolicMask", "attention_forward", "make_mask", "register"]

NAME = "tilewright"


def register() -> None:
    """Make attn_implementation="tilewright" known to transformers, for all models; calling it again changes nothing.

    Raises MissingExtra without transformers.
    """
    try:
        from transformers import AttentionInterface
        from transformers.masking_utils import AttentionMaskInterface
    except ImportError as error:
        raise MissingExtra("hf", "attn_implementation='tilewright'") from error
    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, make_mask)
    register_falcon(NAME)
