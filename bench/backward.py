"""Suite `backward`: speed of forward and backward together against peers, and the memory they add."""

from __future__ import annotations

from .biases import BIASES
from .cases import Shape
from .differentiated import differentiated_for
from .implementations import TILEWRIGHT, Implementation
from .long import with_memory
from .measure import Session, measure
from .normalisers import NORMALISERS
from .rows import Row
from .training import Training, expected_of
from .variants import VARIANTS, Variant

__all__ = [
    "MEMORY_LENGTHS", "TRAINED", "backward", "backward_cases", "memory_case", "packed_shape", "square", "trained",
]  # fmt: skip

HEADS, LENGTH = 8, 2048
HEAD_DIMS = (64, 128)
DTYPES = ("f32", "bf16")
DENSE = ("full", "causal")
VARIED = (
    "window", "softcap", "alibi", "documents", "sinks", "t5", "sigmoid", "relu", "relu-squared", "no-normaliser",
)  # fmt: skip
LEARNED = ("alibi", "sinks", "t5")  # those with captured tensors that are trained, measured with their gradients too
TRAINED: dict[str, Variant] = VARIANTS | {variant.name: variant for variant in (*NORMALISERS, *BIASES)}
GPU_VARIANTS = ("causal", "full", "window", "documents")
GPU_LENGTHS = (16384, 4096, 1024)  # the longest first: a run may be out of time
GPU_TOKENS, GPU_WIDTH = 16384, 2048  # B times N, and H times D
MEMORY_LENGTHS = (4096, 8192, 16384)
MEMORY_DTYPE = "f32"


def trained(name: str, dtype: str, shape: Shape) -> Training:
    """A case by its variant's name; one that ends in -captured has gradients of captured tensors."""
    variant = name.removesuffix("-captured")
    return Training(TRAINED[variant], dtype, shape, wants_captured=variant != name)


def square(batch: int, heads: int, length: int, head_dim: int) -> Shape:
    """Self-attention with as many key as query heads."""
    return Shape(batch, heads, heads, length, length, head_dim, head_dim)


def packed_shape(length: int, head_dim: int) -> Shape:
    """As many sequences as make 16384 tokens, and heads as make 2048 columns: how FlashAttention is measured."""
    return square(GPU_TOKENS // length, GPU_WIDTH // head_dim, length, head_dim)


def backward_cases(target: str) -> list[Training]:
    """Every timed case: full and causal at two head dims, variants and learned biases at one; on a GPU by length."""
    if target != "cpu":
        shapes = [packed_shape(length, head_dim) for length in GPU_LENGTHS for head_dim in HEAD_DIMS]
        return [trained(name, "bf16", shape) for shape in shapes for name in GPU_VARIANTS]
    asked = [(name, head_dim) for head_dim in HEAD_DIMS for name in DENSE]
    asked += [(name, HEAD_DIMS[0]) for name in (*VARIED, *(f"{name}-captured" for name in LEARNED))]
    return [trained(name, dtype, square(1, HEADS, LENGTH, dim)) for dtype in DTYPES for name, dim in asked]


def memory_case(variant: str, length: int) -> Training:
    """One head of one batch element."""
    return trained(variant, MEMORY_DTYPE, square(1, 1, length, HEAD_DIMS[0]))


def backward(session: Session) -> list[Row]:
    """Tilewright (deterministic), SDPA and eager; on a GPU SDPA's backends and FlexAttention. Memory on the CPU."""
    rows = []
    for case in backward_cases(session.target):
        rows += measure("backward", case, _compared(case, session.target), session, expected_of)
    return rows + _memory_rows(session) if session.target == "cpu" else rows


def _compared(case: Training, target: str) -> tuple[Implementation, ...]:
    peers = ("sdpa", "eager") if target == "cpu" else ("sdpa-flash", "sdpa-flash-unordered", "sdpa-cudnn", "flex")
    return differentiated_for(target, TILEWRIGHT, *peers)


def _memory_rows(session: Session) -> list[Row]:
    asked = [("causal", length, TILEWRIGHT) for length in MEMORY_LENGTHS]
    asked += [(name, MEMORY_LENGTHS[-1], TILEWRIGHT) for name in ("full", "alibi-captured")]
    asked += [("causal", MEMORY_LENGTHS[-1], "sdpa")]
    return [_memory(name, length, impl, session) for name, length, impl in asked]


def _memory(variant: str, length: int, impl: str, session: Session) -> Row:
    case = memory_case(variant, length)
    session.say(f"backward: memory of {impl}, {case}")
    arguments = [impl, variant, str(length)]
    return with_memory(session.row("backward-memory", case, impl), "tilewright.bench.backward_memory", arguments)
