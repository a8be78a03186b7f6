"""Take the tensors out of a function: what it captures becomes arguments, so that one compiled form serves
all values.

Looks into closures, defaults, functools.partial, globals that the code names, and functions and tuples
inside those.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import torch

__all__ = ["Captures"]

SIMPLE = (int, float, bool, str, bytes, complex, torch.dtype, torch.device, type(None))


class Captures:
    """The distinct tensors of some functions, in order of discovery, and a key for all else in them."""

    def __init__(self, functions: Iterable[Callable[..., Any] | None]) -> None:
        self.tensors: list[torch.Tensor] = []
        self._positions: dict[int, int] = {}
        self._open: set[int] = set()
        self.key: Hashable = tuple(self._freeze(function) for function in functions)

    def _freeze(self, value: object) -> Hashable:
        """A key that is equal for values that behave alike apart from their tensors."""
        if isinstance(value, torch.Tensor):
            return "tensor", self._position(value)
        if isinstance(value, SIMPLE):
            return type(value), value
        if isinstance(value, (tuple, list)):
            return type(value), tuple(self._freeze(item) for item in value)
        if isinstance(value, functools.partial):
            pairs = tuple((name, self._freeze(item)) for name, item in sorted(value.keywords.items()))
            return "partial", self._freeze(value.func), self._freeze(value.args), pairs
        if isinstance(value, types.FunctionType) and id(value) not in self._open:
            return self._freeze_function(value)
        return _ById(value)

    def _freeze_function(self, function: types.FunctionType) -> Hashable:
        self._open.add(id(function))
        parts = tuple(self._freeze(item) for item in (*_cells(function), *(function.__defaults__ or ())))
        named = tuple((name, self._freeze(function.__globals__[name])) for name in _global_names(function))
        self._open.discard(id(function))
        return "function", function.__code__, parts, named

    def _position(self, tensor: torch.Tensor) -> int:
        position = self._positions.setdefault(id(tensor), len(self.tensors))
        if position == len(self.tensors):
            self.tensors.append(tensor)
        return position

    def rebuild(self, function: Callable[..., Any], tensors: Sequence[torch.Tensor]) -> Callable[..., Any]:
        """The function with its tensors replaced by `tensors`, in the order of `self.tensors`."""
        rebuilt: Callable[..., Any] = self._replace(function, tensors)
        return rebuilt

    def _replace(self, value: Any, tensors: Sequence[torch.Tensor]) -> Any:
        if isinstance(value, torch.Tensor):
            return tensors[self._positions[id(value)]]
        if type(value) in (tuple, list):
            return type(value)(self._replace(item, tensors) for item in value)
        if isinstance(value, functools.partial):
            keywords = {name: self._replace(item, tensors) for name, item in value.keywords.items()}
            return functools.partial(
                self._replace(value.func, tensors), *self._replace(value.args, tensors), **keywords
            )
        if isinstance(value, types.FunctionType) and id(value) not in self._open:
            return self._replace_function(value, tensors)
        return value

    def _replace_function(self, function: types.FunctionType, tensors: Sequence[torch.Tensor]) -> types.FunctionType:
        self._open.add(id(function))
        cells = tuple(types.CellType(self._replace(item, tensors)) for item in _cells(function))
        named = {name: self._replace(function.__globals__[name], tensors) for name in _global_names(function)}
        self._open.discard(id(function))
        new = types.FunctionType(
            function.__code__, {**function.__globals__, **named}, function.__name__,
            self._replace(function.__defaults__, tensors), cells,
        )  # fmt: skip
        new.__kwdefaults__ = function.__kwdefaults__
        return new


def _cells(function: types.FunctionType) -> list[object]:
    return [cell.cell_contents for cell in function.__closure__ or ()]


def _global_names(function: types.FunctionType) -> list[str]:
    """Globals that the code names: tensors, numbers, and functions of the user's own module."""
    found = []
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        own = isinstance(value, types.FunctionType) and value.__globals__ is function.__globals__
        if isinstance(value, (torch.Tensor, *_NUMBERS)) or own:
            found.append(name)
    return found


_NUMBERS = (int, float)


class _ById:
    """Any other object, equal to itself only; holding it keeps its id from being reused."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and other.value is self.value
