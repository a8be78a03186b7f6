"""What a program's kernels cost on an architecture: cross-compiled without its GPU, read off the machine code."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...ir.dtypes import DType
from ...ir.errors import BuildError
from ...ir.program import Program
from .kernel import Kernel
from .module import Module, unspecialised_strides, write_module
from .target import import_source
from .tuning import fixed as fixed_rows
from .turns import MOST_SPINS, REPORT, TICKETS

__all__ = ["Report", "compile_report", "read_machine_code"]

POINTERS = {
    DType.F64: "*fp64", DType.F32: "*fp32", DType.BF16: "*bf16", DType.F16: "*fp16", DType.I64: "*i64",
    DType.I32: "*i32", DType.I16: "*i16", DType.I8: "*i8", DType.U8: "*u8", DType.BOOL: "*i1",
}  # fmt: skip
TENSOR_CORE = re.compile(r"(?<![.\w])(?:[HIDQO]G?MMA|UTC\w*MMA)\b")  # HFMA2.MMA is none of them
SPILL = re.compile(r"\b(?:STL|LDL)\b")
RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+)")
UNTUNED = (4, 1)
Place = tuple[int, ...]  # an argument, by position, as Triton names it


@dataclass(frozen=True, slots=True)
class Report:
    """One kernel, compiled: registers and spilled bytes a thread, instructions that spill, shared bytes a block."""

    kernel: str
    arch: str
    warps: int
    stages: int
    registers: int
    spills: int
    spill_bytes: int
    shared_bytes: int
    tensor_core_instructions: int
    seconds: float


def compile_report(program: Program, arch: str, config: tuple[int, int] | None = None) -> tuple[Report, ...]:
    """A report for each kernel. `config`: (warps, stages), by default the first of the tuning table.

    Strides are taken to be those of dense tensors. Raises BuildError in the compiler's words.
    """
    module = write_module(program, arch)
    loaded = import_source(module.source)
    rows = (config,) if config else module.configs.get(arch, (UNTUNED,))
    chosen = [(kernel, fixed_rows(kernel, rows)[0]) for kernel in module.kernels]
    return tuple(_report(module, kernel, getattr(loaded, kernel.name), arch, row) for kernel, row in chosen)


def _report(module: Module, kernel: Kernel, function: Any, arch: str, config: tuple[int, int]) -> Report:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = function if hasattr(function, "params") else function.fn
    source = ASTSource(function, *_signature(module, kernel, function.arg_names))
    warps, stages = config
    begin = time.perf_counter()
    try:
        target = GPUTarget("cuda", int(arch.removeprefix("sm_")), 32)
        built = triton.compile(source, target=target, options={"num_warps": warps, "num_stages": stages})
    except Exception as error:
        raise BuildError(f"Triton cannot compile {kernel.name} for {arch}: {error}") from error
    seconds = time.perf_counter() - begin
    registers, spill_bytes, spills, products = read_machine_code(built.asm["cubin"], arch)
    return Report(
        kernel.name, arch, warps, stages, registers, spills, spill_bytes, built.metadata.shared, products, seconds
    )  # fmt: skip


def _signature(
    module: Module, kernel: Kernel, names: list[str]
) -> tuple[dict[str, str], dict[Place, int], dict[Place, list[Any]]]:
    """Types, constants and alignments of arguments, as Triton would derive them from dense tensors."""
    context = module.context
    types = {context.names(name): POINTERS[context.shapes.dtype(name)] for name in kernel.tensors}
    told = {name: context.stride_parameters(name) for name in kernel.tensors}
    unit = {names[-1] for name, names in told.items() if names and names == context.strides(name)}
    variable = {stride for name in kernel.tensors for stride in unspecialised_strides(context, name)}
    variable |= {*kernel.sizes, "size_class"}
    types |= dict.fromkeys((*kernel.turns, TICKETS, REPORT), POINTERS[DType.I32])
    fixed = {**dict.fromkeys(unit, 1), **({MOST_SPINS: 0} if kernel.turns else {})}
    signature = {name: "constexpr" if name in fixed else types.get(name, "i32") for name in names}
    constants: dict[Place, int] = {(names.index(name),): value for name, value in fixed.items()}
    aligned = [n for n, name in enumerate(names) if name not in fixed and name not in variable]
    return signature, constants, {(n,): [["tt.divisibility", 16]] for n in aligned}


def read_machine_code(cubin: bytes, arch: str) -> tuple[int, int, int, int]:
    """Registers, bytes of the stack, spilling instructions, tensor-core instructions of a compiled kernel."""
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        path = Path(folder) / f"{arch}.cubin"
        path.write_bytes(cubin)
        usage = _cuobjdump("--dump-resource-usage", str(path))
        code = _cuobjdump("--dump-sass", str(path))
    found = RESOURCES.search(usage)
    if found is None:
        raise BuildError(f"cuobjdump reports no resources for {arch}:\n{usage[:400]}")
    return int(found[1]), int(found[2]), len(SPILL.findall(code)), len(TENSOR_CORE.findall(code))


def _cuobjdump(*arguments: str) -> str:
    from triton import backends

    tool = Path(backends.__file__).parent / "nvidia" / "bin" / "cuobjdump"
    try:
        return subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=120, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"{tool} failed: {error}") from error
