"""Suite `forward`: speed of the forward pass against its peers."""

from __future__ import annotations

from .cases import Case, Shape
from .implementations import implementations_for
from .measure import Session, measure
from .rows import Row
from .variants import VARIANTS

__all__ = ["forward", "forward_cases"]

DTYPES = {"cpu": ("f32", "bf16"), "triton": ("bf16",)}
LENGTHS = {"cpu": ((1, 8, 2048),), "triton": ((1, 8, 2048), (4, 16, 8192))}  # B, H, N
DENSE_HEAD_DIMS = (64, 128)
MASKED_HEAD_DIM = 64


def case_of(variant: str, dtype: str, size: tuple[int, int, int], head_dim: int) -> Case:
    """A self-attention case of B, H, N with as many key as query heads."""
    batch, heads, length = size
    return Case(VARIANTS[variant], dtype, Shape(batch, heads, heads, length, length, head_dim, head_dim))


def forward_cases(target: str) -> list[Case]:
    """Every case of the suite: full and causal at both head dims, the other variants at one."""
    dense = [(name, head_dim) for head_dim in DENSE_HEAD_DIMS for name in ("full", "causal")]
    masked = [(name, MASKED_HEAD_DIM) for name in ("window", "softcap", "alibi", "documents")]
    return [
        case_of(name, dtype, size, head_dim)
        for size in LENGTHS[target]
        for dtype in DTYPES[target]
        for name, head_dim in dense + masked
    ]


def forward(session: Session) -> list[Row]:
    """Tilewright, SDPA, compiled FlexAttention and eager on every case."""
    implementations = implementations_for(session.target)
    return [row for case in forward_cases(session.target) for row in measure("forward", case, implementations, session)]
