"""Where in the user's source an operation comes from, and refusals that say so."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import UnsupportedSpec
from .sizes import is_torch

OUR_ROOT = str(Path(__file__).parent.parent)


@dataclass(frozen=True, slots=True)
class Location:
    """A line of a source file, and the deeper line of a library that was called from it, if any."""

    file: str
    line: int
    inner: Location | None = None

    @property
    def source(self) -> str:
        """The text of the line."""
        return linecache.getline(self.file, self.line).strip()

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def user_file(function: Callable[..., Any]) -> str | None:
    """The source file of a user's function, through functools.partial and decorators."""
    while True:
        inner = getattr(function, "func", None) or getattr(function, "__wrapped__", None)
        if inner is None:
            break
        function = inner
    if isinstance(function, torch.nn.Module):
        function = function.forward
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    return code.co_filename if code is not None else None


def here(file: str | None) -> Location | None:
    """The innermost frame of `file` now on the stack, with the innermost frame outside torch and this package."""
    frame = sys._getframe(1)
    inner: Location | None = None
    current = frame
    while current is not None:
        name = current.f_code.co_filename
        if name == file:
            place = Location(name, current.f_lineno)
            return place if inner is None else Location(name, current.f_lineno, inner)
        if inner is None and not is_torch(name) and not name.startswith(OUR_ROOT):
            inner = Location(name, current.f_lineno)
        if current.f_back is None:
            break
        current = current.f_back
    return inner


def refuse(reason: str, location: Location | None = None, hint: str | None = None) -> UnsupportedSpec:
    """The refusal of a user's function at one of its lines."""
    if location is None:
        return UnsupportedSpec(reason, hint=hint)
    if location.inner is not None:
        reason += f" (at {location.inner}: {location.inner.source})"
    return UnsupportedSpec(reason, str(location), location.source, hint)
