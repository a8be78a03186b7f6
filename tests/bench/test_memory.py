"""The memory probe sees what a call takes, and the suite reads its answer or tells its failure."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tilewright.bench import long, memory


def test_resident_memory_of_sdpa_is_about_its_output() -> None:
    command = [sys.executable, "-m", "tilewright.bench.memory", "sdpa", "full", "f32", "16384"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    output_mb = 16384 * 64 * 4 / 2**20
    assert output_mb <= json.loads(done.stdout)["resident_mb"] < 10 * output_mb


def test_a_call_that_keeps_memory_is_seen(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    kept = []
    (sdpa,) = memory.implementations_for("cpu", "sdpa")

    def prepare(case, inputs, target):
        prepared = sdpa.prepare(case, inputs, target)
        size = 64 if case.shape.N > memory.WARM_LENGTH else 0
        return type(prepared)(lambda: kept.append(bytearray(b"x") * (size << 20)))

    monkeypatch.setattr(memory, "implementations_for", lambda target, name: [type(sdpa)("x", sdpa.targets, prepare)])
    monkeypatch.setattr(sys, "argv", ["memory", "x", "full", "f32", "128"])
    memory.main()
    assert 63 <= json.loads(capsys.readouterr().out)["resident_mb"] < 80


@pytest.mark.parametrize(
    ("code", "out", "err", "wanted"),
    [
        (0, '{"resident_mb": 12.5}', "", (None, {"resident_mb": 12.5})),
        (1, "", "Traceback\n  here\nBuildError: refused\n", ("BuildError: refused", {})),
        (-9, "", "", ("exit code -9", {})),
    ],
)
def test_the_suite_reads_the_probe(session, monkeypatch, code: int, out: str, err: str, wanted) -> None:
    done = subprocess.CompletedProcess([], code, out, err)
    monkeypatch.setattr(long.subprocess, "run", lambda *args, **kwargs: done)
    row = long._memory(long.long_case("window", "f32", 32768), "tilewright", session)
    assert (row.error, row.extra) == wanted
    assert (row.suite, row.case) == ("memory", "B1-H1-N32768-D64-f32-window")


def test_a_probe_that_hangs_is_an_error_row(session, monkeypatch) -> None:
    monkeypatch.setattr(long, "MEMORY_TIMEOUT_S", 0.01)
    assert long._memory(long.long_case("full", "f32", 64), "sdpa", session).error == "not done within 0.01 s"
