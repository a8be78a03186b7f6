"""Functions that are attention with something around it: what comes before and after is left to PyTorch.

A rotated q, normalised keys, a running sum of gates, a result whose heads are merged or gated: a kernel computes the
attention inside, and expressions say how its arguments follow from the function's and its result from the kernel's.
Where an operator has no expression (a projection, a complex number), the operators themselves are run again.
"""

from .composite import Composite, Core, Made
from .lift import lift_around
from .split import Split, lift_with_steps, split_function

__all__ = ["Composite", "Core", "Made", "Split", "lift_around", "lift_with_steps", "split_function"]
