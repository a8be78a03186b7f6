"""Interfaces that users already call, served by Tilewright's kernels: FlexAttention, flash-attn, Hugging Face.

Each module keeps the names, signatures and results of the interface it is called after;
docs/compat.md lists every argument.
"""

from __future__ import annotations

_MODULES = ("flash_attn", "flex_attention", "huggingface")

__all__: list[str] = []


def __getattr__(name: str) -> object:
    """Import an interface at its first use, so that none costs anything to those who use another."""
    from importlib import import_module

    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(_MODULES)}")
    return import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted(_MODULES)
