"""What a case should give, in fp64, and how far a kernel may be off.

The truth is the user's own function, run in fp64 with every cast to a lower precision raised to fp64;
without a function, the spec's formula. Two things are defined by us: a row that keeps no key is o = 0,
lse = -inf; and lse itself. The budget is twice the sum of the error that the same mathematics makes in low
precision (the spec's formula in float32 with rounded weights; the worst of a few orders of summing), of one
rounding of the output, and of one float32 rounding of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..ir.errors import UnsupportedSpec
from ..ir.evaluate import Array
from ..ir.expr import const
from ..ir.reference import reference
from ..ir.spec import AttentionSpec
from .dtypes import as_array, to_torch
from .lowprecision import low_precision, one_by_one

__all__ = ["Expected", "Truth", "distance", "expect", "in_fp64"]

Function = Callable[..., Any]
LOW = {torch.float16, torch.bfloat16, torch.float32}
FLOAT32_EPSILON = float(torch.finfo(torch.float32).eps)


@dataclass(frozen=True, slots=True)
class Truth:
    """An output's exact values [fp64] and what low precision does to them.

    low_error: the largest absolute error of the same mathematics in low precision. rounding: of storing the
    result. is_judged: False where low precision overflows although the truth does not.
    """

    exact: Array
    low_error: float
    rounding: float
    is_judged: Array

    @property
    def budget(self) -> float:
        """The absolute error allowed."""
        return 2 * (self.low_error + self.rounding)

    def error(self, got: Array) -> float:
        """The largest error where the output is judged; inf for a wrong shape."""
        if got.shape != self.exact.shape:
            return math.inf
        return distance(got[self.is_judged], self.exact[self.is_judged])


@dataclass(frozen=True, slots=True)
class Expected:
    """What a case should give. `spec_error`: how far the spec's formula is from the function, both in fp64."""

    o: Truth
    lse: Truth
    spec_error: float

    @property
    def blame(self) -> str:
        """Where to look when the kernel disagrees."""
        if self.spec_error <= self.o.budget:
            return "the spec agrees with the function"
        return "the lifted spec already differs from the function"


def expect(
    function: Function | None, spec: AttentionSpec, tensors: Sequence[torch.Tensor], shuffles: int = 0
) -> Expected:
    """Run the oracle. Whatever the user's function raises on these tensors passes through.

    shuffles: further orders of summing q · k to look at, where the error of a few scores decides a row.
    """
    arrays = [as_array(tensor) for tensor in tensors]
    spec_o, spec_lse = reference(spec, *arrays)
    exact = spec_o
    if function is not None:
        exact = _with_defined_rows(_exactly(function, tensors), spec, spec_o, spec_lse, arrays)
    if shuffles:  # where the function overflows on its way even in fp64, the formula stands
        exact = _without_overflow(exact, spec_o)
    exact = _with_nan_rows(exact, spec_o, arrays[0])
    low = _low_precision_runs(spec, arrays, shuffles)
    epsilon = float(torch.finfo(to_torch(spec.dtype)).eps)
    rounding = epsilon * _magnitude(exact) + FLOAT32_EPSILON * _magnitude(arrays[2])
    o = _truth(exact, spec_o, [low_o for low_o, _ in low], rounding)
    lse_rounding = FLOAT32_EPSILON * max(_magnitude(spec_lse), 1.0)
    lse = _truth(spec_lse, spec_lse, [low_lse for _, low_lse in low], lse_rounding)
    return Expected(o, lse, distance(spec_o, exact))


def _with_nan_rows(exact: Array, formula: Array, q: Array) -> Array:
    """The function's values, and NaN for a row of q that holds one, where a nan_to_num made zero of it."""
    if exact.shape != formula.shape:
        return exact
    rows = np.isnan(q).any(axis=-1, keepdims=True)
    return np.where(rows & (exact == 0.0) & np.isnan(formula), np.nan, exact)


def _without_overflow(exact: Array, formula: Array) -> Array:
    """The function's values, and the formula's where the function's are not finite and the formula's are."""
    if exact.shape != formula.shape:
        return exact
    return np.where(~np.isfinite(exact) & np.isfinite(formula), formula, exact)


