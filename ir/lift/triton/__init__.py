"""Triton kernels -> programs: the launcher is run with launches recorded, Triton's own IR is read."""

from .lift import Lifted, lift_triton

__all__ = ["Lifted", "lift_triton"]
