"""Functions that Triton's language lacks or defines differently, as the text that generated files carry.

Generated files hold only those they call. `tl.maximum` drops NaN and `//` truncates; ours follow the IR (and PyTorch).
"""

from __future__ import annotations

FUNCTIONS: dict[str, str] = {
    "maximum": '''\
@triton.jit
def maximum(x, y):
    """The greater of two floats; NaN if either is."""
    return tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)
''',
    "minimum": '''\
@triton.jit
def minimum(x, y):
    """The lesser of two floats; NaN if either is."""
    return tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL)
''',
    "tanh": '''\
@triton.jit
def tanh(x):
    """Hyperbolic tangent: 1 - 2 / (e^2x + 1), and its series near zero, where that would cancel."""
    square = x * x
    series = ((0.021869488536155203 * square - 0.05396825396825397) * square + 0.13333333333333333) * square
    near = x + x * square * (series - 0.3333333333333333)
    far = 1.0 - 2.0 / (tl.exp2(x * 2.8853900817779268) + 1.0)
    return tl.where(square < 0.0625, near, far)
''',
    "power": '''\
@triton.jit
def power(x, y):
    """x to the power y; NaN for a negative x and a y that is not whole."""
    size = tl.exp2(y * tl.log2(tl.abs(x)))
    half = y * 0.5
    sign = tl.where(tl.floor(half) == half, 1.0, -1.0)
    negative = tl.where(tl.floor(y) == y, sign * size, float("nan"))
    return tl.where(y == 0.0, 1.0, tl.where(x < 0.0, negative, size))
''',
    "floor_divide": '''\
@triton.jit
def floor_divide(x, y):
    """x // y rounded towards minus infinity."""
    rest = x % y
    return x // y - tl.where((rest != 0) & ((rest < 0) != (y < 0)), 1, 0)
''',
    "floor_modulo": '''\
@triton.jit
def floor_modulo(x, y):
    """The remainder of floor_divide: it has the sign of y."""
    rest = x % y
    return tl.where((rest != 0) & ((rest < 0) != (y < 0)), rest + y, rest)
''',
}
