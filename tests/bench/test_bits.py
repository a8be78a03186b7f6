"""The comparison of bits reports whatever differs: one bit, a sign of zero, a shape, a circumstance."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tilewright.bench import circumstances, determinism
from tilewright.bench.backward import square, trained
from tilewright.bench.bits import Bits, compare_bits, difference
from tilewright.bench.circumstances import KINDS, PADDED
from tilewright.bench.determinism import bits_row
from tilewright.bench.differentiated import MAKERS, Attention
from tilewright.bench.implementations import TILEWRIGHT
from tilewright.bench.training import Training

X = {"dq": torch.tensor([[1.0, 0.0], [-2.0, float("nan")]])}


def changed(value: float, place: tuple[int, int] = (0, 1)) -> dict[str, torch.Tensor]:
    found = X["dq"].clone()
    found[place] = value
    return {"dq": found}


@pytest.mark.parametrize(
    ("got", "told"),
    [
        (changed(0.0), None),
        (changed(-0.0), "dq: 1 of 4 elements differ, first at (0, 1): -0 against 0"),
        (changed(1.0 + 2.0**-23, (0, 0)), "dq: 1 of 4 elements differ, first at (0, 0): 1.00000012 against 1"),
        ({"dq": X["dq"][:1]}, "dq is torch.float32 (1, 2), wanted torch.float32 (2, 2)"),
        ({"dq": X["dq"].double()}, "dq is torch.float64 (2, 2), wanted torch.float32 (2, 2)"),
        ({}, "got nothing, wanted dq"),
        ({**X, "dk": X["dq"]}, "got dq, dk, wanted dq"),
    ],
    ids=["same", "zero", "bit", "shape", "type", "none", "more"],
)
def test_every_difference_is_told(got, told: str | None) -> None:
    assert difference(X, got) == told


def test_results_are_counted() -> None:
    found = compare_bits(X, [("run 0", X), ("run 1", changed(-0.0)), ("run 2", changed(5.0)), ("run 3", X)])
    assert (found.tried, found.equal, found.is_same) == (4, 2, False)
    assert found.first == "run 1: dq: 1 of 4 elements differ, first at (0, 1): -0 against 0"
    assert not Bits(0, 0).is_same
    assert Bits(2, 2).is_same


SHAPE = square(1, 2, 40, 16)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circumstances, "RUNS", 5)


def row_of(monkeypatch: pytest.MonkeyPatch, session, forward, variant=PADDED[1]):
    """The row of bits with a function in the place of our kernel."""
    case = Training(variant, "f32", SHAPE)
    fake = (frozenset({"cpu"}), lambda case, inputs, target: Attention(forward or case.variant.spec))
    monkeypatch.setitem(MAKERS, TILEWRIGHT, fake)
    return bits_row(case, TILEWRIGHT, session)


def off_by_a_bit(x: torch.Tensor) -> torch.Tensor:
    return x * (1 + 2.0**-22)


def plain(q, k, v, length):
    """Row by row and head by head in float64, so that only what a test does to it changes bits."""
    seen = int(length)
    o = [PADDED[1].spec(*(x[b : b + 1, :, :seen].double() for x in (q, k, v)), length) for b in range(len(q))]
    return torch.cat([torch.cat(o).to(q.dtype), torch.zeros_like(q[:, :, seen:])], dim=2)


def test_equal_bits_are_a_row_without_error(quick, monkeypatch, session) -> None:
    row = row_of(monkeypatch, session, plain)
    assert row.error is None
    assert row.extra == {
        "runs": 5, "equal_runs": 5, "threads": 4, "equal_threads": 4,
        "places": 4, "equal_places": 4, "paddings": 3, "equal_paddings": 3,
    }  # fmt: skip
    assert (row.suite, row.case) == ("bits", "B1-H2-N40-D16-f32-padded-rows")


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_fault_is_reported(quick, monkeypatch, session, kind: str) -> None:
    calls = []

    def faulty(q, k, v, length):
        calls.append(None)
        o = plain(q, k, v, length)
        is_off = {
            "runs": len(calls) == 4,
            "threads": torch.get_num_threads() == 3,
            "places": len(q) > 1,
            "paddings": q.shape[2] > 200,
        }[kind]
        return off_by_a_bit(o) if is_off else o

    before = torch.get_num_threads()
    row = row_of(monkeypatch, session, faulty)
    assert torch.get_num_threads() == before
    assert row.error is not None
    assert row.error.startswith("bits differ: ")
    assert f"{kind}: " in row.error
    assert row.extra[f"equal_{kind}"] < row.extra[kind]
    others = {name: row.extra[f"equal_{name}"] == row.extra[name] for name in KINDS if name != kind}
    assert all(others.values()), row.extra


def test_a_failure_is_an_error_row(quick, monkeypatch, session) -> None:
    row = row_of(monkeypatch, session, lambda *args: 1 / 0)
    assert row.error == "ZeroDivisionError: division by zero"
    assert row.extra == {}


def test_sums_as_they_come_are_counted_without_an_error(quick, monkeypatch, session) -> None:
    calls = []

    def faulty(q, k, v):
        calls.append(None)
        return off_by_a_bit(q * v) if len(calls) % 2 else q * v

    name = TILEWRIGHT + "-unordered"
    monkeypatch.setitem(MAKERS, name, (frozenset({"cpu"}), lambda case, inputs, target: Attention(lambda q, k, v: faulty(q, k, v) + 0 * k)))
    row = bits_row(trained("causal", "f32", SHAPE), name, session)
    assert row.error is None
    assert row.extra["runs"] == 5
    assert row.extra["equal_runs"] == 2


def test_our_kernel_keeps_its_bits(quick, session) -> None:
    case = replace(trained("causal", "f32", square(1, 2, 150, 32)))
    row = bits_row(case, TILEWRIGHT, session)
    assert row.error is None
    assert row.extra["equal_runs"] == 5


def test_every_case_is_there_once() -> None:
    names = [str(case) for case in determinism.bits_cases("cpu")]
    assert len(names) == len(set(names)) == 24
    assert {str(case) for case in determinism.bits_cases("triton")} < set(names)
