"""Round trip of expert kernels, Triton → program → Triton: seconds, and what both kernels cost when cross-compiled.

    python -m tilewright.bench.lifting RESULTS.json [FOLDER]

FOLDER holds modules with `launch`, `inputs` and `EXAMPLES`; by default the kernels of the tests. No GPU is needed.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ..ir.dtypes import DType
from ..ir.errors import ScheduleError, TilewrightError
from ..ir.expr import Op, apply
from ..ir.lift.triton import Lifted, lift_triton
from ..ir.lift.triton.capture import Launch, capture
from ..ir.lift.triton.ttir import signature_of
from ..ir.program import Program
from ..ir.spec import COLUMN, ROW, AttentionSpec, S
from ..ir.transfer import transfer

__all__ = ["ARCHITECTURES", "round_trip", "rows_of"]

ARCHITECTURES = ("sm_80", "sm_90")
FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "lift_triton" / "fixtures"
TRITON_DEFAULTS = (4, 3)  # warps, stages of a launch that does not say
LIFTS = 3  # the fastest of so many is the time
Resources = dict[str, int]


def round_trip(folder: Path = FIXTURES) -> list[dict[str, Any]]:
    """A row for each kernel and architecture: resources of the original and of ours, ratios, seconds of the module."""
    modules = [_module(path) for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]
    return [row for module in modules for row in rows_of(module)]


def rows_of(module: ModuleType) -> list[dict[str, Any]]:
    """The rows of one module; a kernel that cannot make the trip has the error instead."""
    case = module.__name__.rpartition(".")[2]
    try:
        examples = [module.inputs(**sizes) for sizes in module.EXAMPLES]
        lifted, seconds = _lift(module, examples)
        runs = [capture(module.launch, example) for example in examples]
    except TilewrightError as error:
        return [{"suite": "lifting", "case": case, "error": str(error)}]
    rows: list[dict[str, Any]] = []
    transfer_s = _transfer(lifted.program)
    for arch in ARCHITECTURES:
        for number, launch in enumerate(runs[0].launches):
            name = f"{case}.{launch.function.__name__}"
            row = {"suite": "lifting", "case": name, "arch": arch, **seconds, "transfer_s": transfer_s}
            try:
                original = _original([run.launches[number] for run in runs], arch)
                ours = _ours(lifted.program, number, len(runs[0].launches), _config(launch), arch)
                rows.append(row | {"original": original, "ours": ours, "ratio": _ratios(original, ours)})
            except TilewrightError as error:
                rows.append(row | {"error": str(error)})
    return rows


def _lift(module: ModuleType, examples: Sequence[Sequence[Any]]) -> tuple[Lifted, dict[str, float]]:
    """The lifted module, and the seconds of the first and of the fastest lift."""
    times = []
    for _ in range(LIFTS):
        begin = time.perf_counter()
        lifted = lift_triton(module.launch, examples, module.__name__.rpartition(".")[2])
        times.append(time.perf_counter() - begin)
    return lifted, {"first_lift_s": round(times[0], 3), "lift_s": round(min(times), 3)}


def _transfer(program: Program) -> float | None:
    """Seconds of recognising a lifted program and putting a capped window into it; None for a backward program."""
    fixed = program.fixed
    score = 30.0 * apply(Op.TANH, S * (0.125 / 30.0))
    spec = AttentionSpec(
        "capped_window", DType.F16, fixed["D"], fixed["Dv"], score=score, keep=(COLUMN <= ROW) & (ROW - COLUMN < 200)
    )
    times = []
    for _ in range(LIFTS):
        begin = time.perf_counter()
        try:
            transfer(program, spec)
        except ScheduleError:
            return None
        times.append(time.perf_counter() - begin)
    return round(min(times), 3)


def _config(launch: Launch) -> tuple[int, int]:
    warps, stages = TRITON_DEFAULTS
    return int(launch.options.get("num_warps") or warps), int(launch.options.get("num_stages") or stages)


def _ours(program: Program, number: int, count: int, config: tuple[int, int], arch: str) -> Resources:
    """The kernel of a launch; grids that clear memory come before."""
    from ..lowering.triton.report import compile_report

    report = compile_report(program, arch, config)[-count:][number]
    return _resources(report.registers, report.shared_bytes, report.tensor_core_instructions)


def _original(launches: Sequence[Launch], arch: str) -> Resources:
    """The launched kernel, compiled as Triton would for these examples: ones and multiples of 16 are known."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from ..lowering.triton.report import read_machine_code

    launch = launches[0]
    signature, constants = signature_of(launch, frozenset())
    aligned: dict[tuple[int, ...], Any] = {}
    for position, (name, kind) in enumerate(signature.items()):
        values = [other.arguments[name] for other in launches]
        if isinstance(kind, tuple):
            signature[name] = tuple(
                _specialised(inner, [value[n] for value in values], (position, n), constants, aligned)
                for n, inner in enumerate(kind)
            )
        else:
            signature[name] = _specialised(kind, values, (position,), constants, aligned)
    warps, stages = _config(launch)
    target = GPUTarget("cuda", int(arch.removeprefix("sm_")), 32)
    source = ASTSource(launch.function, signature, constants, aligned)
    built = triton.compile(source, target=target, options={"num_warps": warps, "num_stages": stages})
    registers, _, _, products = read_machine_code(built.asm["cubin"], arch)
    return _resources(registers, built.metadata.shared, products)


def _specialised(
    kind: str, values: list[Any], place: tuple[int, ...], constants: dict[tuple[int, ...], Any],
    aligned: dict[tuple[int, ...], Any],
) -> str:  # fmt: skip
    is_integer = all(type(value) is int for value in values)
    if kind != "constexpr" and is_integer and set(values) == {1}:
        constants[place] = 1
        return "constexpr"
    if kind.startswith("*") or (is_integer and kind != "constexpr" and all(value % 16 == 0 for value in values)):
        aligned[place] = [["tt.divisibility", 16]]
    return kind


def _resources(registers: int, shared: int, products: int) -> Resources:
    return {"registers": registers, "shared": shared, "tensor_core": products}


def _ratios(original: Resources, ours: Resources) -> dict[str, float]:
    return {name: round(ours[name] / value, 3) for name, value in original.items() if value}


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tilewright_lifting.{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def main(arguments: Sequence[str]) -> int:
    """Write the rows to a file; how far each is from the original to standard error."""
    rows = round_trip(Path(arguments[1])) if len(arguments) > 1 else round_trip()
    Path(arguments[0]).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        print(row["case"], row.get("arch", ""), row.get("ratio", row.get("error")), file=sys.stderr)
    return 0 if all("error" not in row for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
