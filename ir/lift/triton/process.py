"""Processes in which Triton interprets kernels on the CPU: it decides that when it is imported, once per process."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

from ...evaluate import round_bf16

__all__ = ["interpreting_process"]

# No GPU: the interpreter runs on the CPU, and tuning by timing would be meaningless.
ENVIRONMENT = {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}


def interpreting_process() -> ProcessPoolExecutor:
    """A new process that interprets; this one can keep compiling. To be shut down by who asked for it."""
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _repair_bf16)
    with _environment():
        pool.submit(int).result()  # the process starts here, and keeps this environment
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
