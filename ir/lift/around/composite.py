"""Composite: attention with steps of PyTorch before and after, as expressions that are evaluated for each call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from ...errors import ShapeError
from ...evaluate import evaluate
from ...expr import Expr, Op, walk
from ...spec import AttentionSpec, TensorSpec
from ..reduce import Reduction
from ..value import DTYPES
from .results import Layout
from .tensors import Evaluation

Attend = Callable[[int, Sequence[torch.Tensor]], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Made:
    """A tensor that is made of the function's arguments: its dims' index variables and its element.

    given: the argument that it is, unchanged; None for one that has to be computed.
    """

    axes: tuple[str, ...]
    element: Expr
    given: str | None = None


@dataclass(frozen=True, slots=True)
class Core:
    """One attention in a function. inputs: for each tensor of its spec, how it follows from the arguments."""

    spec: AttentionSpec
    inputs: tuple[Made, ...]


@dataclass(frozen=True, slots=True)
class Composite:
    """A function of `tensors`: cores, and the result's element over b, h, i, e, which reads core n's output as `@o<n>`.

    layout: how the result is laid out by the function. requires: what the tensors' sizes must fulfil.
    """

    name: str
    tensors: tuple[TensorSpec, ...]
    cores: tuple[Core, ...]
    result: Expr
    axes: tuple[str, ...]
    layout: Layout
    requires: Expr
    reductions: Mapping[Expr, Reduction]
    lengths: Mapping[str, Expr]

    @property
    def specs(self) -> tuple[AttentionSpec, ...]:
        """Those of the kernels."""
        return tuple(core.spec for core in self.cores)

    def sizes(self, tensors: Sequence[torch.Tensor]) -> dict[str, int]:
        """Sizes by name. Raises ShapeError for tensors that the function was not read for."""
        found: dict[str, int] = {}
        for spec, tensor in zip(self.tensors, tensors, strict=True):
            if len(spec.dims) != tensor.dim():
                raise ShapeError(f"{spec.name}: {tuple(tensor.shape)}, wanted {spec.dims}")
            for dim, size in zip(spec.dims, tensor.shape, strict=True):
                if (dim if isinstance(dim, int) else found.setdefault(dim, size)) != size:
                    raise ShapeError(f"{spec.name}: size {size} for {dim} in {tuple(tensor.shape)}")
        if not evaluate(self.requires, found, {}):
            raise ShapeError(f"{self.name}: needs sizes with {self.requires!r}, got {found}")
        return found

    def fits(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether the function was read for tensors of such sizes and types."""
        if [DTYPES.get(tensor.dtype) for tensor in tensors] != [spec.dtype for spec in self.tensors]:
            return False
        try:
            self.sizes(tensors)
        except ShapeError:
            return False
        return True

    def __call__(self, tensors: Sequence[torch.Tensor], attend: Attend, dtype: torch.dtype) -> torch.Tensor:
        """The function's result. attend(n, inputs): the output of core n [B, Hq, M, Dv].

        dtype: in which steps around the cores are computed.
        """
        sizes = self.sizes(tensors)
        by_name = {spec.name: tensor for spec, tensor in zip(self.tensors, tensors, strict=True)}
        before = Evaluation(sizes, by_name, self.reductions, self.lengths, dtype, tensors[0].device)
        outputs = {}
        for number, core in enumerate(self.cores):
            inputs = [
                self._input(made, spec, before, by_name)
                for made, spec in zip(core.inputs, core.spec.tensors, strict=True)
            ]
            outputs[f"@o{number}"] = attend(number, inputs)
        if self.result.op is Op.LOAD and self.result.attr in outputs:
            return self.layout.laid_out(outputs[str(self.result.attr)])
        after = Evaluation(sizes, {**by_name, **outputs}, self.reductions, self.lengths, dtype, tensors[0].device)
        return self.layout.laid_out(after.tensor(self.result, self.axes)).to(tensors[0].dtype)

    @staticmethod
    def _input(made: Made, spec: TensorSpec, before: Evaluation, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if made.given is not None:
            return given[made.given]
        x = before.tensor(made.element, made.axes)
        if x.dtype is torch.float64:  # everything is computed exactly, to be compared with the function
            return x
        return x.to(next(dtype for dtype, name in DTYPES.items() if name is spec.dtype))

    @property
    def told(self) -> str:
        """What torch computes in every call, and around how many kernels, in words."""
        pairs = [pair for core in self.cores for pair in zip(core.inputs, core.spec.tensors, strict=True)]
        computed = [*dict.fromkeys(spec.name for made, spec in pairs if made.given is None)]
        computed += [] if len(self.cores) == 1 and is_load(self.result, "@o0") else ["the result"]
        what = f"computes {', '.join(computed)} in every call" if computed else "lays out the result"
        return f"torch {what}, around {len(self.cores)} kernel{'s' * (len(self.cores) > 1)}"


def is_load(e: Expr, name: str) -> bool:
    """Whether an expression is an element of a tensor."""
    return e.op is Op.LOAD and e.attr == name


def names_in(e: Expr) -> set[str]:
    """Variables and tensors of an expression."""
    return {str(node.attr) for node in walk(e) if node.op in (Op.VAR, Op.LOAD)}
