"""`tilewright lift`, `transfer`, `lower` and `verify`: command line in, summary out."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..ir.dtypes import DType
from ..ir.errors import SettingError, TilewrightError, UnsupportedSpec
from ..ir.parser import parse_program, parse_spec
from ..ir.printer import print_program
from ..ir.program import Program
from ..ir.spec import AttentionSpec
from ..lowering import TARGETS
from .compiled import Compiled, Stages, lower_program
from .files import write_text
from .machine import runs_here
from .options import NOT_YET
from .references import FOLDER, reference_program
from .report import Report
from .same_tensors import check_same_tensors
from .saved import MANIFEST, load_compiled, save
from .shapes import DEFAULT_SHAPE, Shape
from .spec_source import example_tensors, load_source
from .specialisers import trace
from .verification import Subject, verify_compiled, verify_program

if TYPE_CHECKING:
    from ..ir.transfer.models import EngineSettings

__all__ = [
    "EngineChoice",
    "Example",
    "lift_command",
    "lower_command",
    "parse_prices",
    "transfer_command",
    "verify_command",
]

Progress = Callable[[str, int, int], None]
MAX_TEXT_BYTES = 1 << 20
STDIN = Path("-")
FOREIGN = (".cu", ".cuh", ".cpp", ".h", ".hpp")  # expert kernels that models read


@dataclass(frozen=True, slots=True)
class Example:
    """What the command line says of example tensors; None: as inputs() gives them, or the default."""

    dtype: DType | None = None
    shape: Shape | None = None


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """Which engine, and what the command line says of it; `target`: what its programs must lower to."""

    name: str = "rules"
    options: Mapping[str, Any] = field(default_factory=dict)
    target: str | None = None

    def settings(self) -> EngineSettings | None:
        """Settings of an engine that asks models; SettingError for options of one that does not."""
        given = {name: value for name, value in self.options.items() if value not in (None, (), [], {})}
        if self.name not in ("llm", "auto"):
            if given:
                raise SettingError(f"--{next(iter(given)).replace('_', '-')} is of no use with --engine {self.name}")
            return None
        from ..ir.transfer.models import EngineSettings

        return EngineSettings.of(given)


def parse_prices(words: Sequence[str]) -> dict[str, tuple[float, float]]:
    """NAME=PROMPT,COMPLETION -> prices per million tokens. Raises SettingError for other words."""
    found = {}
    for word in words:
        name, sign, numbers = word.rpartition("=")
        try:
            prompt, completion = (float(number) for number in numbers.split(","))
        except ValueError:
            sign = ""
        if not sign or not name:
            raise SettingError(f"--price {word!r}: wanted NAME=PROMPT,COMPLETION, money per million tokens")
        found[name] = (prompt, completion)
    return found


def lift_command(
    source: str, example: Example, out: Path | None, *, is_raw: bool = False, verify: bool = False
) -> dict[str, Any]:
    """Source -> text, written to `out` when given: a PyTorch function's spec, or the program of Triton kernels.

    is_raw: the program as the kernel says it, with nothing of it recognised. verify: kernels are run as well.
    """
    from .lifting import lift_source

    lifted = lift_source(source, example, is_raw=is_raw, verify=verify)
    found = {"spec": source, "name": lifted.name, "kind": lifted.kind, "text": lifted.text, "notes": list(lifted.notes)}
    return {**found, "computes": lifted.computes, "seconds": lifted.seconds, "file": _put(out, lifted.text)}


def transfer_command(
    reference: str, spec: str, example: Example, out: Path | None, engine: EngineChoice | None = None
) -> dict[str, Any]:
    """A reference (a program's file, `-`, one of ours by name, or CUDA C++) and a spec -> the spec's program."""
    from .engines import transfer_with_engine

    engine = engine or EngineChoice()
    begin = time.perf_counter()
    source: Program | str = _foreign(Path(reference), engine.name) or _reference(reference)
    function: Callable[..., Any] | AttentionSpec
    tensors: tuple[torch.Tensor, ...] | None = None
    if spec.endswith(".txt"):
        function = parse_spec(read_text(Path(spec)))
    else:
        loaded = load_source(spec)
        function, tensors = loaded.function, example_tensors(loaded, example.shape, example.dtype)
    made = transfer_with_engine(source, function, tensors, engine.name, engine.settings(), target=engine.target)
    text = print_program(made.program)
    return {
        "reference": reference,
        "spec": spec,
        "name": made.program.name,
        "engine": made.engine,
        "notes": list(made.notes),
        "spent": dict(made.spent),
        "transcript": None if made.transcript is None else str(made.transcript),
        "seconds": time.perf_counter() - begin,
        "text": text,
        "file": _put(out, text),
    }


def _foreign(path: Path, engine: str) -> str | None:
    """The text of a CUDA C++ file; None for any other reference. The rules cannot read it."""
    if path.suffix not in FOREIGN:
        return None
    if engine == "rules":
        raise UnsupportedSpec(
            f"{path}: CUDA C++ is read by language models: --engine llm --model NAME, and SPEC says what it computes"
        )
    return read_text(path)


def lower_command(path: Path, target: str, arch: str | None, out: Path | None) -> dict[str, Any]:
    """Program text -> a kernel's directory; built as well where the target runs here."""
    if target not in TARGETS:
        raise UnsupportedSpec(NOT_YET.get(target, f"target {target!r}: wanted one of {', '.join(TARGETS)}"))
    stages = Stages()
    compiled = lower_program(parse_program(read_text(path)), target, arch, stages=stages)
    is_built = runs_here(target)
    if is_built:
        compiled.launch()
    folder = save(compiled, out or Path("out", f"{compiled.program.name}-{target}"))
    return {
        "target": target,
        "arch": compiled.lowered.arch,
        "source": str(folder / f"kernel.{compiled.lowered.extension.lstrip('.')}"),
        "program": str(folder / "program.txt"),
        "manifest": str(folder / MANIFEST),
        "built": is_built,
        "seconds": stages.seconds,
    }


def verify_command(
    kernel: Path, spec: str, example: Example, *, thorough: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """A kernel's directory (its built kernel) or a program's text (in the interpreter) against a function."""

    def counted(done: int, total: int) -> None:
        if progress is not None:
            progress("verify", done, total)

    compiled = load_compiled(kernel) if kernel.is_dir() else None
    program = parse_program(read_text(kernel)) if compiled is None else compiled.program
    subject = _subject(spec, _example_for(program, compiled, example))
    check_same_tensors(program, subject.spec)
    report = _verify(program, compiled, subject, thorough, counted)
    least = None if report.verified or compiled is not None else _least_difference(program, subject)
    return {
        "kernel": str(kernel),
        "spec": spec,
        "verified": report.verified,
        "cases": report.cases,
        "max_error": report.max_error,
        "error_budget": report.error_budget,
        "method": report.method,
        "counter_example": least,
        "report": str(report) + (f"\n  least input on which it differs: {least}" if least else ""),
    }


def _least_difference(program: Program, subject: Subject) -> str | None:
    """The smallest input found on which a program that is wrong differs from the function, and how; None for none."""
    from .judging import ProgramJudge, SpecClaim

    verdict = ProgramJudge(SpecClaim(subject)).judge(print_program(program))
    if verdict.is_accepted:
        return None
    found = verdict.counter_example
    return verdict.reason if found is None else "; ".join(dict.fromkeys([str(found), verdict.reason]))


def _verify(
    program: Program,
    compiled: Compiled | None,
    subject: Subject,
    thorough: bool,
    progress: Callable[[int, int], None],
) -> Report:
    from ..ir.verify import verify

    if compiled is not None and runs_here(compiled.lowered.target):
        return verify_compiled(compiled, subject, thorough=thorough, progress=progress)
    verify(program)
    return verify_program(program, subject, progress=progress)


def _example_for(program: Program, compiled: Compiled | None, example: Example) -> Example:
    """Random example tensors take the program's own element type, D, Dv and GQA ratio."""
    fixed, q = program.fixed, program.params[0]
    group = compiled.spec.group if compiled is not None and compiled.spec is not None else 1
    b, _, hkv, m, n, d, dv = DEFAULT_SHAPE
    shape = (b, group * hkv, hkv, m, n, fixed.get("D", d), fixed.get("Dv", dv))
    return Example(example.dtype or q.dtype, example.shape or shape)


def _subject(text: str, example: Example) -> Subject:
    source = load_source(text)
    tensors: tuple[torch.Tensor, ...] = example_tensors(source, example.shape, example.dtype)
    return trace(source.function, tensors, Stages())


def _reference(text: str) -> Program:
    known = {path.stem for path in FOLDER.glob("*.txt")}
    return reference_program(text) if text in known else parse_program(read_text(Path(text)))


def read_text(path: Path) -> str:
    """The text of a file, or of standard input for `-`; TilewrightError if it is missing, empty, too large or no text.

    An empty standard input is what a command before it in a pipe leaves when it fails.
    """
    name = "standard input" if path == STDIN else str(path)
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if path == STDIN else path.open("rb") as file:
            data = file.read(MAX_TEXT_BYTES + 1)
        if len(data) > MAX_TEXT_BYTES:
            raise TilewrightError(f"{name}: larger than {MAX_TEXT_BYTES} bytes")
        if not data.strip():
            raise TilewrightError(f"{name}: empty; wanted program or spec text")
        return data.decode()
    except OSError as error:
        raise TilewrightError(f"{name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise TilewrightError(f"{name}: not UTF-8 text") from None


def _put(path: Path | None, text: str) -> str | None:
    if path is None:
        return None
    try:
        write_text(path, text)
    except OSError as error:
        raise TilewrightError(f"{path}: {error.strerror}") from None
    return str(path)
