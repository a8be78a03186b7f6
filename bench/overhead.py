"""Suite `overhead`: what a call costs when there is next to nothing to compute."""

from __future__ import annotations

from dataclasses import replace

from .forward import case_of
from .implementations import TILEWRIGHT, implementations_for
from .measure import Session, measure
from .rows import Row

__all__ = ["overhead"]

SIZE = (1, 8, 16)  # B, H, N
HEAD_DIM = 64
CALLS = 200
DTYPES = {"cpu": "f32", "triton": "bf16"}
BARE = {"cpu": "sdpa", "triton": "sdpa-flash"}


def overhead(session: Session) -> list[Row]:
    """Tilewright and a bare SDPA call at N = 16; extra: over_sdpa_us, the difference of the medians."""
    bare = BARE[session.target]
    case = case_of("causal", DTYPES[session.target], SIZE, HEAD_DIM)
    many = replace(session, rounds=replace(session.rounds, calls=CALLS, least=20, warmups=20))
    rows = measure("overhead", case, implementations_for(session.target, TILEWRIGHT, bare), many)
    base = next((row.median_ms for row in rows if row.impl == bare), None)
    return [_over(row, base) if row.impl == TILEWRIGHT else row for row in rows]


def _over(row: Row, base_ms: float | None) -> Row:
    if row.median_ms is None or base_ms is None:
        return row
    return replace(row, extra=row.extra | {"over_sdpa_us": 1e3 * (row.median_ms - base_ms)})
