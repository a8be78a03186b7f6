"""The varlen suite: every implementation computes the batch, what does not is told, and memory is measured apart."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from tilewright.bench import varlen, varlen_memory
from tilewright.bench.implementations import TILEWRIGHT
from tilewright.bench.varlen import Batch, complaint, prepare, varlen_batches

CPU = torch.device("cpu")


@pytest.mark.parametrize("variant", ["full", "causal"])
@pytest.mark.parametrize("impl", [TILEWRIGHT, "sdpa-padded", "sdpa-loop"])
def test_implementations_agree_with_the_reference(impl: str, variant: str) -> None:
    batch = Batch(5, 40, "f32", variant)
    output = prepare(impl, batch, CPU)()
    assert complaint(batch, output) is None
    other = Batch(5, 40, "f32", "causal" if variant == "full" else "full")
    assert "wrong result" in str(complaint(other, output))


def test_batches_are_what_the_goal_names() -> None:
    first = varlen_batches()[0]
    assert str(first) == "S64-L2048-H8-D64-f32-full"
    assert len(first.lengths) == 64
    assert max(first.lengths) == 2048
    assert min(first.lengths) >= 1
    assert Batch(2, 1, "f32", "full").flops == 2 * 4 * 8 * 64


def test_rows(session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "varlen_batches", lambda: [Batch(3, 20, "f32", "full")])
    monkeypatch.setattr(varlen, "_memory", lambda batch, impl: ({"resident_mb": 1.5}, None))
    monkeypatch.setitem(varlen.IMPLEMENTATIONS, "flex", lambda batch, device: 1 / 0)
    monkeypatch.setitem(varlen.IMPLEMENTATIONS, "sdpa-loop", lambda batch, device: lambda: torch.zeros(60, 8, 64))
    rows = {row.impl: row for row in varlen.varlen(session)}
    assert rows["flex"].error == "ZeroDivisionError: division by zero"
    assert rows["sdpa-loop"].error is not None
    for impl in (TILEWRIGHT, "sdpa-padded"):
        assert rows[impl].median_ms
        assert rows[impl].gflops
        assert rows[impl].extra == {"resident_mb": 1.5}


def test_memory_of_padding_is_seen(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """40 sequences, one of them long: SDPA's padded output alone is several times the packed one."""
    found = {}
    monkeypatch.setattr(Batch, "lengths", property(lambda self: [*[3] * (self.count - 1), self.longest]))
    for impl in ("sdpa-loop", "sdpa-padded"):
        monkeypatch.setattr(sys, "argv", ["varlen_memory", impl, "40", "1500", "f32", "causal"])
        varlen_memory.main()
        found[impl] = json.loads(capsys.readouterr().out)["resident_mb"]
    assert found["sdpa-padded"] > 5 * found["sdpa-loop"]
