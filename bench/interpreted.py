"""A launch of a Triton kernel in Triton's interpreter, for machines without a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..kernels.compiled import Compiled
from ..lowering.target import Launch
from ..lowering.triton.interpreter import interpret

__all__ = ["interpreted"]


def interpreted(compiled: Compiled) -> Launch:
    """What `Compiled.use` takes: runs the program's Triton source on CPU tensors. Slow: for small sizes."""
    program = compiled.program
    inputs = [not param.is_output for param in program.params]
    known = {dim for param in program.params if not param.is_output for dim in param.dims}

    def launch(tensors: Sequence[Any], sizes: Mapping[str, int], **options: int) -> None:
        given = [tensor.detach() for tensor, is_input in zip(tensors, inputs, strict=True) if is_input]
        outputs = [tensor for tensor, is_input in zip(tensors, inputs, strict=True) if not is_input]
        own = {name: size for name, size in sizes.items() if name not in known and name not in program.fixed}
        for output, found in zip(outputs, interpret(program, given, own, **options), strict=True):
            output.copy_(found)

    return launch
