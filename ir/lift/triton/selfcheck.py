"""A lifted program against its kernels: both interpreted on the same tensors, compared at a tolerance from the data."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ...dtypes import DType
from ...errors import VerificationError
from ...interpreter import interpret
from ...program import Program
from .blocks import block_pointers
from .capture import on_cpu
from .lift import Lifted
from .process import interpreting_process

EPSILON = {DType.F16: 2.0**-11, DType.BF16: 2.0**-8, DType.F32: 2.0**-21, DType.F64: 2.0**-50}  # of an output
SPREAD = 2.0  # how much further than the program's own rounding the kernel may be from exact arithmetic


@dataclass(frozen=True, slots=True)
class Comparison:
    """One output of one example: how far kernel and program are from exact arithmetic, and what was allowed."""

    example: int
    output: str
    error: float
    budget: float

    @property
    def is_equal(self) -> bool:
        """Whether the kernel computes what the program says."""
        return self.error <= self.budget


def verify_lift(lifted: Lifted, launch: Callable[..., Any], examples: Sequence[Sequence[Any]]) -> list[Comparison]:
    """Compare on every example. Raises VerificationError at the first output that differs.

    The kernels run in Triton's interpreter, in a process of its own; the launcher is imported there from its file.
    """
    found: list[Comparison] = []
    for number, (example, outputs) in enumerate(zip(examples, interpreted(launch, examples), strict=True)):
        found += _compared(lifted.program, lifted.arguments(launch, example), outputs, number)
        for item in found:
            if not item.is_equal:
                raise VerificationError(
                    f"example {item.example}, output {item.output}: the kernel is {item.error:.3e} from the program, "
                    f"{item.budget:.3e} is allowed"
                )
    return found


def _compared(program: Program, named: dict[str, Any], outputs: Sequence[Any], number: int) -> Iterator[Comparison]:
    arrays = {name: _array(value) for name, value in named.items() if not isinstance(value, int)}
    sizes = {name: value for name, value in named.items() if isinstance(value, int)}
    exact = interpret(program, arrays, sizes=sizes, float_type=np.float64)
    rounded = interpret(program, arrays, sizes=sizes)
    params = [param for param in program.params if param.is_output]
    for param, output in zip(params, outputs, strict=True):
        truth = exact[param.name]
        scale = float(np.abs(truth[np.isfinite(truth)]).max(initial=0.0))
        budget = SPREAD * (distance(rounded[param.name], truth) + EPSILON.get(param.dtype, 0.0) * scale)
        kernel = _array(output)
        if kernel.ndim == truth.ndim:  # rows up to whole blocks are not in the program
            kernel = kernel[tuple(slice(size) for size in truth.shape)]
        yield Comparison(number, param.name, distance(kernel, truth), budget)


def distance(a: Any, b: Any) -> float:
    """The largest difference; infinite where one is finite and the other is not, or shapes differ."""
    if a.shape != b.shape:
        return float("inf")
    finite = np.isfinite(a) & np.isfinite(b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if not (finite | same).all():
        return float("inf")
    return float(np.abs(a[finite].astype(np.float64) - b[finite]).max(initial=0.0))


def _array(value: Any) -> Any:
    tensor = value.detach()
    return (tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor).numpy()


def interpreted(launch: Callable[..., Any], examples: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
    """What the launcher returns, its kernels run by Triton's interpreter in another process."""
    module, name = sys.modules[launch.__module__], launch.__name__
    package = module.__name__ if getattr(module, "__package__", "") else ""
    with interpreting_process() as pool:
        rows = [tuple(example) for example in examples]
        return pool.submit(_run, package, launch.__code__.co_filename, name, rows).result()


def _run(package: str, source: str, name: str, examples: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    module = importlib.import_module(package) if package else _module_of(source)
    results = []
    for example in examples:
        with on_cpu(), block_pointers():
            result = getattr(module, name)(*example)
        results.append(result if isinstance(result, tuple) else (result,))
    return results


def _module_of(source: str) -> ModuleType:
    """A file that belongs to no package."""
    sys.path.insert(0, str(Path(source).parent))
    spec = importlib.util.spec_from_file_location("lifted_launcher", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["lifted_launcher"] = module
    spec.loader.exec_module(module)
    return module
