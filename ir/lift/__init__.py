"""Lift: source -> IR. A PyTorch attention function becomes an AttentionSpec."""

from .torch_function import lift

__all__ = ["lift"]
