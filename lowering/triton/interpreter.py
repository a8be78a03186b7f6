"""Runs a program's Triton source in Triton's interpreter, on CPU tensors, in a process of its own.

Triton decides at import whether it interprets, so the process that asks can keep compiling.
"""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

from ...ir.evaluate import round_bf16
from ...ir.parser import parse_program
from ...ir.program import Program
from .module import write_module
from .target import errors_of, import_source
from .tuning import DEFAULT_ARCH

__all__ = ["interpret"]

# No GPU: the interpreter runs on the CPU, and tuning by timing would be meaningless.
ENVIRONMENT = {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}


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
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _repair_bf16)
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


def _interpret(text: str, tensors: list[Any], given: dict[str, int]) -> tuple[Any, ...]:
    module = import_source(write_module(parse_program(text), DEFAULT_ARCH).source)
    with errors_of(module):
        outputs = getattr(module, module.__all__[0])(*tensors, **given)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _repair_bf16() -> None:
    """In the interpreting process: make bf16 what it is on a GPU.

    Triton's interpreter holds bf16 as 16 raw bits; it multiplies those as integers, and truncates where GPUs round.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    product, conversion = builder.create_dot, builder.cast_impl

    def widened(tile: Any) -> Any:
        if tile.dtype.scalar != tl.bfloat16:
            return tile
        return handle((tile.data.astype(np.uint32) << np.uint32(16)).view(np.float32), tl.float32)

    def create_dot(self: Any, left: Any, right: Any, *rest: Any) -> Any:
        return product(self, widened(left), widened(right), *rest)

    def cast_impl(self: Any, source: Any, kind: Any) -> Any:
        if (source.dtype.scalar, kind.scalar) != (tl.float32, tl.bfloat16):
            return conversion(self, source, kind)
        bits = round_bf16(source.data).view(np.uint32) >> np.uint32(16)
        return handle(bits.astype(np.uint16), tl.bfloat16)

    builder.create_dot, builder.cast_impl = create_dot, cast_impl
