"""The arguments of a user's function: their names, their dims, and fake tensors with symbolic sizes for them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..dtypes import DType
from ..errors import DTypeError, ShapeError, UnsupportedSpec
from ..parse_expr import RESERVED
from ..spec import SCORE_PARAMETERS, SIZES
from .sizes import Sizes
from .value import DTYPES

REGIONS = ("score", "keep", "weight", "after", "requires")
TAKEN = frozenset({*RESERVED, *SCORE_PARAMETERS, *SIZES, *REGIONS, "q", "k", "v", "o", "lse"})
FLOATS = (DType.F64, DType.F32, DType.BF16, DType.F16)


@dataclass(frozen=True, slots=True)
class Arguments:
    """Checked example tensors: q, k, v and the captured ones with their names."""

    tensors: tuple[torch.Tensor, ...]
    names: tuple[str, ...]

    @property
    def group(self) -> int:
        """Query heads per key head."""
        return int(self.tensors[0].shape[1] // self.tensors[1].shape[1])


def check_arguments(function: Callable[..., Any], example: Sequence[Any]) -> Arguments:
    """The example tensors with their names. Raises ShapeError, DTypeError or UnsupportedSpec."""
    tensors = tuple(example)
    if len(tensors) < 3 or not all(isinstance(x, torch.Tensor) for x in tensors):
        kinds = ", ".join(type(x).__name__ for x in tensors)
        raise UnsupportedSpec(f"the example must be tensors (q, k, v, *captured), got ({kinds})")
    q, k, v = tensors[:3]
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.dim() != 4:
            raise ShapeError(
                f"{name} has shape {tuple(x.shape)}, wanted 4 dims [B, heads, length, head_dim]; "
                "give the kernel a view such as x.unsqueeze(1) or packed.unbind(2), and f(q, k, v) the reverse"
            )
        if DTYPES.get(x.dtype) not in FLOATS or x.dtype != q.dtype:
            raise DTypeError(f"{name} is {x.dtype}, wanted one floating type for q, k and v (q is {q.dtype})")
    for what, a, b in (
        ("q and k: batch", q.shape[0], k.shape[0]), ("q and v: batch", q.shape[0], v.shape[0]),
        ("k and v: heads", k.shape[1], v.shape[1]), ("k and v: length", k.shape[2], v.shape[2]),
        ("q and k: head_dim", q.shape[3], k.shape[3]),
    ):  # fmt: skip
        if a != b:
            raise ShapeError(f"{what} differs: {a} and {b}; q {_shape(q)}, k {_shape(k)}, v {_shape(v)}")
    if not k.shape[1] or q.shape[1] % k.shape[1]:
        raise ShapeError(f"q has {q.shape[1]} heads, which is no multiple of the {k.shape[1]} heads of k")
    return Arguments(tensors, ("q", "k", "v", *_captured_names(function, len(tensors) - 3)))


def _shape(x: torch.Tensor) -> tuple[int, ...]:
    return tuple(x.shape)


def _captured_names(function: Callable[..., Any], count: int) -> list[str]:
    """Names from the function's signature; c0, c1, … for *captured."""
    try:
        parameters = [
            p.name
            for p in inspect.signature(function).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ][3:]
    except (TypeError, ValueError):
        parameters = []
    names: list[str] = []
    for number in range(count):
        name = parameters[number] if number < len(parameters) else f"c{number}"
        while name in TAKEN or name in names:
            name += "_"
        names.append(name)
    return names


FEW = 8


@dataclass(frozen=True, slots=True)
class Assumption:
    """What a trace takes for granted about sizes, where the function's Python code asks."""

    stand_in: int  # an example size of 1 is traced as this, so that 1 is not special
    is_heads_fixed: bool = False  # the number of heads is a plain number
    fixed: int = 1  # sizes of captured tensors up to this one are plain numbers
    keeps: bool = False  # but not those that q or k have as well


ASSUMPTIONS = (
    Assumption(stand_in=3),
    Assumption(stand_in=1),
    Assumption(stand_in=3, is_heads_fixed=True),  # keys of one head, broadcast over those of q
    Assumption(stand_in=1, is_heads_fixed=True),
    Assumption(stand_in=3, fixed=FEW, keeps=True),  # sums over coordinates or chosen blocks are written out
    Assumption(stand_in=3, fixed=FEW),
    Assumption(stand_in=3, fixed=FEW, is_heads_fixed=True),
)
"""In this order: the most general first."""


def make_fakes(sizes: Sizes, arguments: Arguments, assumption: Assumption) -> tuple[torch.Tensor, ...]:
    """Fake tensors: B, Hkv, M and N are symbols, so is every size of a captured tensor that is not 1."""
    q, k, v = arguments.tensors[:3]
    given = {"B": q.shape[0], "Hkv": k.shape[1], "M": q.shape[2], "N": k.shape[2]}
    b, h, m, n = (
        size
        if name == "Hkv" and assumption.is_heads_fixed
        else sizes.symbol(name, size if size > 1 else assumption.stand_in)
        for name, size in given.items()
    )
    fakes = [
        sizes.empty((b, arguments.group * h, m, q.shape[3]), q.dtype),
        sizes.empty((b, h, n, k.shape[3]), k.dtype),
        sizes.empty((b, h, n, v.shape[3]), v.dtype),
    ]
    number, taken = 0, {*given.values(), q.shape[1]}
    for tensor in arguments.tensors[3:]:
        shape: list[Any] = []
        for size in tensor.shape:
            is_free = size > assumption.fixed or (size > 1 and assumption.keeps and size in taken)
            shape.append(sizes.symbol(f"T{number}", size) if is_free else size)
            number += is_free
        fakes.append(sizes.empty(shape, tensor.dtype))
    return tuple(fakes)
