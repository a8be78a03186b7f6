"""`tilewright generate`: a named function -> a verified kernel in a directory, and a summary of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..ir.dtypes import DType
from ..ir.errors import TilewrightError
from .options import Options
from .remembered import Memory, loaded_files, recall, remember

if TYPE_CHECKING:
    from .compiled import Compiled
    from .report import Report

__all__ = ["Request", "generate"]

STAGES = ("lift", "transfer", "lower", "build", "verify")
FILES = "files"
Progress = Callable[[str, int, int], None]  # stage, cases done, cases in all (0, 0: not counted)


@dataclass(frozen=True, slots=True)
class Request:
    """The command line of generate. out: where the files go; None: out/NAME-TARGET-DTYPE."""

    spec: str
    options: Options
    dtype: DType | None = None
    shape: tuple[int, int, int, int, int, int, int] | None = None
    thorough: bool = False
    out: Path | None = None

    def memory(self) -> Memory | None:
        """The question this request asks, apart from where the answer is written."""
        return Memory.of(self.spec, (self.options, self.dtype, self.shape, self.thorough))


def generate(request: Request, progress: Progress | None = None) -> dict[str, Any]:
    """Make, check and write the kernel; the summary is what `--json` prints.

    Raises the errors of `compile`, but not VerificationError: the summary's "verified" says how that went.
    """
    if request.out is not None:
        with _writing(request.out):
            request.out.mkdir(parents=True, exist_ok=True)
    memory = request.memory()
    answer = recall(memory) if memory is not None else None
    if answer is None:
        before = set(sys.modules)
        answer = _make(request, progress)
        if memory is not None and answer["verified"]:
            remember(memory, answer, loaded_files(before))
    else:
        answer["seconds"] = dict.fromkeys(STAGES, 0.0)
    return _write(request, answer)


def _make(request: Request, progress: Progress | None) -> dict[str, Any]:
    """The way from the function to a checked kernel, without writing it anywhere."""
    from .compiled import Stages, compile_spec
    from .gradients.generated import add_backward
    from .machine import runs_here
    from .saved import MANIFEST, contents, manifest_text
    from .spec_source import example_tensors, load_source
    from .specialisers import trace
    from .verification import verify_compiled, verify_program

    source = load_source(request.spec)
    example = example_tensors(source, request.shape, request.dtype)
    stages = Stages(observer=None if progress is None else lambda stage: progress(stage, 0, 0))
    subject = trace(source.function, example, stages)
    target = request.options.resolve_target(example[0].device.type)
    compiled = compile_spec(subject.spec, target, request.options.arch, stages)

    def counted(done: int, total: int) -> None:
        if progress is not None:
            progress("verify", done, total)

    if runs_here(target):
        with stages.stage("verify"):
            compiled.report = verify_compiled(compiled, subject, thorough=request.thorough, progress=counted)
    else:
        with stages.stage("verify"):
            compiled.report = verify_program(compiled.program, subject, progress=counted)
    if request.options.backward:
        with stages.stage("backward"):
            add_backward(compiled, subject, request.options)
    report = compiled.report if compiled.gradient is None else _both(compiled)
    files = contents(compiled)
    return {
        "spec": request.spec,
        "name": compiled.program.name,
        "target": target,
        "arch": compiled.lowered.arch,
        "dtype": subject.spec.dtype.value,
        "verified": report.verified,
        "cases": report.cases,
        "max_error": report.max_error,
        "error_budget": report.error_budget,
        "report": str(report),
        "method": report.method,
        "seconds": {stage: stages.seconds.get(stage, 0.0) for stage in STAGES},
        FILES: files | {MANIFEST: manifest_text(compiled, files)},
    }


def _both(compiled: Compiled) -> Report:
    """What was found of the forward and of the backward."""
    from .report import Report

    assert compiled.report is not None
    assert compiled.gradient is not None
    assert compiled.gradient.report is not None
    return Report(compiled.report.rows + compiled.gradient.report.rows, compiled.report.method)


def _write(request: Request, answer: dict[str, Any]) -> dict[str, Any]:
    """Put the files in place, and their paths in the summary."""
    from .files import write_text

    folder = request.out or Path("out", f"{answer['name']}-{answer['target']}-{answer['dtype']}")
    summary = {name: value for name, value in answer.items() if name != FILES}
    try:
        for name, text in answer[FILES].items():
            write_text(folder / name, text)
    except OSError as error:
        raise TilewrightError(f"{folder}: {error.strerror}; name a folder that can be written with --out DIR") from None
    names = {Path(name).stem: str(folder / name) for name in answer[FILES] if "/" not in name}
    return summary | {
        "source": names["kernel"],
        "program": names["program"],
        "manifest": names["manifest"],
        "directory": str(folder),
    }


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn what the file system refuses into one message."""
    try:
        yield
    except OSError as error:
        raise TilewrightError(f"{folder}: {error.strerror}; name a folder that can be written with --out DIR") from None
