"""Suite `variants`: masks, normalisers and head sizes beyond the common ones, against FlexAttention or eager."""

from __future__ import annotations

from dataclasses import replace

from .cases import Case, Shape
from .implementations import TILEWRIGHT, Implementation, implementations_for
from .masks import MASKS
from .measure import Session, measure
from .normalisers import NORMALISERS
from .rows import Row
from .variants import VARIANTS, Variant

__all__ = ["family_cases", "is_against_flex", "variants"]

DTYPES = ("f32", "bf16")
HEADS, LENGTH, HEAD_DIM = 8, 2048, 64
HEAD_DIMS = ((40, 40), (80, 80), (96, 96), (160, 160), (256, 256), (192, 128))  # D, Dv; the last is MLA before decoding
LATENT = Shape(1, HEADS, 1, 128, LENGTH, 576, 512)  # MLA absorbed: the heads share one latent key
BUDGET_S = 1.0  # a case; there are many


def is_against_flex(variant: Variant) -> bool:
    """Whether FlexAttention is the peer; else it is eager PyTorch."""
    return variant.is_flex


def family_cases() -> list[Case]:
    """Every case of the suite."""
    shapes = [(variant, _square(HEAD_DIM, HEAD_DIM)) for variant in (*MASKS, *NORMALISERS)]
    shapes += [(VARIANTS["causal"], _square(*dims)) for dims in HEAD_DIMS]
    shapes.append((replace(VARIANTS["full"], is_flex=False), LATENT))
    return [Case(variant, dtype, shape) for variant, shape in shapes for dtype in DTYPES]


def _square(head_dim: int, value_dim: int) -> Shape:
    return Shape(1, HEADS, HEADS, LENGTH, LENGTH, head_dim, value_dim)


def variants(session: Session) -> list[Row]:
    """Tilewright and one peer on every case."""
    brief = replace(session, rounds=replace(session.rounds, budget_s=BUDGET_S))
    return [row for case in family_cases() for row in measure("variants", case, _compared(case, session.target), brief)]


def _compared(case: Case, target: str) -> tuple[Implementation, ...]:
    return implementations_for(target, TILEWRIGHT, "flex" if is_against_flex(case.variant) else "eager")
