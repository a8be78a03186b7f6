"""Suite `determinism`: what a fixed order of sums costs the backward, and whether it gives the same bits every time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .backward import packed_shape, square, trained
from .bits import Bits
from .circumstances import PADDED, Probe
from .differentiated import UNORDERED, differentiated_for
from .implementations import TILEWRIGHT
from .measure import Session, measure
from .rows import Row
from .training import Training, expected_of

__all__ = ["bits_cases", "bits_row", "determinism", "determinism_cases"]

VARIANTS = ("full", "causal", "window", "documents")
HEAD_DIMS = (64, 128)
GPU_LENGTHS = (16384, 4096, 1024, 8192, 2048)  # the ends first: a run may be out of time
CHECKED = ("causal", "full", "documents", "alibi-captured", "sinks-captured", "t5-captured")
BITS_HEADS, BITS_LENGTH, BITS_DIM = 2, 330, 64  # tiles on every worker, the last one not whole


def determinism_cases(target: str) -> list[Training]:
    """Every timed case: the backward alone, at two head dims; on a GPU by length."""
    if target == "cpu":
        shapes = [square(1, 8, 2048, head_dim) for head_dim in HEAD_DIMS]
        dtypes: tuple[str, ...] = ("f32", "bf16")
    else:
        shapes = [packed_shape(length, head_dim) for length in GPU_LENGTHS for head_dim in HEAD_DIMS]
        dtypes = ("bf16",)
    return [
        replace(trained(name, dtype, shape), has_forward=False)
        for dtype in dtypes
        for shape in shapes
        for name in VARIANTS
    ]


def bits_cases(target: str) -> list[Training]:
    """The small cases whose bits are compared."""
    shape = square(1, BITS_HEADS, BITS_LENGTH, BITS_DIM)
    dtypes = ("f32", "bf16") if target == "cpu" else ("bf16",)
    names = CHECKED if target == "cpu" else CHECKED[:3]
    return [
        *(trained(name, dtype, shape) for dtype in dtypes for name in names),
        *(Training(variant, dtype, shape) for dtype in dtypes for variant in PADDED),
    ]


def determinism(session: Session) -> list[Row]:
    """Ours in order and as they come, and peers; then how many of 1000 runs and of other circumstances gave equal bits.

    extra of a row of bits: how many results were compared (runs, threads, places, paddings), how many were equal.
    """
    rows = []
    for case in bits_cases(session.target):
        session.say(f"determinism: bits of {case}")
        rows += [bits_row(case, name, session) for name in (TILEWRIGHT, TILEWRIGHT + UNORDERED)]
    peers = ("sdpa",) if session.target == "cpu" else ("sdpa-flash", "sdpa-flash-unordered", "sdpa-cudnn", "flex")
    compared = differentiated_for(session.target, TILEWRIGHT, TILEWRIGHT + UNORDERED, *peers)
    for case in determinism_cases(session.target):
        rows += measure("determinism", case, compared, session, expected_of)
    return rows


def bits_row(case: Training, impl: str, session: Session) -> Row:
    """How often the bits were equal: an error row where ours in order were not always. Other forms only run again."""
    try:
        probe = Probe.of(case, impl, session.target, session.device)
        found = probe.all() if impl == TILEWRIGHT else {"runs": probe.runs()}
    except Exception as error:  # noqa: BLE001 - whatever one form does, the others are compared
        return session.row("bits", case, impl, error=f"{type(error).__name__}: {error}")
    unequal = [f"{kind}: {b.equal} of {b.tried} equal, {b.first}" for kind, b in found.items() if not b.is_same]
    is_wrong = impl == TILEWRIGHT and unequal
    error_text = f"bits differ: {'; '.join(unequal)}" if is_wrong else None
    return session.row("bits", case, impl, extra=_counts(found), error=error_text)


def _counts(found: Mapping[str, Bits]) -> dict[str, float]:
    counts: dict[str, float] = {}
    for kind, bits in found.items():
        counts |= {kind: float(bits.tried), f"equal_{kind}": float(bits.equal)}
    return counts
