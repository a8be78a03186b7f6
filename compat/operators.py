"""Functions of an interface as torch's one operator of ours, where torch records or transforms a call.

torch.compile, torch.export, fake tensors and dispatch modes then see one node; what the function checks and launches
stays behind it, and runs when the node does.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..kernels.torch_ops import Described, Runner, is_recorded, local_key, register

__all__ = ["as_operator"]

Function = Callable[..., Tensor]
Constants = tuple[tuple[str, object], ...]

_functions: dict[str, Function] = {}
_keys: dict[tuple[str, tuple[str, ...], tuple[str, ...], Constants], str] = {}


class FunctionRunner(Runner):
    """A function with everything but its tensors and lengths given; o is as q, with the width of v."""

    def __init__(self, function: Function, tensors: tuple[str, ...], lengths: tuple[str, ...], rest: Constants) -> None:
        self.key = local_key()
        self._function = function
        self._names = tensors, lengths
        self._rest = dict(rest)

    def describe(self, tensors: Sequence[Tensor], sizes: Sequence[int]) -> Described:
        """The output's shape and type."""
        q, v = (tensors[self._names[0].index(name)] for name in ("q", "v"))
        return [((*q.shape[:-1], v.shape[-1]), q.dtype)]

    def run(self, tensors: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        """The function's output."""
        given = dict(zip(self._names[0], tensors, strict=True)) | dict(zip(self._names[1], sizes, strict=True))
        return [self._function(**given, **self._rest)]


def as_operator(*lengths: str) -> Callable[[Function], Function]:
    """Decorate a function of q, k, v and others that returns o [..., Dv] and changes none of its arguments.

    lengths: parameters that are integers and may change from call to call without a new graph.
    """

    def decorate(function: Function) -> Function:
        names = tuple(inspect.signature(function).parameters)
        name = f"{function.__module__}.{function.__qualname__}"
        _functions[name] = function

        @functools.wraps(function)
        def call(*args: object, **kwargs: object) -> Tensor:
            if not is_recorded() or len(args) > len(names):
                return function(*args, **kwargs)
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            tensors = tuple([key for key in given if isinstance(given[key], Tensor)])
            if "q" not in tensors or "v" not in tensors:
                return function(*args, **kwargs)  # its refusal
            numbers = tuple([key for key in given if key in lengths])
            rest = tuple([(key, given[key]) for key in given if key not in tensors and key not in numbers])
            key = _key_of(name, tensors, numbers, rest)
            (o,) = torch.ops.tilewright.call(key, [given[key] for key in tensors], [given[key] for key in numbers])
            found: Tensor = o
            return found

        return call

    return decorate


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _key_of(name: str, tensors: tuple[str, ...], lengths: tuple[str, ...], rest: Constants) -> str:
    known = name, tensors, lengths, rest
    if known not in _keys:
        _keys[known] = register(FunctionRunner(_functions[name], tensors, lengths, rest))
    return _keys[known]
