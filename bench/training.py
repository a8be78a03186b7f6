"""A case with gradients: what is differentiated, the work it stands for, and what the gradients should be.

The truth is autograd through the variant's plain function in float64. A gradient's error may be twice the sum of three
that cannot be avoided: that of autograd through the same function in the case's own element type, the rounding of the
result, and that of adding its terms in float32, the root of their number of roundings of the largest sum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .cases import SEED, Case, Inputs

__all__ = ["Expected", "Outcome", "Training", "expected_of"]

# Scores that the reference may hold at once, several times over; of a longer case the first head is checked.
MAX_SCORES = {"cpu": 2**25, "cuda": 2**28}
Outcome = Mapping[str, Tensor]  # o, dq, dk, dv and d0, d1, … of the captured tensors, by name


@dataclass(frozen=True, slots=True)
class Training(Case):
    """Forward and backward, or the backward alone; wants_captured: also the gradients of floating captured tensors."""

    wants_captured: bool = False
    has_forward: bool = True

    def __str__(self) -> str:
        """The case's name; -captured where captured tensors have gradients."""
        return Case.__str__(self) + ("-captured" if self.wants_captured else "")

    @property
    def flops(self) -> int:
        """Operations of the products on the pairs that no mask removes.

        Two products in the forward (D, Dv), and five in the backward: scores once more, dQ, dK (D), dP and dV (Dv).
        """
        s = self.shape
        columns = 3 * s.D + 2 * s.Dv + (s.D + s.Dv if self.has_forward else 0)
        return 2 * s.B * s.Hq * self.variant.pairs(s.M, s.N) * columns

    def output_gradient(self, inputs: Inputs) -> Tensor:
        """A standard-normal gradient of o [B, Hq, M, Dv], the same at every call."""
        s, q = self.shape, inputs.q
        generator = torch.Generator(q.device).manual_seed(SEED + 1)
        return torch.randn((s.B, s.Hq, s.M, s.Dv), generator=generator, device=q.device).to(q.dtype)

    def leaves(self, inputs: Inputs) -> dict[str, Tensor]:
        """The spec's arguments in order, by the names of their gradients; those wanted require one."""
        names = ["dq", "dk", "dv", *(f"d{n}" for n in range(len(inputs.captured)))]
        found = {name: tensor.detach() for name, tensor in zip(names, inputs.tensors, strict=True)}
        for name, tensor in found.items():
            is_wanted = name in ("dq", "dk", "dv") or self.wants_captured
            tensor.requires_grad_(is_wanted and tensor.is_floating_point())
        return found


@dataclass(frozen=True, slots=True)
class Expected:
    """o and the gradients in float64 on the first `heads` heads (query, key), and the largest error of each."""

    exact: Outcome
    budgets: Mapping[str, float]
    heads: tuple[int, int]

    def complaint(self, got: Outcome) -> str | None:
        """Why an outcome is wrong, or None. It may lack o."""
        missing = self.exact.keys() - got.keys() - {"o"}
        if missing:
            return f"no {', '.join(sorted(missing))}"
        for name in self.exact.keys() & got.keys():
            found, exact = first_heads(name, got[name], self.heads), self.exact[name]
            if found.shape != exact.shape:
                return f"wrong shape: {name} is {tuple(found.shape)}, wanted {tuple(exact.shape)}"
            error = _largest_error(found, exact)
            if not error <= self.budgets[name]:
                return f"wrong result: {name}: error {error:.3e} over budget {self.budgets[name]:.3e}"
        return None


def expected_of(case: Case, inputs: Inputs) -> Expected:
    """Autograd through the variant's plain function in float64 and in the case's type."""
    assert isinstance(case, Training), case
    heads = _heads_that_fit(case, inputs.q.device.type)
    exact = _by_batch(case, inputs, heads, torch.float64)
    low = _by_batch(case, inputs, heads, inputs.q.dtype)
    dtypes = {f"d{n}": tensor.dtype for n, tensor in enumerate(inputs.captured)}
    budgets = {}
    for name, truth in exact.items():
        rounding = torch.finfo(dtypes.get(name, inputs.q.dtype)).eps / 2
        adding = math.sqrt(_terms(name, case)) * torch.finfo(torch.float32).eps / 2
        budgets[name] = 2 * (_largest_error(low[name], truth) + (rounding + adding) * float(truth.abs().max()))
    return Expected(exact, budgets, heads)


def first_heads(name: str, tensor: Tensor, heads: tuple[int, int]) -> Tensor:
    """What belongs to the first heads (query, key); captured tensors' gradients are whole."""
    if name in ("o", "dq"):
        return tensor[:, : heads[0]]
    return tensor[:, : heads[1]] if name in ("dk", "dv") else tensor


def _heads_that_fit(case: Training, device: str) -> tuple[int, int]:
    s = case.shape
    group = s.Hq // s.Hkv
    fitting = MAX_SCORES[device] // (s.M * s.N)
    return (s.Hq, s.Hkv) if s.Hq <= fitting else (group, 1)


def _terms(name: str, case: Training) -> int:
    """How many terms a gradient sums up."""
    s = case.shape
    if name in ("o", "dq"):
        return s.N
    return s.M * (s.Hq // s.Hkv) if name in ("dk", "dv") else s.B * s.M * s.N


def _by_batch(case: Training, inputs: Inputs, heads: tuple[int, int], dtype: torch.dtype) -> Outcome:
    """The outcome, one batch element at a time; captured tensors' gradients are summed up over them."""
    leaves = case.leaves(inputs)
    d_o = first_heads("o", case.output_gradient(inputs), heads)
    parts = [_of_one(case, leaves, d_o, (b, heads, dtype)) for b in range(case.shape.B)]
    joined = {name: torch.cat([part[name] for part in parts]) for name in ("o", "dq", "dk", "dv")}
    others = parts[0].keys() - joined.keys()
    return joined | {name: torch.stack([part[name].double() for part in parts]).sum(0) for name in sorted(others)}


def _of_one(
    case: Training, leaves: Mapping[str, Tensor], d_o: Tensor, what: tuple[int, tuple[int, int], torch.dtype]
) -> Outcome:
    b, heads, dtype = what
    own = {}
    for name, leaf in leaves.items():
        is_main = name in ("dq", "dk", "dv")
        part = first_heads("o" if name == "dq" else name, leaf.detach()[b : b + 1], heads) if is_main else leaf.detach()
        is_raised = part.is_floating_point() and (is_main or dtype == torch.float64)
        own[name] = (part.to(dtype) if is_raised else part.clone()).requires_grad_(leaf.requires_grad)
    with torch.enable_grad():
        o = case.variant.spec(*own.values())
    wanted = {name: leaf for name, leaf in own.items() if leaf.requires_grad}
    found = torch.autograd.grad(o, list(wanted.values()), d_o[b : b + 1].to(o.dtype))
    return {"o": o.detach(), **dict(zip(wanted, found, strict=True))}


def _largest_error(got: Tensor, exact: Tensor) -> float:
    """Largest absolute difference; infinite where there is no number."""
    return float((got.to(torch.float64) - exact).abs().nan_to_num(nan=math.inf).max())
