"""Runs a program's Triton source in Triton's interpreter, on CPU tensors, in a process of its own."""

from __future__ import annotations

import atexit
import functools
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from ...ir.lift.triton.process import interpreting_process
from ...ir.parser import parse_program
from ...ir.program import Program
from .module import write_module
from .target import errors_of, import_source
from .tuning import DEFAULT_ARCH

__all__ = ["interpret"]


def interpret(
    program: Program, tensors: Sequence[Any], sizes: Mapping[str, int] | None = None, **options: int
) -> tuple[Any, ...]:
    """The outputs of a program on CPU tensors, its inputs in order. Slow: for small sizes.

    sizes: those that no input has. options: those of a launch, see TritonLaunch. Programs of a grid run one after the
    other here, so a wait that is not over when it begins never ends: it raises Deadlock at once.
    """
    return _worker().submit(_interpret, str(program), list(tensors), {**(sizes or {}), **options}).result()


@functools.cache
def _worker() -> ProcessPoolExecutor:
    pool = interpreting_process()
    atexit.register(pool.shutdown)
    return pool


def _interpret(text: str, tensors: list[Any], given: dict[str, int]) -> tuple[Any, ...]:
    module = import_source(write_module(parse_program(text), DEFAULT_ARCH).source)
    with errors_of(module):
        outputs = getattr(module, module.__all__[0])(*tensors, **given)
    return outputs if isinstance(outputs, tuple) else (outputs,)
