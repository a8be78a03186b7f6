"""The version of Tilewright, as manifests and cache keys name it."""

from __future__ import annotations

__all__ = ["VERSION"]

VERSION = "0.1.0"
