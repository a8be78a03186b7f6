"""Backward programs to test on: plans made by hand, tensors, and the exact gradients by autograd in double precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from tilewright.ir.gradient import differentiate
from tilewright.ir.program import Program
from tilewright.ir.spec import AttentionSpec
from tilewright.ir.transfer import retile
from tilewright.ir.transfer.backward import transfer_backward
from tilewright.kernels.references import reference_program

from .variants import Variant, arguments, named_sizes

TILES = (16, 32)  # rows, columns
Plan = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Score = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, list[torch.Tensor]], torch.Tensor]
Keep = Callable[[torch.Tensor, torch.Tensor, list[torch.Tensor]], torch.Tensor]


@dataclass(frozen=True)
class Case:
    """A variant as the project's text, and as torch: score(s, i, j, captured), keep(i, j, captured)."""

    variant: Variant
    score: Score = lambda s, i, j, captured: s * 0.2
    keep: Keep = lambda i, j, captured: torch.ones(len(i), j.shape[-1], dtype=torch.bool)


def _by_blocks(i: torch.Tensor, j: torch.Tensor, captured: list[torch.Tensor]) -> torch.Tensor:
    return captured[0][:, i // 16, j // 16]


def _slopes(s: torch.Tensor, i: torch.Tensor, j: torch.Tensor, captured: list[torch.Tensor]) -> torch.Tensor:
    return s * 0.2 - captured[0][:, None, None] * (i - j)


def _same_document(i: torch.Tensor, j: torch.Tensor, captured: list[torch.Tensor]) -> torch.Tensor:
    return (captured[0][:, i] == captured[0][:, j])[:, None]


CAUSAL = "j <= i"
CASES = {
    "full": Case(Variant()),
    "causal": Case(Variant(keep=CAUSAL), keep=lambda i, j, c: j <= i),
    "window": Case(Variant(keep="(j <= i) & (i - j < 20)"), keep=lambda i, j, c: (j <= i) & (i - j < 20)),
    "softcap": Case(
        Variant(score="20.0 * tanh(s * 0.05)", keep=CAUSAL), lambda s, i, j, c: 20 * torch.tanh(s * 0.05), lambda i, j, c: j <= i
    ),
    "alibi": Case(
        Variant(score="s * 0.2 - slopes[h] * f32(i - j)", keep=CAUSAL, captured="slopes: f32[Hq]"), _slopes, lambda i, j, c: j <= i
    ),
    "bias": Case(
        Variant(score="s * 0.2 + bias[h, i, j]", captured="bias: f32[Hq, M, N]"), lambda s, i, j, c: s * 0.2 + c[0]
    ),
    "documents": Case(Variant(keep="doc[b, i] == doc[b, j]", captured="doc: i32[B, N]"), keep=_same_document),
    "blocks": Case(
        Variant(keep="blocks[h, i // 16, j // 16]", captured="blocks: bool[Hq, Rows, Columns]"), keep=_by_blocks
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """Inputs of a backward program before its tables (q, k, v, captured, o, lse, d_o, d_lse), its mask, exact dq, dk, dv."""

    inputs: list[torch.Tensor]
    mask: torch.Tensor
    exact: tuple[torch.Tensor, ...]


def program_of(
    spec: AttentionSpec, tiles: tuple[int, int] = TILES, *, form: str = "flash_backward", is_ordered: bool = True
) -> Program:
    """The expert's backward program with the gradients of a spec."""
    program = transfer_backward(reference_program(form), differentiate(spec), is_ordered=is_ordered)
    return retile(program, {"m": tiles[0], "n": tiles[1]})


def problem_of(case: Case, spec: AttentionSpec, batch: int = 1, heads: int = 4, rows: int = 37, columns: int = 53) -> Problem:
    """Random tensors, and what autograd finds in double precision for them."""
    sizes = named_sizes(spec, batch, heads, rows, columns)
    q, k, v, *captured = arguments(spec, sizes)
    mask = _mask(case, captured, sizes)
    q64, k64, v64 = (x.double().requires_grad_() for x in (q, k, v))
    o, lse = _attention(case, (q64, k64, v64), captured, mask)
    torch.manual_seed(1)
    d_o, d_lse = torch.randn(o.shape).to(q.dtype), torch.randn(lse.shape)
    some = mask.any(-1).expand(lse.shape)
    exact = torch.autograd.grad((o * d_o.double()).sum() + torch.where(some, lse * d_lse.double(), 0.0).sum(), (q64, k64, v64))
    known = [o.detach().to(q.dtype), torch.where(some, lse.detach(), -torch.inf).float(), d_o, d_lse]
    return Problem([q, k, v, *captured, *known], mask.expand(*lse.shape, k.shape[2]), exact)


def _mask(case: Case, captured: list[torch.Tensor], sizes: dict[str, int]) -> torch.Tensor:
    i, j = torch.arange(sizes["M"])[:, None], torch.arange(sizes["N"])[None, :]
    return case.keep(i, j, captured)


def _attention(
    case: Case, tensors: tuple[torch.Tensor, ...], captured: list[torch.Tensor], mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    q, k, v = tensors
    group = q.shape[1] // k.shape[1]
    i, j = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])[None, :]
    s = q @ k.repeat_interleave(group, 1).mT
    wide = [x.double() if x.is_floating_point() else x for x in captured]
    x = torch.where(mask, case.score(s, i, j, wide), -1e9)
    o = torch.where(mask.any(-1, keepdim=True), torch.softmax(x, -1) @ v.repeat_interleave(group, 1), 0.0)
    return o, torch.logsumexp(x, -1)


ORDERS = ("ascending", "descending", "shuffled")


def plan_of(problem: Problem, tiles: tuple[int, int] = TILES, order: str = "ascending") -> Plan:
    """jobs, lists and visits of a mask: ranks are places in the order of the jobs, so that no wait can last forever."""
    batch, heads, rows, columns = problem.mask.shape
    kv_heads = problem.inputs[1].shape[1]
    group = heads // kv_heads
    rng = np.random.default_rng(0)
    every = [(b, g, n) for b in range(batch) for g in range(kv_heads) for n in range(-(-columns // tiles[1]))]
    every = {"ascending": every, "descending": every[::-1], "shuffled": rng.permutation(every).tolist()}[order]
    jobs, lists, visits, ranks = [], [0], [], {}
    for line, (b, g, n) in enumerate(every):
        found = []
        for member, m in np.ndindex(group, -(-rows // tiles[0])):
            place = b, g * group + member
            cut = problem.mask[place][m * tiles[0] : (m + 1) * tiles[0], n * tiles[1] : (n + 1) * tiles[1]]
            if cut.any():
                rank = ranks[*place, m] = ranks.get((*place, m), -1) + 1
                found.append((member, m, rank, int(bool(cut.all()) and cut.shape == tiles)))
        visits += found if order == "ascending" else rng.permutation(found).tolist()
        jobs.append((b, g, n, line))
        lists.append(len(visits))
    tables = (np.array(table, np.int32).reshape(shape) for table, shape in ((jobs, (-1, 4)), (lists, -1), (visits, (-1, 4))))
    jobs_table, lists_table, visits_table = (torch.from_numpy(table) for table in tables)
    return jobs_table, lists_table, visits_table


def low_precision_error(case: Case, problem: Problem) -> tuple[float, ...]:
    """What the same formula loses with weights and their gradients rounded to the inputs' type, and sums in float32."""
    q, k, v, *captured = problem.inputs[:-4]
    o, lse, d_o, d_lse = problem.inputs[-4:]
    group = q.shape[1] // k.shape[1]
    i, j = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])[None, :]
    k_of, v_of = (x.float().repeat_interleave(group, 1) for x in (k, v))
    s = (q.float() @ k_of.mT).requires_grad_()
    wide = [x.float() if x.is_floating_point() else x for x in captured]
    value = case.score(s, i, j, wide)
    (slope,) = torch.autograd.grad(value.sum(), s)
    p = torch.where(problem.mask, torch.exp(value.detach() - lse[..., None]), 0.0)
    delta = (o.float() * d_o.float()).sum(-1) - d_lse
    ds = torch.where(problem.mask, p * (d_o.float() @ v_of.mT - delta[..., None]) * slope, 0.0).to(q.dtype).float()
    heads = lambda x: x.unflatten(1, (-1, group)).sum(2)  # noqa: E731
    found = (ds @ k_of, heads(ds.mT @ q.float()), heads(p.to(q.dtype).float().mT @ d_o.float()))
    return tuple(distance(x.to(q.dtype), y) for x, y in zip(found, problem.exact, strict=True))


def distance(got: torch.Tensor, exact: torch.Tensor) -> float:
    """The greatest difference, as a share of the greatest element; infinite for NaN."""
    worst = (got.double() - exact).abs().max() / exact.abs().max().clamp(min=1e-30)
    return float(worst.nan_to_num(torch.inf))


def check(case: Case, problem: Problem, outputs: tuple[torch.Tensor, ...], name: str = "") -> None:
    """dq, dk and dv within twice the error of the low-precision formula, and of float32's own rounding."""
    budgets = low_precision_error(case, problem)
    for tensor, got, exact, budget in zip(("dq", "dk", "dv"), outputs, problem.exact, budgets, strict=True):
        error = distance(got, exact)
        assert error <= 2 * budget + 2e-6, f"{name} {tensor}: error {error:.3e} over budget {2 * budget:.3e}"

