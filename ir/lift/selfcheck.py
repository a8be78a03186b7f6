"""The lifted spec against the function itself, in fp64 on small random tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import UnsupportedSpec
from ..evaluate import Array
from ..reference import reference
from ..spec import AttentionSpec, Dim

MOST_CHECKS = 2
MOST_SCORES = 1 << 20
SIZES = ({"B": 2, "Hkv": 3, "M": 5, "N": 7}, {"B": 1, "Hkv": 2, "M": 9, "N": 9})
TOLERANCE = 1e-5  # the function runs in fp64, but may make constants in float32


def check_lifted(function: Callable[..., Any], example: Sequence[torch.Tensor], spec: AttentionSpec) -> None:
    """Raise UnsupportedSpec when the spec's reference and the function disagree on a size both accept."""
    q, k = example[:2]
    given = {"B": k.shape[0], "Hkv": k.shape[1], "M": q.shape[2], "N": k.shape[2]}
    checked = 0
    for sizes in (*SIZES, given):
        if checked == MOST_CHECKS or prod(sizes.values()) > MOST_SCORES:
            continue
        tensors = sample(example, spec, sizes)
        expected = run_function(function, tensors) if holds(spec, tensors) else None
        if expected is None:
            continue
        got, lse = reference(spec, *[x.numpy() for x in tensors])
        if np.isneginf(lse).all() and np.isnan(expected).all():
            continue  # both keep nothing, which says little
        checked += 1
        error = difference(got, lse, expected)
        if not error <= TOLERANCE:
            raise UnsupportedSpec(
                f"the lifted form of {spec.name} differs from the function by {error:.2e} (sizes {sizes}); "
                "this is a defect of the lift: please report it with the function"
            )


def holds(spec: AttentionSpec, tensors: Sequence[torch.Tensor]) -> bool:
    """Whether the sizes of tensors are among those that the spec was made for."""
    sizes: dict[str, int] = {}
    for tensor, given in zip(spec.tensors, tensors, strict=True):
        for dim, size in zip(tensor.dims, given.shape, strict=True):
            if (dim if isinstance(dim, int) else sizes.setdefault(dim, size)) != size:
                return False
    return spec.allows(sizes)


class ExactFloats(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Conversions between float types give float64, so that a function's own rounding does not show."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator; `x.to(torch.bfloat16)` of a float64 tensor stays float64."""
        kwargs = dict(kwargs or {})
        wanted = kwargs.get("dtype")
        if func is torch.ops.aten._to_copy.default and args[0].dtype == torch.float64 and wanted is not None:
            kwargs["dtype"] = torch.float64 if wanted.is_floating_point else wanted
        return func(*args, **kwargs)


def run_function(function: Callable[..., Any], tensors: Sequence[torch.Tensor]) -> Array | None:
    """The function's result in fp64 (fp32 where it only takes that), or None where it refuses these sizes."""
    for dtype in (torch.float64, torch.float32):  # finfo(float64).min does not fit where PyTorch wants a float32
        given = [x.to(dtype) if x.is_floating_point() else x for x in tensors]
        try:
            with torch.no_grad(), ExactFloats():  # type: ignore[no-untyped-call]
                result = function(*given)
        except Exception:  # noqa: BLE001 (a function may refuse sizes that its author did not mean)
            continue
        result = result[0] if isinstance(result, (tuple, list)) else result
        return np.asarray(result.double().numpy())
    return None


def difference(got: Array, lse: Array, expected: Array) -> float:
    """Largest error relative to 1 + |expected|, over rows that keep a column."""
    rows = ~np.isneginf(lse)
    if got.shape != expected.shape:
        return float("inf")
    if not rows.any():
        return float("inf")
    return float((np.abs(got - expected)[rows] / (1.0 + np.abs(expected[rows]))).max())


def sample(
    example: Sequence[torch.Tensor], spec: AttentionSpec, sizes: dict[str, int], seed: int = 0
) -> list[torch.Tensor]:
    """Random fp64 q, k, v and captured tensors cut or repeated from the example to the given sizes."""
    generator = torch.Generator().manual_seed(seed)
    named: dict[Dim, int] = {}
    named.update(sizes)
    named |= {"Hq": sizes["Hkv"] * spec.group, "D": spec.head_dim, "Dv": spec.value_dim}
    made: list[torch.Tensor] = []
    for tensor, given in zip(spec.tensors, example, strict=True):
        dims = zip(tensor.dims, given.shape, strict=True)
        shape = [dim if isinstance(dim, int) else named.setdefault(dim, size) for dim, size in dims]
        if tensor.name in ("q", "k", "v"):
            made.append(torch.randn(shape, generator=generator, dtype=torch.float64))
        else:
            cut = resized(given.detach().cpu(), shape)
            made.append(cut.double() if cut.is_floating_point() else cut)
    return made


def resized(x: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The tensor cut, or repeated from its start, to a shape."""
    for axis, size in enumerate(shape):
        x = x.index_select(axis, torch.arange(size) % x.shape[axis])
    return x.contiguous()
