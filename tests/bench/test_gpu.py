"""On a GPU: times come from its own clock, and our kernel and its peers agree on a small case."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch

from tilewright.bench import gpu
from tilewright.bench.implementations import implementations_for
from tilewright.bench.measure import Session, measure
from tilewright.bench.peak import peaks_for
from tilewright.bench.rows import PEAK, read_rows, write_rows
from tilewright.bench.suites import SUITES
from tilewright.bench.timing import CudaTimer


@pytest.mark.gpu
def test_the_timer_measures_the_gpu() -> None:
    a = torch.randn(4096, 4096, device="cuda")
    short, long = (CudaTimer().sample(lambda n=n: [a @ a for _ in range(n)], 1) for n in (1, 8))
    assert 0 < short < long


@pytest.mark.gpu
@pytest.mark.parametrize("variant", ["full", "causal", "window", "softcap", "alibi", "documents"])
def test_every_implementation_is_right(small_case, session, variant: str) -> None:
    case = small_case(variant, "bf16")
    case = replace(case, shape=case.shape._replace(M=256, N=256, D=64, Dv=64))
    on_gpu = replace(session, target="triton", timer=CudaTimer(), peaks=peaks_for)
    rows = measure("forward", case, implementations_for("triton"), on_gpu)
    assert {row.impl for row in rows} >= {PEAK, "tilewright", "flex", "eager"}
    assert {row.impl: row.error for row in rows if row.error} == {}


def test_without_a_gpu_nothing_is_run(monkeypatch: pytest.MonkeyPatch, tmp_path, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([str(tmp_path / "out")]) == 2
    assert "torch sees no NVIDIA GPU" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def mock_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "new_session", lambda target, suites: Session(target))
    monkeypatch.setattr(gpu, "write_report", lambda path, rows: path.write_text("report"))


@pytest.mark.parametrize(
    ("is_tested", "error", "is_done", "code"),
    [(True, None, True, 0), (False, None, True, 1), (True, "wrong", True, 1), (True, None, False, 1)],
)
def test_the_exit_code_tells_tests_and_kernels(
    mock_gpu, monkeypatch: pytest.MonkeyPatch, tmp_path, timed_row, is_tested: bool, error: str | None, is_done: bool, code: int
) -> None:
    monkeypatch.setattr(gpu, "_test", lambda log: is_tested)
    rows = [timed_row("a", "tilewright", 1.0, error=error)]
    monkeypatch.setattr(gpu, "_suite", lambda suite, file, seconds: (rows, is_done))
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    assert gpu.main([]) == code
    assert len(read_rows(tmp_path / "out" / "gpu.json")) == len(gpu.SUITE_S)
    assert (tmp_path / "out" / "gpu.html").exists()


def test_named_suites_share_the_time(mock_gpu, monkeypatch: pytest.MonkeyPatch, tmp_path, timed_row, capsys) -> None:
    asked = []
    monkeypatch.setattr(gpu, "_suite", lambda suite, file, s: (asked.append((suite, s)), ([timed_row("a", "x", 1.0)], True))[1])
    assert gpu.main([str(tmp_path), "determinism", "backward"]) == 0
    assert [name for name, _ in asked] == ["determinism", "backward"]
    assert all(200 < seconds <= gpu.TOTAL_S / 2 for _, seconds in asked)
    assert gpu.main([str(tmp_path), "sideways"]) == 2
    assert "no suite sideways; wanted some of forward, " in capsys.readouterr().err


def test_all_suites_exist_and_fit() -> None:
    assert gpu.SUITE_S.keys() <= SUITES.keys()
    assert gpu.TEST_S + sum(gpu.SUITE_S.values()) <= 560
    assert gpu.TOTAL_S + gpu.GRACE_S <= 540


def test_a_suite_out_of_time_keeps_what_it_measured(mock_gpu, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    seen = []

    def endless(session: Session) -> None:
        for number in range(1000):
            session.say(f"case {number}")
            session.row("endless", f"case-{number}", "tilewright")
            seen.append(number)
            clock[0] += 1.0

    clock = [0.0]
    monkeypatch.setattr(gpu.time, "monotonic", lambda: clock[0])
    monkeypatch.setitem(gpu.SUITES, "endless", endless)
    with pytest.raises(gpu.OutOfTime):
        gpu.run_suite("endless", tmp_path / "rows.json", 3.5)
    assert seen == [0, 1, 2, 3]
    assert [row.case for row in read_rows(tmp_path / "rows.json")] == [f"case-{n}" for n in seen]


def test_a_suite_that_fails_leaves_its_rows(mock_gpu, monkeypatch: pytest.MonkeyPatch, tmp_path, timed_row) -> None:
    """The process ends with an error; what is in the file counts, and the file is taken away."""
    rows = [timed_row("a", "tilewright", 2.0)]
    write_rows(tmp_path / "measured.json", rows)
    script = f"import shutil, sys; shutil.copy('{tmp_path}/measured.json', sys.argv[4]); sys.exit(3)"
    monkeypatch.setattr(gpu.sys, "executable", _python(tmp_path, script))
    assert gpu._suite("forward", tmp_path / "rows.json", 30.0) == (rows, False)
    assert not (tmp_path / "rows.json").exists()


def _python(folder, script: str) -> str:
    """A program that is called like Python, but runs the script on the arguments after -m."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\nshift\nexec {sys.executable} -c \"{script}\" \"$@\"\n")
    program.chmod(0o755)
    return str(program)


def test_tests_run_in_several_processes(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    file = tmp_path / "test_some.py"
    file.write_text("def test_a(): pass\ndef test_b(): pass\ndef test_c(): assert False\n")
    ids = [f"{file}::test_{name}" for name in "abc"]
    start = gpu._start
    monkeypatch.setattr(gpu, "_start", lambda tests, log: start(["-o", "addopts=", "-m", "not gpu", *tests], log))
    for tests, is_passed in (([], False), (ids[:2], True), (ids, False)):
        monkeypatch.setattr(gpu, "_collected", lambda tests=tests: tests)
        assert gpu._test(tmp_path / "log.txt") == is_passed
    assert [path.name for path in tmp_path.glob("log.*")] == ["log.txt"]
