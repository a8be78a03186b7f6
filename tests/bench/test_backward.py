"""The suites of gradients: every form gives the reference's, what does not is told, cases and goals belong together."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
import torch

from tilewright.bench import backward, backward_memory, determinism
from tilewright.bench.backward import TRAINED, backward_cases, memory_case, square, trained
from tilewright.bench.determinism import determinism_cases
from tilewright.bench.differentiated import DIFFERENTIATED, differentiated_for
from tilewright.bench.implementations import TILEWRIGHT, Implementation, Prepared
from tilewright.bench.measure import measure
from tilewright.bench.rows import PEAK
from tilewright.bench.targets import GOALS, verdicts
from tilewright.bench.training import expected_of

SMALL = square(1, 2, 72, 16)
CPU = torch.device("cpu")
OURS = (TILEWRIGHT, "tilewright-unordered")


@pytest.mark.parametrize("has_forward", [True, False], ids=["both", "backward"])
def test_all_forms_agree(session, has_forward: bool) -> None:
    case = replace(trained("causal", "f32", SMALL), has_forward=has_forward)
    rows = measure("backward", case, differentiated_for("cpu"), session, expected_of)
    assert {row.impl: row.error for row in rows} == dict.fromkeys((PEAK, *OURS, "sdpa", "eager"))
    assert all(row.median_ms for row in rows)


def test_captured_gradients_are_compared(session) -> None:
    case = trained("alibi-captured", "f32", SMALL)
    rows = measure("backward", case, differentiated_for("cpu", TILEWRIGHT, "sdpa", "eager"), session, expected_of)
    assert {row.impl: row.error for row in rows} == dict.fromkeys((PEAK, TILEWRIGHT, "eager"))
    assert rows[0].case.endswith("-alibi-captured")


@pytest.mark.parametrize("name", ["dq", "dk", "dv", "d0", "o"])
def test_a_wrong_gradient_is_not_timed(session, name: str) -> None:
    (eager,) = differentiated_for("cpu", "eager")

    def prepare(case, inputs, target):
        run = eager.prepare(case, inputs, target).run
        return Prepared(lambda: {key: x * (1.01 if key == name else 1) for key, x in run().items()})

    case = trained("sinks-captured", "f32", SMALL)
    wrong = Implementation("wrong", eager.targets, prepare)
    (row,) = [r for r in measure("backward", case, [wrong], session, expected_of) if r.impl == "wrong"]
    assert row.error.startswith(f"wrong result: {name}: error ")
    assert row.median_ms is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda found: {"dq": found["dq"]}, "no dk, dv"),
        (lambda found: {**found, "dk": found["dk"][:, :, 1:]}, r"wrong shape: dk is (1, 2, 71, 16), wanted (1, 2, 72, 16)"),
        (lambda found: {**found, "dv": found["dv"] * float("nan")}, "wrong result: dv: error inf"),
    ],
    ids=["missing", "shape", "nan"],
)
def test_a_bad_outcome_is_told(change, told: str) -> None:
    case = trained("causal", "f32", SMALL)
    inputs = case.inputs(CPU)
    (eager,) = differentiated_for("cpu", "eager")
    found = eager.prepare(case, inputs, "cpu").run()
    expected = expected_of(case, inputs)
    assert expected.complaint(found) is None
    assert expected.complaint(change(found)).startswith(told)


def test_a_long_case_is_checked_on_its_first_head(monkeypatch: pytest.MonkeyPatch) -> None:
    case = trained("causal", "f32", square(2, 2, 40, 8)._replace(Hkv=1))
    inputs = case.inputs(CPU)
    monkeypatch.setattr("tilewright.bench.training.MAX_SCORES", {"cpu": 40 * 40})
    expected = expected_of(case, inputs)
    assert expected.exact["dq"].shape == (2, 2, 40, 8)
    case = trained("causal", "f32", square(2, 4, 40, 8))
    inputs = case.inputs(CPU)
    expected = expected_of(case, inputs)
    assert {name: x.shape[1] for name, x in expected.exact.items()} == dict.fromkeys(("o", "dq", "dk", "dv"), 1)
    (eager,) = differentiated_for("cpu", "eager")
    assert expected.complaint(eager.prepare(case, inputs, "cpu").run()) is None


@pytest.mark.parametrize("name", sorted(TRAINED))
def test_variants_have_gradients(name: str) -> None:
    case = trained(name, "f32", SMALL)
    if name == "dropout":
        pytest.skip("no case has it")
    expected = expected_of(case, case.inputs(CPU))
    assert all(x.isfinite().all() for x in expected.exact.values())


def test_work_is_counted() -> None:
    case = trained("full", "f32", square(1, 2, 10, 4)._replace(Dv=8))
    assert case.flops == 2 * 2 * 100 * (4 * 4 + 3 * 8)
    assert replace(case, has_forward=False).flops == 2 * 2 * 100 * (3 * 4 + 2 * 8)


@pytest.mark.parametrize("target", ["cpu", "triton"])
@pytest.mark.parametrize("cases", [backward_cases, determinism_cases], ids=["backward", "determinism"])
def test_cases_are_there_once(cases, target: str) -> None:
    names = [str(case) for case in cases(target)]
    assert len(names) == len(set(names)) >= 16
    wanted = "B1-H8-N2048-D128-bf16-causal" if target == "cpu" else "B4-H16-N4096-D128-bf16-documents"
    assert wanted in names
    targets = {target for implementation in DIFFERENTIATED for target in implementation.targets}
    assert target in targets


def test_the_suites_measure_what_their_goals_name(session, monkeypatch, timed_row) -> None:
    def timed(suite, case, implementations, session, judge):
        return [timed_row(str(case), i.name, 1.0 if i.name == TILEWRIGHT else 3.0, suite=suite) for i in implementations]

    def probed(row, module, arguments):
        return replace(row, extra={"resident_mb": 30.0})

    def compared(case, impl, session):
        return session.row("bits", case, impl, extra={"runs": 1000.0, "equal_runs": 999.0, "places": 4.0, "equal_places": 4.0})

    for module in (backward, determinism):
        monkeypatch.setattr(module, "measure", timed)
    monkeypatch.setattr(backward, "with_memory", probed)
    monkeypatch.setattr(determinism, "bits_row", compared)
    rows = backward.backward(session) + determinism.determinism(session)
    found = {verdict.goal.name: (verdict.measured, verdict.is_reached) for verdict in verdicts(rows)}
    assert found["backward B1-H8-N2048-D64-f32-causal against SDPA"] == (3.0, True)
    assert found["backward B1-H8-N2048-D64-bf16-softcap against eager"] == (3.0, False)
    assert found["backward B1-H1-N16384-D64-f32-alibi-captured memory"] == (30.0, True)
    assert found["determinism B1-H8-N2048-D128-bf16-causal against as they come"] == (3.0, True)
    assert found["bits B1-H2-N330-D64-f32-causal: equal"] == (0.999, False)
    mine = [goal.name for goal in GOALS if goal.name.startswith(("backward ", "determinism ", "bits "))]
    gpu = {f"determinism {case} against as they come" for case in determinism_cases("triton")}
    assert set(mine) - gpu == {name for name in found if name in mine}


def test_memory_is_measured(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Scores of 2048 x 2048 are 16 MB, and eager attention holds several at once."""
    found = {}
    for impl in ("sdpa", "eager"):
        monkeypatch.setattr(sys, "argv", ["backward_memory", impl, "causal", "2048"])
        backward_memory.main()
        found[impl] = json.loads(capsys.readouterr().out)["resident_mb"]
    assert found["eager"] > 32
    assert found["sdpa"] < found["eager"] / 2


def test_memory_of_what_does_not_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["backward_memory", "sdpa", "alibi", "128"])
    with pytest.raises(SystemExit, match="sdpa does not cover B1-H1-N64-D64-f32-alibi"):
        backward_memory.main()
    assert str(memory_case("alibi-captured", 64)) == "B1-H1-N64-D64-f32-alibi-captured"


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["full", "causal", "window", "documents"])
def test_all_forms_agree_on_a_gpu(session, name: str) -> None:
    case = trained(name, "bf16", square(2, 4, 512, 64))
    on_gpu = replace(session, target="triton")
    rows = measure("backward", case, differentiated_for("triton"), on_gpu, expected_of)
    assert {row.impl: row.error for row in rows if row.error} == {}
    assert {row.impl for row in rows} >= {*OURS, "flex", "eager"}
