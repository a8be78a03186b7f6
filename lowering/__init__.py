"""From a program to source text, and from source text to something that runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module

from .target import Launch, Lowered, Target

__all__ = ["TARGETS", "Launch", "Lowered", "Target"]

_CLASSES = {"cpu": (".cpp.target", "CpuTarget"), "triton": (".triton.target", "TritonTarget")}


class _Targets(Mapping[str, Target]):
    """Every target by name; one is imported when it is first asked for."""

    def __getitem__(self, name: str) -> Target:
        return _make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(_CLASSES)

    def __len__(self) -> int:
        return len(_CLASSES)


@cache
def _make(name: str) -> Target:
    module, kind = _CLASSES[name]
    target: Target = getattr(import_module(module, __name__), kind)()
    return target


TARGETS: Mapping[str, Target] = _Targets()
