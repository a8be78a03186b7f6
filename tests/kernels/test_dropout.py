"""Dropout: the same mask in eager PyTorch, on every instruction set and tile, in Triton; a fair coin; refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tilewright as tw
from tilewright.ir.errors import DTypeError, ShapeError, UnsupportedSpec
from tilewright.ir.lift import lift
from tilewright.ir.parser import parse_program, parse_spec
from tilewright.ir.printer import print_spec
from tilewright.ir.spec import AttentionSpec
from tilewright.ir.transfer import Orchestration, transfer
from tilewright.kernels.references import reference_program
from tilewright.lowering.cpp.target import CpuTarget
from tilewright.lowering.toolchain import supported_isas
from tilewright.lowering.triton.interpreter import interpret

BATCH, HEADS, ROWS, COLUMNS, DROPPED = 2, 2, 37, 64, 0.3
SEED = torch.tensor(-(2**40) + 12345)


def mask_of(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
    """Weights that are all alike, so that with v the identity the result shows what was dropped."""
    return tw.dropout((q @ k.mT).softmax(-1), DROPPED, seed) @ v


def tensors(batch: int = BATCH, rows: int = ROWS) -> list[torch.Tensor]:
    q, k = torch.zeros(batch, HEADS, rows, 16), torch.zeros(batch, HEADS, COLUMNS, 16)
    return [q, k, torch.eye(COLUMNS).expand(batch, HEADS, -1, -1).contiguous(), SEED]


@pytest.fixture(scope="module")
def spec() -> AttentionSpec:
    return lift(mask_of, tensors())


def dropped(seed: int | torch.Tensor, batch: int = BATCH, rows: int = ROWS) -> torch.Tensor:
    return tw.dropout(torch.ones(batch, HEADS, rows, COLUMNS), DROPPED, seed) == 0


@pytest.mark.parametrize("isa", supported_isas())
def test_kernels_drop_what_eager_drops(spec: AttentionSpec, isa: str) -> None:
    tiles = {"portable": (16, 16), "avx2": (48, 32)}.get(isa, (112, 48))
    program = transfer(reference_program(), spec, Orchestration((("m", tiles[0]), ("n", tiles[1])), is_packed=True))
    target, (q, k, v, seed) = CpuTarget(), tensors()
    o, lse = torch.full_like(q[..., :1].expand(-1, -1, -1, COLUMNS), torch.nan).contiguous(), torch.empty(q.shape[:3])
    sizes = {"B": BATCH, "Hq": HEADS, "Hkv": HEADS, "M": ROWS, "N": COLUMNS, "D": 16, "Dv": COLUMNS}
    target.load(target.lower(program, isa), program)([q, k, v, seed, o, lse], sizes)
    assert torch.equal(o == 0, dropped(SEED))
    torch.testing.assert_close(lse, torch.full_like(lse, float(np.log(COLUMNS))))


def test_triton_drops_what_eager_drops(spec: AttentionSpec) -> None:
    program = transfer(reference_program(), spec, Orchestration((("m", 16), ("n", 32))))
    o, _ = interpret(parse_program(str(program)), tensors())
    assert torch.equal(o == 0, dropped(SEED))


def test_a_mask_does_not_depend_on_what_else_is_computed() -> None:
    whole = dropped(7)
    assert torch.equal(whole[:1], dropped(7, batch=1))
    assert torch.equal(whole[:, :, :5], dropped(7, rows=5))
    assert torch.equal(whole, dropped(torch.tensor([7 + 2**32])))


def test_the_coin_is_fair_and_knows_no_neighbours() -> None:
    keep = tw.dropout(torch.ones(2, 4, 256, 256), DROPPED, 1) != 0
    x = (keep.double() - (1 - DROPPED)) / (DROPPED * (1 - DROPPED)) ** 0.5
    other = tw.dropout(torch.ones(2, 4, 256, 256), DROPPED, 2) != 0
    y = (other.double() - (1 - DROPPED)) / (DROPPED * (1 - DROPPED)) ** 0.5
    pairs = {
        "mean": x, "seed": x * y, "column": x[..., 1:] * x[..., :-1], "row": x[:, :, 1:] * x[:, :, :-1],
        "head": x[:, 1:] * x[:, :-1], "batch": x[1:] * x[:-1], "diagonal": x[:, :, 1:, 1:] * x[:, :, :-1, :-1],
        "stride": x[..., 64:] * x[..., :-64], "mirror": (x * x.mT)[..., *torch.triu_indices(256, 256, 1)],
    }  # fmt: skip
    for name, values in pairs.items():
        assert abs(float(values.mean())) * values.numel() ** 0.5 < 5, name
    rows = x.mean(-1) * 16  # of 256 elements each: mean 0, variance 1
    assert abs(float(rows.var()) - 1) < 5 * (2 / rows.numel()) ** 0.5


def test_it_lifts_to_text_that_parses_and_a_new_seed_needs_no_new_kernel(spec: AttentionSpec) -> None:
    text = print_spec(spec)
    assert parse_spec(text) == spec
    assert max(map(len, text.splitlines())) < 300
    assert "seed: i64[()]" in text
    assert spec.normaliser.after is not None


@pytest.mark.parametrize(
    ("weights", "p", "seed", "error", "told"),
    [
        (torch.ones(1, 1, 2, 2), 1.0, 0, UnsupportedSpec, "p is 1.0; wanted 0 <= p < 1"),
        (torch.ones(2, 2), 0.5, 0, ShapeError, r"weights have shape \(2, 2\); wanted"),
        (torch.ones(1, 1, 2, 2), 0.5, torch.tensor(0.5), DTypeError, "seed is torch.float32; wanted an integer"),
        (torch.ones(1, 1, 2, 2), 0.5, torch.tensor([1, 2]), ShapeError, r"seed has shape \(2,\); wanted one element"),
    ],
)
def test_bad_arguments_are_refused(weights, p: float, seed, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        tw.dropout(weights, p, seed)


def test_random_dropout_is_refused_with_the_way_out() -> None:
    def random(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.dropout((q @ k.mT).softmax(-1), 0.1) @ v

    with pytest.raises(UnsupportedSpec, match=r"use tilewright\.dropout\(weights, p, seed\)"):
        lift(random, tensors()[:3])
