"""Take the tensors out of a function: what it captures becomes arguments, so that one compiled form serves
all values.

Looks into closures, defaults, functools.partial, methods, globals and attributes that the code names, and
functions and containers inside those. Which names a code uses is read from its bytecode, once.
"""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

__all__ = ["Captures"]

SIMPLE = (int, float, bool, str, bytes, complex, torch.dtype, torch.device, type(None))
FOREIGN = ("torch", "numpy", "math", "builtins", "functools", "operator", "typing", "tilewright")
MAX_CODES = 4096


class Captures:
    """The distinct tensors of some functions, in order of discovery, and a key for all else in them."""

    def __init__(self, functions: Iterable[Callable[..., Any] | None]) -> None:
        self.tensors: list[torch.Tensor] = []
        self._positions: dict[int, int] = {}
        self._open: set[int] = set()
        self.key: Hashable = tuple([self._freeze(function, NO_NAMES) for function in functions])

    def _freeze(self, value: object, names: frozenset[str]) -> Hashable:
        """A key that is equal for values that behave alike apart from their tensors.

        names: the attributes that the code which reaches the value may ask of it.
        """
        kind = type(value)
        if kind in PLAIN:
            return kind, value
        if isinstance(value, torch.Tensor):
            return "tensor", self._position(value)
        if kind is types.FunctionType and id(value) not in self._open:
            return self._freeze_function(value)  # type: ignore[arg-type]
        if isinstance(value, (tuple, list)):
            return kind, tuple([self._freeze(item, names) for item in value])
        if isinstance(value, SIMPLE):
            return kind, value
        if id(value) in self._open or isinstance(value, type) or _is_foreign(value):
            return _ById(value)
        return self._freeze_object(value, names)

    def _freeze_function(self, function: types.FunctionType) -> Hashable:
        self._open.add(id(function))
        named = names_of(function.__code__)
        held = [_content(cell) for cell in function.__closure__ or ()]
        held += function.__defaults__ or ()
        parts = tuple([self._freeze(item, named.attributes) for item in held])
        if function.__kwdefaults__:
            parts += (self._freeze_items(function.__kwdefaults__, named.attributes),)
        space = function.__globals__
        globals_ = tuple([self._freeze_global(space[name], named) for name in named.globals if name in space])
        self._open.discard(id(function))
        return function.__code__, parts, globals_

    def _freeze_global(self, value: object, named: Names) -> Hashable:
        return _ById(value) if _is_foreign(value) else self._freeze(value, named.attributes)

    def _freeze_items(self, items: dict[Any, Any], names: frozenset[str]) -> Hashable:
        return tuple([(name, self._freeze(item, names)) for name, item in items.items()])

    def _freeze_object(self, value: object, names: frozenset[str]) -> Hashable:
        """Partials, methods, dicts and modules part by part; any other object is itself, with what is named of it."""
        self._open.add(id(value))
        try:
            if isinstance(value, functools.partial):
                parts = value.func, value.args, *value.keywords.values()
                return "partial", tuple(value.keywords), tuple([self._freeze(part, names) for part in parts])
            if isinstance(value, types.MethodType):
                return self._freeze_method(value)
            if isinstance(value, dict):
                return dict, self._freeze_items(value, names)
            call = _call_of(value)
            if call is None:
                return self._attributes(value, names)
            names = names | names_of(call.__code__).attributes
            return "call", self._freeze(call, names), self._attributes(value, names)
        finally:
            self._open.discard(id(value))

    def _freeze_method(self, method: types.MethodType) -> Hashable:
        """A bound method: its code, and its object by what that code names of it."""
        function, owner = method.__func__, method.__self__
        if not isinstance(function, types.FunctionType) or id(owner) in self._open:
            return _ById(function), _ById(owner)
        self._open.add(id(owner))
        frozen = self._attributes(owner, names_of(function.__code__).attributes)
        self._open.discard(id(owner))
        return self._freeze(function, NO_NAMES), frozen

    def _attributes(self, value: object, names: frozenset[str]) -> Hashable:
        """The object, and its named attributes that may change: tensors, numbers, objects; methods by their code."""
        found = {}
        asked, seen = sorted(names), set(names)
        while asked:
            name = asked.pop()
            attribute = _attribute(value, name)
            if isinstance(attribute, types.MethodType) and attribute.__self__ is value:
                code = getattr(attribute.__func__, "__code__", None)
                new = names_of(code).attributes - seen if code is not None else NO_NAMES
                asked, seen = [*asked, *sorted(new)], seen | new
            elif attribute is not _MISSING:
                found[name] = self._freeze(attribute, frozenset(seen))
        return _ById(value), tuple(found.items())

    def _position(self, tensor: torch.Tensor) -> int:
        position = self._positions.setdefault(id(tensor), len(self.tensors))
        if position == len(self.tensors):
            self.tensors.append(tensor)
        return position

    def rebuild(self, function: Callable[..., Any], tensors: Sequence[torch.Tensor]) -> Callable[..., Any]:
        """The function with its tensors replaced by `tensors`, in the order of `self.tensors`."""
        replacement = Replacement(dict(zip(map(id, self.tensors), tensors, strict=True)))

        @functools.wraps(function, updated=())
        def replaced(*args: Any) -> Any:
            with replacement:
                return replacement.of(function(*args))

        return replaced


