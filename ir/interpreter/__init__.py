"""The interpreter: the meaning of a program on NumPy, and detection of what goes wrong in parallel."""

from .interpret import Difference, Exploration, explore, interpret

__all__ = ["Difference", "Exploration", "explore", "interpret"]
