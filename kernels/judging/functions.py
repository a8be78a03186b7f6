"""A function and example tensors alone: the names of dims found by trying, the truth by running it in fp64.

The budget is twice the sum of three errors: of the function run in its own element type, of rounding each of q, k and v
anew (the worst of a few draws), and of storing the result. Rows that are NaN throughout are not judged: they are rows
that keep nothing, which each program may define.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, product
from typing import Any

import numpy as np
import torch

from ...ir.errors import ShapeError
from ...ir.evaluate import Array
from ...ir.program import Program
from ...ir.spec import AttentionSpec, TensorSpec
from ..cases import Case
from ..dtypes import as_array, from_torch
from ..oracle import Truth, distance, in_fp64
from ..same_tensors import input_tensors
from ..tensors import case_tensors
from .claims import MOST_SCORES, Unanswered, answered, nearest
from .inputs import Inputs, sizes_of

__all__ = ["FunctionClaim"]

Function = Callable[..., Any]
PROBES = ({"B": 2, "Hkv": 3, "M": 5, "N": 7}, {"B": 2, "Hkv": 3, "M": 7, "N": 7})
MOST_NAMINGS = 64
DRAWS = 2
FLOAT32_EPSILON = float(torch.finfo(torch.float32).eps)


@dataclass(frozen=True)
class FunctionClaim:
    """A function f(q, k, v, *captured) -> o that no lift understands."""

    function: Function
    example: Sequence[torch.Tensor]
    name: str

    @property
    def group(self) -> int:
        """Query heads of a key head."""
        return self.example[0].shape[1] // self.example[1].shape[1]

    @cached_property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """q, k, v and the captured tensors; a captured dim is named after the size that it follows, as far as known."""
        sizes = self._sizes()
        choices = [_namings(position, dim, sizes) for position, tensor in enumerate(self.example[3:])
                   for dim in enumerate(tensor.shape)]  # fmt: skip
        namings = [self._specs(named) for named in islice(product(*choices), MOST_NAMINGS)]
        for probe in PROBES:  # lengths that differ first: they tell M from N
            for specs in namings:
                if self._takes(specs, probe):
                    return specs
        return self._specs(tuple(int(size) for tensor in self.example[3:] for size in tensor.shape))

    def check(self, program: Program) -> None:
        """Raise ShapeError for a program that takes other tensors."""
        inputs = input_tensors(program)
        if len(inputs) != len(self.example):
            raise ShapeError(f"program {program.name} takes {len(inputs)} tensors, function {self.name} "
                             f"{len(self.example)}")  # fmt: skip
        sizes = dict(program.sizes)
        for spec, tensor in zip(inputs, self.example, strict=True):
            dtype = from_torch(spec.name, tensor.dtype)
            if spec.dtype is not dtype or len(spec.dims) != tensor.dim():
                taken, wanted = f"{spec.dtype.value} of rank {len(spec.dims)}", f"{dtype.value} {list(tensor.shape)}"
                raise ShapeError(f"{spec.name}: program {program.name} takes {taken}, function {self.name} {wanted}")
            for dim, size in zip(spec.dims, tensor.shape, strict=True):
                if (dim if isinstance(dim, int) else sizes.setdefault(dim, size)) != size:
                    raise ShapeError(f"{spec.name}: program {program.name} has {dim} where the example has {size}")

    def allows(self, inputs: Inputs) -> bool:
        """Whether the function takes these sizes, by trying."""
        try:
            sizes = sizes_of(self.tensors, inputs.tensors)
            if sizes["Hq"] != self.group * sizes["Hkv"]:
                return False
            found = self._exactly(inputs.tensors)
        except (ShapeError, Unanswered):
            return False
        return found.shape == (*inputs.tensors[0].shape[:3], inputs.tensors[2].shape[3])

    def draw(self, wanted: Case) -> Inputs:
        """Tensors of the case, or of the nearest one with sizes that the function takes."""
        case = nearest(wanted, self._own_case(), lambda case: self.allows(self._draw(self.tensors, case)))
        return self._draw(self.tensors, case)

    def expect(self, inputs: Inputs) -> dict[str, Truth]:
        """The function in fp64, and how far rounding moves it. Raises Unanswered."""
        exact = self._exactly(inputs.tensors)
        low = answered(lambda: _array(self.function(*(x.clone() for x in inputs.tensors))))
        eps = float(torch.finfo(inputs.tensors[0].dtype).eps)
        errors = [distance(low, exact)] + [distance(self._jittered(inputs, eps, n), exact) for n in range(DRAWS)]
        low_error = max((error for error in errors if math.isfinite(error)), default=0.0)
        values = as_array(inputs.tensors[2]).astype(np.float64)
        rounding = eps * _magnitude(exact) + FLOAT32_EPSILON * _magnitude(values)
        is_judged = ~np.broadcast_to(np.isnan(exact).all(axis=-1, keepdims=True), exact.shape)
        return {"o": Truth(exact, low_error, rounding, is_judged & (np.isfinite(low) | ~np.isfinite(exact)))}

    @property
    def own(self) -> tuple[Case, ...]:
        """The example's sizes, unless they are large."""
        case = self._own_case()
        return (case,) if case.batch * case.kv_heads * self.group * case.rows * case.columns <= MOST_SCORES else ()

    @property
    def constants(self) -> tuple[int, ...]:
        """Nothing is known of them."""
        return ()

    def _own_case(self) -> Case:
        q, k = self.example[:2]
        return Case(k.shape[0], k.shape[1], q.shape[2], k.shape[2])

    def _sizes(self) -> dict[str, int]:
        q, k, v = self.example[:3]
        return {"B": q.shape[0], "Hq": q.shape[1], "Hkv": k.shape[1], "M": q.shape[2], "N": k.shape[2],
                "D": q.shape[3], "Dv": v.shape[3]}  # fmt: skip

    def _specs(self, named: tuple[str | int, ...]) -> tuple[TensorSpec, ...]:
        dims = iter(named)
        own = [("B", "Hq", "M", "D"), ("B", "Hkv", "N", "D"), ("B", "Hkv", "N", "Dv")]
        own += [tuple(next(dims) for _ in tensor.shape) for tensor in self.example[3:]]  # type: ignore[misc]
        names = ("q", "k", "v", *(f"captured{n}" for n in range(len(self.example) - 3)))
        return tuple(TensorSpec(name, from_torch(name, tensor.dtype), one)
                     for name, tensor, one in zip(names, self.example, own, strict=True))  # fmt: skip

    def _takes(self, specs: tuple[TensorSpec, ...], probe: dict[str, int]) -> bool:
        inputs = self._draw(specs, Case(probe["B"], probe["Hkv"], probe["M"], probe["N"]))
        try:
            return self._exactly(inputs.tensors).shape == (*inputs.tensors[0].shape[:3], inputs.tensors[2].shape[3])
        except Unanswered:
            return False

    def _draw(self, specs: tuple[TensorSpec, ...], case: Case) -> Inputs:
        q, v = self.example[0], self.example[2]
        stand_in = AttentionSpec(self.name, specs[0].dtype, q.shape[3], v.shape[3], self.group, specs[3:])
        tensors = case_tensors(stand_in, case, self.example, {})
        return Inputs(case.name, specs, tuple(tensors), case.content)

    def _exactly(self, tensors: Sequence[torch.Tensor]) -> Array:
        def ask() -> Array:
            raised = [x.to(torch.float64) if x.is_floating_point() else x.clone() for x in tensors]
            with torch.no_grad(), in_fp64():
                return _array(self.function(*raised))

        found: Array = answered(ask)
        return found

    def _jittered(self, inputs: Inputs, eps: float, seed: int) -> Array:
        """The truth of inputs off by up to one rounding: of float32 in q and k (scores), of the type in v (weights)."""
        random = torch.Generator().manual_seed(seed)
        moved = []
        for position, tensor in enumerate(inputs.tensors):
            size = {0: FLOAT32_EPSILON, 1: FLOAT32_EPSILON, 2: eps}.get(position)
            exact = tensor.to(torch.float64) if tensor.is_floating_point() else tensor
            noise = torch.rand(tensor.shape, generator=random, dtype=torch.float64) * 2 - 1
            moved.append(exact if size is None else exact * (1 + size * noise))
        return self._exactly(moved)


def _namings(position: int, dim: tuple[int, int], sizes: dict[str, int]) -> list[str | int]:
    """What a captured dim may follow: sizes that it equals, lengths before heads; itself last."""
    _, size = dim
    if size == 1:
        return [1]
    order = ("M", "N", "Hq", "Hkv", "B", "D", "Dv")
    return [name for name in order if sizes[name] == size] + [size]


def _array(result: Any) -> Array:
    first = result[0] if isinstance(result, (tuple, list)) and result else result
    if not isinstance(first, torch.Tensor):
        raise TypeError(f"the function returned {type(first).__name__}; wanted a tensor [B, Hq, M, Dv]")
    return as_array(first).astype(np.float64)


def _magnitude(values: Array) -> float:
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
