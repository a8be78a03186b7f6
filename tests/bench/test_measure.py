"""A case becomes rows; what computes something else is an error row and is never timed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tilewright.bench.cases import Case, Shape
from tilewright.bench.measure import measure
from tilewright.bench.rows import PEAK, write_rows
from tilewright.bench.variants import VARIANTS

CONTRACT = {
    "suite", "case", "impl", "target", "dtype", "shape", "median_ms", "min_ms", "max_ms", "gflops",
    "fraction_of_peak", "machine",
}  # fmt: skip
TIMES = ("median_ms", "min_ms", "max_ms", "gflops", "fraction_of_peak")


def rows_of(case, implementations, session):
    return {row.impl: row for row in measure("forward", case, implementations, session)}


def test_rows_keep_the_contract(small_case, implementation, session, tmp_path: Path) -> None:
    write_rows(
        tmp_path / "new" / "rows.json",
        measure("forward", small_case(), [implementation("a", lambda o: o)], session),
    )
    rows = json.loads((tmp_path / "new" / "rows.json").read_text())
    assert {row["impl"] for row in rows} == {"a", PEAK}
    for row in rows:
        assert set(row) >= CONTRACT
        assert row["suite"] == "forward"
        assert row["case"] == "B2-H3-N40-D16-f32-causal"
        assert row["target"] == "cpu"
        assert row["dtype"] == "f32"
        assert row["shape"] == [2, 3, 3, 40, 40, 16, 16]
        assert all(isinstance(row[name], float) and row[name] > 0 for name in TIMES)
        assert row["min_ms"] <= row["median_ms"] <= row["max_ms"]
        assert row["machine"] == {"cpu": "a processor", "load": 0.0}
        assert row["command"] == "tilewright bench forward --target cpu"


def test_speeds_follow_from_the_times(small_case, implementation, session) -> None:
    case = small_case()
    rows = rows_of(case, [implementation("a", lambda o: o)], session)
    assert rows["a"].gflops == pytest.approx(case.flops / rows["a"].median_ms / 1e6)
    assert rows[PEAK].gflops == pytest.approx(1e6 / rows[PEAK].median_ms / 1e6)
    assert rows[PEAK].fraction_of_peak == 1.0
    assert rows["a"].fraction_of_peak == pytest.approx(rows["a"].gflops / rows[PEAK].gflops)
    assert rows["a"].extra == {"note_ms": 1.0}


@pytest.mark.parametrize(
    ("output", "told"),
    [
        (lambda o: o * 1.001, "wrong result: error .* over budget"),
        (lambda o: torch.full_like(o, float("nan")), "wrong result: error inf over budget"),
        (lambda o: o.index_fill(2, torch.tensor([39]), 0), "wrong result"),
        (lambda o: o.transpose(1, 2), "wrong shape: .*wanted \\(2, 3, 40, 16\\)"),
        (lambda o: o[0], "wrong shape"),
        (lambda o: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
    ids=["off", "nan", "last-row", "transposed", "rank", "raises"],
)
def test_a_wrong_result_is_never_timed(small_case, implementation, session, output, told: str) -> None:
    calls = []

    def noted(o):
        calls.append(1)
        return output(o)

    rows = rows_of(small_case(), [implementation("good", lambda o: o), implementation("bad", noted)], session)
    assert len(calls) == 1
    bad = rows["bad"]
    assert [getattr(bad, name) for name in TIMES] == [None] * 5
    with pytest.raises(ValueError, match=told):
        raise ValueError(bad.error)
    assert rows["good"].error is None
    assert rows["good"].median_ms


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("variant", ["full", "causal", "window", "softcap", "alibi", "documents"])
def test_the_budget_admits_another_order_of_the_same_sums(small_case, implementation, session, variant, dtype) -> None:
    """What a fused kernel computes: scores, weights and sums in f32, the output rounded once."""
    case = small_case(variant, dtype)

    def fused(o):
        inputs = case.inputs(torch.device("cpu"))
        return case.variant.spec(*(t.float() for t in inputs.tensors[:3]), *inputs.captured).to(o.dtype)

    assert rows_of(case, [implementation("fused", fused)], session)["fused"].error is None


def test_the_budget_admits_one_running_sum_over_many_keys(implementation, session) -> None:
    """Fused kernels add values key by key; eager adds blocks, and its error at a large N is far smaller."""
    case = Case(VARIANTS["full"], "f32", Shape(1, 1, 1, 16, 16384, 8, 8))

    def running(o):
        q, k, v = case.inputs(torch.device("cpu")).tensors
        weights = torch.exp(q @ k.transpose(-2, -1) / 8**0.5)
        sums = torch.zeros(1, 1, 16, 9)
        values = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)
        for j in range(16384):
            sums += weights[..., j : j + 1] * values[..., j : j + 1, :]
        return sums[..., :8] / sums[..., 8:]

    assert rows_of(case, [implementation("running", running)], session)["running"].error is None


def test_one_key_lost_among_many_is_noticed(implementation, session) -> None:
    case = Case(VARIANTS["full"], "f32", Shape(1, 1, 1, 16, 32768, 8, 8))

    def short(o):
        q, k, v = case.inputs(torch.device("cpu")).tensors
        return case.variant.spec(q, k[:, :, :-1], v[:, :, :-1])

    assert "wrong result" in rows_of(case, [implementation("short", short)], session)["short"].error


def test_a_case_that_is_not_covered_has_no_row(small_case, session) -> None:
    from tilewright.bench.implementations import implementations_for

    assert set(rows_of(small_case("softcap"), implementations_for("cpu", "sdpa"), session)) == {PEAK}
    assert set(rows_of(small_case("causal"), implementations_for("cpu", "sdpa"), session)) == {PEAK, "sdpa"}
