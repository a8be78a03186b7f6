"""Falcon, which picks a class of its own per implementation instead of asking transformers' attention interface.

Its class for "sdpa" calls torch's scaled_dot_product_attention with the model's mask, and a SymbolicMask answers that
call with our kernels. So the class for "tilewright" is that one, told that it is "sdpa".
"""

from __future__ import annotations

import copy
from typing import Any

__all__ = ["register_falcon"]


def register_falcon(name: str) -> None:
    """Add `name` to Falcon's table of classes; nothing happens where this version of transformers has no such table."""
    try:
        from transformers.models.falcon import modeling_falcon as falcon
    except ImportError:
        return
    classes: dict[str, Any] = getattr(falcon, "FALCON_ATTENTION_CLASSES", {})
    base = classes.get("sdpa")
    if base is None or name in classes:
        return

    def made(config: Any, layer_idx: int | None = None) -> Any:
        if config.alibi:
            from ...ir.errors import UnsupportedSpec

            raise UnsupportedSpec(
                "Falcon with alibi=True adds its biases to the mask itself",
                hint="use attn_implementation='sdpa' for this checkpoint",
            )
        layer = base(config, layer_idx)
        layer.config = copy.copy(config)
        layer.config._attn_implementation_internal = "sdpa"
        return layer

    classes[name] = made
