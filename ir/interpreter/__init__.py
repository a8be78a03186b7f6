"""The interpreter: the meaning of a program on NumPy, with detection of everything that can go wrong in parallel."""

from .interpret import Difference, Exploration, explore, interpret

__all__ = ["Difference", "Exploration", "explore", "interpret"]
