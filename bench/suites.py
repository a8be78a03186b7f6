"""The suites by name, and running them: what `tilewright bench` does."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..ir.errors import TilewrightError
from .backward import backward
from .decode import decode
from .determinism import determinism
from .families import variants
from .forward import forward
from .huggingface import huggingface
from .long import long
from .machine import busy_warning, describe_machine, revision
from .mask_build import mask_build
from .measure import DEVICES, Session
from .overhead import overhead
from .report import write_report
from .resources import resources
from .rows import Row, write_rows
from .startup import startup
from .timing import CudaTimer, Rounds, WallTimer
from .varlen import varlen

__all__ = ["SUITES", "BenchError", "new_session", "run_bench"]

SUITES: dict[str, Callable[[Session], list[Row]]] = {
    "forward": forward,
    "variants": variants,
    "backward": backward,
    "determinism": determinism,
    "long": long,
    "decode": decode,
    "varlen": varlen,
    "huggingface": huggingface,
    "mask-build": mask_build,
    "overhead": overhead,
    "startup": startup,
    "resources": resources,
}
GPU_BUDGET_S = 1.0  # a case; GPUs are quick and steady, and often borrowed


class BenchError(TilewrightError):
    """A suite or target was asked for that does not exist, or that this machine cannot run."""


def run_bench(
    suites: Sequence[str] = (), target: str = "auto", json: Path | None = None, html: Path | None = None
) -> list[Row]:
    """Run suites (all of them if none is named) and write the files asked for; progress goes to stderr.

    Files are written anew after every suite, so that a run which is interrupted keeps what it measured.
    Raises BenchError for a suite or target that does not exist, or for a GPU target without a GPU.
    """
    unknown = [name for name in suites if name not in SUITES]
    if unknown:
        raise BenchError(f"bench: no suite {', '.join(unknown)}; wanted some of {', '.join(SUITES)}")
    chosen = tuple(suites) or tuple(SUITES)
    session = new_session(target, chosen)
    rows: list[Row] = []
    for name in chosen:
        rows += SUITES[name](session)
        if json:
            write_rows(json, rows)
        if html:
            write_report(html, rows)
    return rows


def new_session(target: str, suites: Sequence[str]) -> Session:
    """A session on this machine; "auto" is the GPU if there is one. Warns when the machine is busy."""
    has_gpu = torch.cuda.is_available()
    if target == "auto":
        target = "triton" if has_gpu else "cpu"
    if target not in DEVICES:
        raise BenchError(f"bench: no target {target}; wanted auto or one of {', '.join(DEVICES)}")
    if DEVICES[target].type == "cuda" and not has_gpu:
        raise BenchError(f"bench: target {target} needs an NVIDIA GPU and torch sees none; use --target cpu")
    machine = describe_machine()
    warning = busy_warning(machine["load"])
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    command = shlex.join(["tilewright", "bench", *suites, "--target", target])
    origin: dict[str, Any] = {"machine": machine, "command": command, "revision": revision()}
    if DEVICES[target].type == "cuda":
        return Session(target, CudaTimer(), Rounds(budget_s=GPU_BUDGET_S), **origin)
    return Session(target, WallTimer(), **origin)
