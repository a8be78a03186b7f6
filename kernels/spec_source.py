"""The function and example tensors that a command line names: `path/to/file.py:function` or
`package.module:function`.

The module is imported, as Python would run it; whatever goes wrong there becomes one message with the
user's line.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ..ir.dtypes import DType
from ..ir.errors import UnsupportedSpec
from .dtypes import from_torch, to_torch
from .shapes import DEFAULT_SHAPE, Shape

__all__ = ["SpecSource", "example_tensors", "load_module", "load_source"]


@dataclass(frozen=True, slots=True)
class SpecSource:
    """A user's function and the module it was found in."""

    function: Callable[..., Any]
    module: ModuleType
    name: str


def load_source(text: str) -> SpecSource:
    """Import what `path/to/file.py:function` or `package.module:function` names.

    Raises UnsupportedSpec for a missing file, module or function, and for a module that does not import.
    """
    place, colon, name = text.rpartition(":")
    if not colon or not place or not name.isidentifier():
        raise UnsupportedSpec(f"{text!r}: wanted path/to/file.py:function or package.module:function")
    module = load_module(place)
    function = getattr(module, name, None)
    if not callable(function):
        raise UnsupportedSpec(f"{place} has no function {name!r}{_suggest(module, name)}")
    return SpecSource(function, module, name)


def load_module(place: str) -> ModuleType:
    """Import a .py file or a module by name. Raises UnsupportedSpec when it is missing or does not import."""
    with _blaming(place):
        return _module_of_file(Path(place)) if place.endswith(".py") else _module_named(place)


def _module_of_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UnsupportedSpec(f"{path}: no such file")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module


def _module_named(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise UnsupportedSpec(f"{name!r} is neither a .py file nor a module's name")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(name)


@contextmanager
def _blaming(place: str) -> Iterator[None]:
    """Turn whatever the user's module raises into one message that names the line."""
    try:
        yield
    except UnsupportedSpec:
        raise
    except SyntaxError as error:
        reason = f"does not parse: {error.msg}"
        raise UnsupportedSpec(reason, f"{error.filename}:{error.lineno}", error.text) from error
    except (Exception, SystemExit) as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"importing {place} failed: {type(error).__name__}: {error}"
        raise UnsupportedSpec(reason, f"{frame.filename}:{frame.lineno}", frame.line) from error


def _suggest(module: ModuleType, name: str) -> str:
    known = [
        n for n, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == module.__name__
    ]
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; it has: {', '.join(known)}" if known else ""


def example_tensors(source: SpecSource, shape: Shape | None, dtype: DType | None) -> tuple[torch.Tensor, ...]:
    """(q, k, v, *captured): from the module's `<function>_inputs()` or `inputs()`, else random ones of
    `shape`.

    dtype replaces q's element type, wherever it occurs among the tensors. Raises UnsupportedSpec when the
    function does not take these tensors.
    """
    tensors = _inputs(source)
    if tensors is None:
        tensors = _random(shape or DEFAULT_SHAPE)
    if dtype is not None:
        own, wanted = tensors[0].dtype, to_torch(dtype)
        tensors = tuple(tensor.to(wanted) if tensor.dtype == own else tensor for tensor in tensors)
    from_torch("q", tensors[0].dtype)
    _check_arity(source, len(tensors))
    return tensors


def _inputs(source: SpecSource) -> tuple[torch.Tensor, ...] | None:
    for name in (f"{source.name}_inputs", "inputs"):
        make = getattr(source.module, name, None)
        if not callable(make):
            continue
        with _blaming(f"{name}()"):
            tensors = make()
        if not isinstance(tensors, (tuple, list)) or len(tensors) < 3:
            raise UnsupportedSpec(f"{name}() returned {type(tensors).__name__}; wanted (q, k, v, *captured)")
        wrong = [type(tensor).__name__ for tensor in tensors if not isinstance(tensor, torch.Tensor)]
        if wrong:
            raise UnsupportedSpec(f"{name}() returned a {wrong[0]} among the tensors; wanted tensors only")
        return tuple(tensors)
    return None


def _random(shape: Shape) -> tuple[torch.Tensor, ...]:
    batch, hq, hkv, m, n, d, dv = shape
    generator = torch.Generator().manual_seed(0)
    sizes = ((batch, hq, m, d), (batch, hkv, n, d), (batch, hkv, n, dv))
    return tuple(torch.randn(size, generator=generator) for size in sizes)


def _check_arity(source: SpecSource, count: int) -> None:
    """Refuse a function that does not take `count` tensors, before anything is traced."""
    try:
        signature = inspect.signature(source.function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*range(count))
    except TypeError as error:
        code = getattr(source.function, "__code__", None)
        where = f"{code.co_filename}:{code.co_firstlineno}" if code else source.name
        raise UnsupportedSpec(
            f"{source.name}{signature} does not take {count} tensors: {error}",
            where,
            hint=f"write f(q, k, v, *captured), and {source.name}_inputs() that returns (q, k, v, *captured)",
        ) from None
