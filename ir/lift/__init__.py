"""Lift: source -> IR. A PyTorch attention function becomes an AttentionSpec."""

from .lift import lift

__all__ = ["lift"]
