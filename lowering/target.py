"""What every target offers: source text from a program, and a launchable kernel from that text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..ir.program import Program

# launch(tensors, sizes): the tensors of the program's parameters in order, outputs included and allocated;
# every size by name. Tensors may have any strides. Nothing is checked here: kernels/ has done it.
Launch = Callable[[Sequence[Any], Mapping[str, int]], None]


@dataclass(frozen=True, slots=True)
class Lowered:
    """A kernel's source: a file that can be read, kept and built on its own."""

    target: str
    arch: str
    source: str
    extension: str


class Target(Protocol):
    """One row of `TARGETS` in lowering/__init__.py."""

    name: str
    includes: Path | None  # the headers that its sources include

    def default_arch(self) -> str:
        """The architecture of this machine, or the most common one where it has none of the target's devices."""

    def lower(self, program: Program, arch: str) -> Lowered:
        """Source text; LoweringError names the line that the target cannot express. Same program, same bytes."""

    def load(self, lowered: Lowered, program: Program) -> Launch:
        """Build (through the cache) and load; BuildError with the compiler's words."""
