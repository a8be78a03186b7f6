"""AttentionSpec: WHAT is computed. Both front ends produce it; transfer turns it into a Program (HOW).

For batch b, query head h, query row i and key row j:

    s[i, j] = sum_d q[b, h, i, d] * k[b, h // group, j, d]
    x[i, j] = score(s, b, h, i, j)                  where keep(b, h, i, j), else left out of every sum
    o[b, h, i] = sum_j weight(x)[i, j] * after(b, h, i, j) * v[b, h // group, j]

and `weight` is the normaliser's: softmax over j (optionally with one extra logit, the sink), or an
elementwise function, optionally divided by its row sum. `after` is 1 unless the function multiplies weights
that are normalised already, as dropout does; row sums do not know of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from .dtypes import DType, Kind
from .expr import Expr, const, var

SCORE_PARAMETERS = ("s", "b", "h", "i", "j")
MASK_PARAMETERS = ("b", "h", "i", "j")
SIZES = ("B", "Hq", "Hkv", "M", "N", "D", "Dv")

S, BATCH, HEAD, ROW, COLUMN = (var("s", Kind.FLOAT), var("b"), var("h"), var("i"), var("j"))

Dim = str | int


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor argument: its name, element type and dims (a size's name, or a fixed integer)."""

    name: str
    dtype: DType
    dims: tuple[Dim, ...]


class NormaliserKind(Enum):
    """How scores become weights."""

    SOFTMAX = "softmax"  # exp(x - max) / sum, plus exp(sink - max) in the sum when there is a sink
    ELEMENTWISE = "elementwise"  # weight(x), summed as it is
    ROW_SUM = "row_sum"  # weight(x) / (row sum of weight(x) + epsilon)


@dataclass(frozen=True, slots=True)
class Normaliser:
    """The weights' rule. `sink`: a logit per head, over b and h. `weight`: over x (VAR "s"), b, h, i, j.

    `after`: over b, h, i, j, what a weight is multiplied by once it is normalised; None for nothing.
    """

    kind: NormaliserKind = NormaliserKind.SOFTMAX
    sink: Expr | None = None
    weight: Expr | None = None
    epsilon: float = 0.0
    after: Expr | None = None


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """An attention variant; see the module's formula. `group` is Hq / Hkv; D and Dv are fixed, other sizes are not.

    `score` is a FLOAT expression over the variables s, b, h, i, j; `keep` a BOOL one over b, h, i, j. Both
    may use sizes by name (B, Hq, Hkv, M, N, and the captured tensors' own) and loads from captured tensors.
    `scale` has been folded into `score`. `requires` is a BOOL expression over sizes: where it is false, the
    function takes another branch or refuses, and the spec does not hold.
    """

    name: str
    dtype: DType
    head_dim: int
    value_dim: int
    group: int = 1
    captured: tuple[TensorSpec, ...] = ()
    score: Expr = field(default=S)
    keep: Expr = field(default=const(True))
    normaliser: Normaliser = Normaliser()
    requires: Expr = field(default=const(True))

    def allows(self, sizes: Mapping[str, int]) -> bool:
        """Whether the spec holds for these sizes, given by name."""
        from .evaluate import evaluate

        return bool(evaluate(self.requires, sizes, {}))

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """q, k, v, then the captured tensors: the kernel's arguments in order."""
        return (
            TensorSpec("q", self.dtype, ("B", "Hq", "M", "D")),
            TensorSpec("k", self.dtype, ("B", "Hkv", "N", "D")),
            TensorSpec("v", self.dtype, ("B", "Hkv", "N", "Dv")),
            *self.captured,
        )