class Replacement(TorchFunctionMode):
    """While it is on, PyTorch functions see other tensors in the place of some; the user's objects stay as they are."""

    def __init__(self, by_id: dict[int, torch.Tensor]) -> None:
        super().__init__()
        self._by_id = by_id

    def of(self, value: Any) -> Any:
        """The value with its tensors replaced."""
        return tree_map_only(torch.Tensor, lambda tensor: self._by_id.get(id(tensor), tensor), value)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call with the tensors replaced."""
        return func(*self.of(args), **self.of(kwargs or {}))


# What a code names


@dataclass(frozen=True, slots=True)
class Names:
    """Names that a code object, and those nested in it, read from the module and from objects."""

    globals: tuple[str, ...]
    attributes: frozenset[str]


NO_NAMES: frozenset[str] = frozenset()
PLAIN = frozenset(SIMPLE)
_GLOBAL_READS = {"LOAD_GLOBAL", "LOAD_NAME"}
_ATTRIBUTE_READS = {"LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR"}
_MISSING = object()


@functools.lru_cache(MAX_CODES)
def names_of(code: types.CodeType) -> Names:
    """What the bytecode reads by name; what torch and Python themselves provide is left out by the caller."""
    found: dict[str, None] = {}
    attributes: set[str] = set()
    for step in dis.get_instructions(code):
        if step.opname in _GLOBAL_READS:
            found[str(step.argval)] = None
        elif step.opname in _ATTRIBUTE_READS:
            attributes.add(str(step.argval))
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            more = names_of(inner)
            found.update(dict.fromkeys(more.globals))
            attributes |= more.attributes
    return Names(tuple(found), frozenset(attributes))


def _content(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # a name that is not bound yet
        return None


def _call_of(value: object) -> types.FunctionType | None:
    """What runs when the object is called: forward of a torch module, else its class's __call__."""
    name = "forward" if isinstance(value, torch.nn.Module) else "__call__"
    call = getattr(type(value), name, None)
    return call if isinstance(call, types.FunctionType) else None


def _attribute(value: object, name: str) -> object:
    """An attribute that exists, without running properties."""
    if isinstance(getattr(type(value), name, None), property):
        return _MISSING
    return getattr(value, name, _MISSING)


def _is_foreign(value: object) -> bool:
    """Functions and modules of torch, Python and ours hold nothing of the user's."""
    owner = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None) or "builtins"
    if isinstance(value, (types.ModuleType, types.BuiltinFunctionType, types.FunctionType)):
        return owner.partition(".")[0] in FOREIGN
    return False


class _ById:
    """Any other object, equal to itself only; holding it keeps its id from being reused."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and other.value is self.value
