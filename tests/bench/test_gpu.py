"""On a GPU: times come from its own clock, and our kernel and its peers agree on a small case."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tilewright.bench import gpu
from tilewright.bench.implementations import implementations_for
from tilewright.bench.measure import measure
from tilewright.bench.peak import peaks_for
from tilewright.bench.rows import PEAK
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


@pytest.mark.parametrize(("is_tested", "error", "code"), [(True, None, 0), (False, None, 1), (True, "wrong", 1)])
def test_the_exit_code_tells_tests_and_kernels(
    monkeypatch: pytest.MonkeyPatch, tmp_path, timed_row, is_tested: bool, error: str | None, code: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "_test", lambda log: is_tested)
    monkeypatch.setattr(gpu, "run_bench", lambda *args: [timed_row("a", "tilewright", 1.0, error=error)])
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    assert gpu.main([]) == code