def _low_precision_runs(spec: AttentionSpec, arrays: Sequence[Array], shuffles: int) -> list[tuple[Array, Array]]:
    """The same mathematics in several orders, each as good as any other."""
    q, k, *rest = arrays
    runs = [low_precision(spec, q, k, *rest, product=product) for product in (np.matmul, one_by_one)]
    for seed in range(shuffles):
        order = np.random.default_rng(seed).permutation(spec.head_dim)
        runs.append(low_precision(spec, q[..., order], k[..., order], *rest))
    return runs


def _truth(exact: Array, formula: Array, low: Sequence[Array], rounding: float) -> Truth:
    """The low-precision runs are measured against the formula that they follow."""
    overflows = np.zeros(formula.shape, np.bool_)
    for values in low:
        overflows |= ~np.isfinite(values) & np.isfinite(formula)
    low_error = max(distance(values[~overflows], formula[~overflows]) for values in low)
    is_judged = ~overflows if exact.shape == formula.shape else np.ones(exact.shape, np.bool_)
    return Truth(exact, low_error, rounding, is_judged)


def distance(got: Array, exact: Array) -> float:
    """Largest absolute difference; inf where NaN or infinities stand in different places."""
    if got.shape != exact.shape:
        return math.inf
    finite = np.isfinite(exact) & np.isfinite(got)
    with np.errstate(invalid="ignore"):
        same = finite | (got == exact) | (np.isnan(got) & np.isnan(exact))
    return float(np.abs(got[finite] - exact[finite]).max(initial=0.0)) if same.all() else math.inf


def _magnitude(values: Array) -> float:
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))


def _with_defined_rows(
    user: Array, spec: AttentionSpec, spec_o: Array, spec_lse: Array, arrays: Sequence[Array]
) -> Array:
    """The user's output with the rows that keep no key set to zero.

    PyTorch gives NaN there, or (masks of a large negative number) what equal weights of all keys give. Any other value
    is kept, so that a spec which masks too much is found out.
    """
    empty = np.isneginf(spec_lse)
    if user.shape != spec_o.shape or not empty.any():
        return user
    equal = replace(spec, score=const(0.0), keep=const(True), normaliser=replace(spec.normaliser, sink=None))
    mean, _ = reference(equal, *arrays)
    undefined = np.isnan(user).all(axis=-1) | np.isclose(user, mean, rtol=1e-4, atol=1e-6).all(axis=-1)
    return np.where((empty & undefined)[..., None], 0.0, user)


def _exactly(function: Function, tensors: Sequence[torch.Tensor]) -> Array:
    """The user's function in fp64."""
    raised = [tensor.to(torch.float64) if tensor.is_floating_point() else tensor.clone() for tensor in tensors]
    with torch.no_grad(), in_fp64():
        return _output(function(*raised)).astype(np.float64)


def _output(result: Any) -> Array:
    """The attention output of a function's result: the tensor, or the first of a tuple."""
    first = result[0] if isinstance(result, (tuple, list)) and result else result
    if not isinstance(first, torch.Tensor):
        raise UnsupportedSpec(f"the function returned {type(first).__name__}; wanted a tensor [B, Hq, M, Dv]")
    return as_array(first)


@contextmanager
def in_fp64() -> Iterator[None]:
    """Whatever runs here computes in fp64, also where it names a lower floating type."""
    with _default_float64(), _RaisePrecision():  # type: ignore[no-untyped-call]
        yield


@contextmanager
def _default_float64() -> Iterator[None]:
    """Tensors that the function makes without naming a type are fp64 (process-wide while it runs)."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class _RaisePrecision(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every operation that names a lower floating type gets fp64 instead."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        is_exact = kwargs.get("dtype") is torch.float32 and _is_integer(args)
        if kwargs.get("dtype") in LOW and not is_exact:
            kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


def _is_integer(args: Any) -> bool:
    """Whether an operation's first operand is an integer tensor: x.float() of one is as exact as the author meant."""
    first = args[0] if args else None
    return isinstance(first, torch.Tensor) and not first.is_floating_point()
