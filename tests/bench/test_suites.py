"""Suites run by name, write their files after each suite, and refuse what does not exist."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tilewright.bench import demo, suites
from tilewright.bench.generation import IMPLEMENTATIONS, Generation
from tilewright.bench.implementations import TILEWRIGHT
from tilewright.bench.machine import BUSY_LOAD, busy_warning, describe_machine
from tilewright.bench.rows import Row, read_rows
from tilewright.bench.suites import SUITES, BenchError, run_bench


@pytest.fixture
def fake_suites(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Two suites of one row each; the second sees what the first had written."""
    seen: dict[str, list[str]] = {}
    for name in ("forward", "long"):
        monkeypatch.setitem(SUITES, name, lambda session, name=name: [session.row(name, f"case-{name}", TILEWRIGHT)])
    return seen


def test_suites_run_in_the_order_asked_for(fake_suites, tmp_path: Path) -> None:
    rows = run_bench(("long", "forward"), "cpu", tmp_path / "a" / "rows.json", tmp_path / "b" / "report.html")
    assert [row.case for row in rows] == ["case-long", "case-forward"]
    assert read_rows(tmp_path / "a" / "rows.json") == rows
    assert "case-forward" in (tmp_path / "b" / "report.html").read_text()
    assert rows[0].command == "tilewright bench long forward --target cpu"


def test_an_interrupted_run_keeps_what_it_measured(fake_suites, monkeypatch, tmp_path: Path) -> None:
    def interrupted(session):
        raise KeyboardInterrupt

    monkeypatch.setitem(SUITES, "long", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_bench(("forward", "long"), "cpu", tmp_path / "rows.json")
    assert [row.case for row in read_rows(tmp_path / "rows.json")] == ["case-forward"]


@pytest.mark.parametrize(
    ("suite_names", "target", "told"),
    [
        (
            ("forward", "sideways"),
            "cpu",
            "no suite sideways; wanted some of forward, ",
        ),
        (("forward",), "cuda", "no target cuda; wanted auto or one of cpu, triton"),
    ],
)
def test_what_does_not_exist_is_refused(suite_names, target: str, told: str) -> None:
    with pytest.raises(BenchError, match=told):
        run_bench(suite_names, target)


def test_a_gpu_target_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BenchError, match="target triton needs an NVIDIA GPU"):
        run_bench(("forward",), "triton")
    assert suites.new_session("auto", ()).target == "cpu"


def test_a_busy_machine_is_told(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(suites, "describe_machine", lambda: {"load": 3.5})
    suites.new_session("cpu", ())
    assert "the machine is busy (load 3.5 > 0.5)" in capsys.readouterr().err
    assert busy_warning(BUSY_LOAD) is None
    assert busy_warning(None) is None


def test_the_machine_is_described() -> None:
    machine = describe_machine()
    assert {"cpu", "cores", "threads", "isa", "flags", "load", "python", "torch"} <= set(machine)
    assert machine["threads"] == torch.get_num_threads()


def demo_rows(timed_row) -> list[Row]:
    extra = {"cases": 31.0, "max_error": 1.5e-7, "error_budget": 2.5e-6}
    return [
        timed_row("B1-llama", TILEWRIGHT, 2.0, suite="demo", extra=extra),
        timed_row("B1-llama", "sdpa", 3.0, suite="demo"),
        timed_row("B1-gpt_oss", "eager", 9.0, suite="demo"),
    ]


def answers(last: int) -> list[Generation]:
    return [Generation(impl, "Because.", (1, 2, last if impl == TILEWRIGHT else 3), 0.5) for impl in IMPLEMENTATIONS]


@pytest.mark.parametrize(
    ("error", "last", "code"),
    [(None, 3, 0), ("wrong result: [odd]", 3, 1), (None, 4, 1)],
    ids=["right", "wrong", "words"],
)
def test_the_demo_prints_and_reports(
    timed_row, monkeypatch, tmp_path: Path, capsys, error, last: int, code: int
) -> None:
    rows = [*demo_rows(timed_row), Row("demo", "B1-gemma2", TILEWRIGHT, "cpu", median_ms=1.0, error=error)]
    rows = rows if error else rows[:-1]
    monkeypatch.setattr(demo, "_measured", lambda console: rows)
    monkeypatch.setattr(demo, "generate", lambda say: answers(last))
    assert demo.main([str(tmp_path / "demo.html")]) == code
    printed = capsys.readouterr().out
    assert "Because." in printed
    assert ("not eager's" in printed) == (last != 3)
    assert "31 cases" in printed
    assert "6%" in printed
    assert "3  1.5x" in printed
    assert (error or "") in printed
    assert "B1-llama" in (tmp_path / "demo.html").read_text()
