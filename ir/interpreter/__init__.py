"""The interpreter: the meaning of a program on NumPy, and detection of what goes wrong in parallel."""

from .interpret import Difference, Exploration, explore, interpret
from .limits import Limits

__all__ = ["Difference", "Exploration", "Limits", "explore", "interpret"]
