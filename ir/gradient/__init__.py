"""Backward of any spec: the derivative of its expressions, what kernels need of it, and what it means in fp64."""

from .backward import Backward, CapturedGradient, differentiate
from .derivative import derivative
from .reference import reference_backward
from .terms import IndexKind, Source, Term

__all__ = [
    "Backward",
    "CapturedGradient",
    "IndexKind",
    "Source",
    "Term",
    "derivative",
    "differentiate",
    "reference_backward",
]
