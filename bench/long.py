"""Suite `long`: what one long head costs in memory, and how time grows with its length."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

from .cases import Case
from .forward import case_of
from .implementations import TILEWRIGHT, implementations_for
from .measure import Session, measure
from .rows import Row

__all__ = ["LENGTHS", "long", "long_case", "with_memory"]

LENGTHS = (4096, 8192, 16384, 32768)
HEAD_DIM = 64
VARIANTS = ("full", "window")
DTYPES = {"cpu": "f32", "triton": "bf16"}
PEERS = {
    ("cpu", "full"): ("sdpa",),  # FlexAttention without a block mask runs out of memory at the longest
    ("cpu", "window"): ("flex",),
    ("triton", "full"): ("sdpa-flash", "sdpa-cudnn", "flex"),
    ("triton", "window"): ("flex",),
}
MEMORY_TIMEOUT_S = 300.0


def long_case(variant: str, dtype: str, length: int) -> Case:
    """One head of one batch element."""
    return case_of(variant, dtype, (1, 1, length), HEAD_DIM)


def long(session: Session) -> list[Row]:
    """Times at every length, and at the longest the resident memory that a call adds (extra: resident_mb).

    Memory is measured on the CPU only, for Tilewright and SDPA.
    """
    dtype = DTYPES[session.target]
    quick = replace(session, rounds=replace(session.rounds, least=3, warmups=1))
    rows = []
    for variant in VARIANTS:
        for length in LENGTHS:
            implementations = implementations_for(session.target, TILEWRIGHT, *PEERS[session.target, variant])
            rows += measure("long", long_case(variant, dtype, length), implementations, quick)
    if session.target != "cpu":
        return rows
    return rows + [_memory(case, name, session) for case, name in _memory_cases(dtype)]


def _memory_cases(dtype: str) -> Sequence[tuple[Case, str]]:
    cases = [long_case(variant, dtype, LENGTHS[-1]) for variant in VARIANTS]
    return [(cases[0], TILEWRIGHT), (cases[1], TILEWRIGHT), (cases[0], "sdpa")]


def _memory(case: Case, impl: str, session: Session) -> Row:
    session.say(f"long: memory of {impl}, {case}")
    arguments = [impl, case.variant.name, case.dtype, str(case.shape.N)]
    return with_memory(session.row("memory", case, impl), "tilewright.bench.memory", arguments)


def with_memory(row: Row, module: str, arguments: Sequence[str]) -> Row:
    """A row with what a call adds, measured in a process of its own, so that nothing freed earlier hides it."""
    command = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=MEMORY_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return replace(row, error=f"not done within {MEMORY_TIMEOUT_S:g} s")
    if done.returncode:
        return replace(row, error=done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}")
    return replace(row, extra=json.loads(done.stdout))
