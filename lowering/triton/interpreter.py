"""Runs a program's Triton source in Triton's interpreter, on CPU tensors, in a process of its own.

Triton decides at import whether it interprets, so the process that asks can keep compiling.
"""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from ...ir.parser import parse_program
from ...ir.program import Program
from .module import write_module
from .target import import_source
from .tuning import DEFAULT_ARCH

__all__ = ["interpret"]

# No GPU: the interpreter runs on the CPU, and tuning by timing would be meaningless.
ENVIRONMENT = {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}


def interpret(program: Program, tensors: Sequence[Any]) -> tuple[Any, ...]:
    """The outputs of a program on CPU tensors, its inputs in order. Slow: for small sizes."""
    return _worker().submit(_interpret, str(program), list(tensors)).result()


@functools.cache
def _worker() -> ProcessPoolExecutor:
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    with _environment():
        pool.submit(int).result()  # the process starts here, and keeps this environment
    atexit.register(pool.shutdown)
    return pool


@contextmanager
def _environment() -> Iterator[None]:
    saved = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _interpret(text: str, tensors: list[Any]) -> tuple[Any, ...]:
    module = import_source(write_module(parse_program(text), DEFAULT_ARCH).source)
    outputs = getattr(module, module.__all__[0])(*tensors)
    return outputs if isinstance(outputs, tuple) else (outputs,)
