"""The text of a user's function for others to read: its source, the helpers of its own module, and its constants."""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["text_of"]

MAX_HELPERS = 20
PLAIN = (bool, int, float, str, tuple, type(None))
MAX_CONSTANT_CHARS = 200


def text_of(function: Callable[..., Any]) -> str:
    """Source text, after that of helpers and constants it names; "" where Python has none (made in a shell, built in).

    What a partial or a closure has bound is written out where it is a plain constant.
    """
    found: dict[Any, str] = {}
    constants: dict[str, str] = {}
    _collect(_inner(function, constants), found, constants)
    lines = [f"{name} = {value}" for name, value in constants.items()]
    return "\n\n".join(["\n".join(lines), *reversed(found.values())]).strip() + "\n" if found else ""


def _inner(function: Any, constants: dict[str, str]) -> Any:
    """The function inside partials, wrappers, methods and callable objects."""
    while isinstance(function, functools.partial):
        _add_constants(function.keywords.items(), constants)
        function = function.func
    if not inspect.isroutine(function) and not inspect.isclass(function):
        kind = type(function)
        function = getattr(kind, "forward", None) or vars(kind).get("__call__", function)
    function = inspect.unwrap(function)
    return getattr(function, "__func__", function)


def _collect(function: Any, found: dict[Any, str], constants: dict[str, str]) -> None:
    """The source of a function, then of what it calls in its own module."""
    if function in found or len(found) >= MAX_HELPERS:
        return
    try:
        found[function] = textwrap.dedent(inspect.getsource(function)).strip()
        names = inspect.getclosurevars(function)
    except (OSError, TypeError, ValueError):
        return
    known = {**names.globals, **names.nonlocals}
    _add_constants(known.items(), constants)
    for helper in _helpers(function, known):
        _collect(helper, found, constants)


def _helpers(function: Any, known: dict[str, Any]) -> Iterator[Any]:
    """Functions of the same module among the names that a function uses."""
    for value in known.values():
        if inspect.isfunction(value) and value.__module__ == function.__module__:
            yield value


def _add_constants(pairs: Any, constants: dict[str, str]) -> None:
    for name, value in pairs:
        if isinstance(value, PLAIN) and len(repr(value)) <= MAX_CONSTANT_CHARS:
            constants[name] = repr(value)
