"""Whether an implementation computes the right thing; what does not is reported, never timed.

The budget comes from data: an error may be twice the sum of three that cannot be avoided. They are that of the
variant's plain function run in the case's own element type, the rounding of the result to that type, and that
of adding N weighted values in float32, which is sqrt(N) roundings of the sum of their absolute values
(Higham and Mary, "A new approach to probabilistic rounding error analysis", 2019).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .cases import Case, Inputs

__all__ = ["Reference", "reference_of"]


# Scores of one batch element that the reference may hold at once; a longer case is checked on its first rows.
MAX_SCORES = {"cpu": 2**27, "cuda": 2**31}


@dataclass(frozen=True, slots=True)
class Reference:
    """The exact output of the first rows [B, Hq, rows, Dv] in float64, and the largest error allowed."""

    exact: Tensor
    budget: float

    def complaint(self, got: Tensor) -> str | None:
        """Why an output [B, Hq, M, Dv] is wrong, or None."""
        rows = self.exact.shape[2]
        if got.dim() != 4 or got[:, :, :rows].shape != self.exact.shape:
            return f"wrong shape: {tuple(got.shape)}, wanted {tuple(self.exact.shape)}"
        error = _largest_error(got[:, :, :rows], self.exact)
        if error <= self.budget:
            return None
        return f"wrong result: error {error:.3e} over budget {self.budget:.3e}"


def reference_of(case: Case, inputs: Inputs) -> Reference:
    """Run the variant's plain function in float64 and in the case's type, one batch element at a time."""
    rows = min(case.shape.M, MAX_SCORES[inputs.q.device.type] // (case.shape.Hq * case.shape.N))
    exact = _by_batch(case, inputs, rows, torch.float64)
    low = _by_batch(case, inputs, rows, inputs.q.dtype)
    absolute = _by_batch(case, replace(inputs, v=inputs.v.abs()), rows, torch.float64)
    rounding = _rounding(inputs.q.dtype) * float(exact.abs().max())
    adding = math.sqrt(case.shape.N) * _rounding(torch.float32) * float(absolute.max())
    return Reference(exact, 2 * (_largest_error(low, exact) + rounding + adding))


def _rounding(dtype: torch.dtype) -> float:
    """The largest relative error of one rounding."""
    return torch.finfo(dtype).eps / 2


def _by_batch(case: Case, inputs: Inputs, rows: int, dtype: torch.dtype) -> Tensor:
    is_exact = dtype == torch.float64
    captured = [t.to(dtype) if is_exact and t.is_floating_point() else t for t in inputs.captured]
    batches = zip(inputs.q[:, :, :rows], inputs.k, inputs.v, strict=True)
    spec = case.variant.spec
    return torch.stack([spec(*(t[None].to(dtype) for t in qkv), *captured)[0] for qkv in batches])


def _largest_error(got: Tensor, exact: Tensor) -> float:
    """Largest absolute difference; infinite where one is NaN and the other is not."""
    difference = (got.to(torch.float64) - exact).abs()
    both_nan = got.isnan() & exact.isnan()
    return float(torch.where(both_nan, 0.0, difference.nan_to_num(nan=float("inf"))).max())
