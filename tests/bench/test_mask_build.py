"""Suite mask-build measures both implementations at its length, and its goals read its rows."""

from __future__ import annotations

import pytest

from tilewright.bench import mask_build as suite
from tilewright.bench.implementations import TILEWRIGHT
from tilewright.bench.measure import Session
from tilewright.bench.suites import SUITES
from tilewright.bench.targets import verdicts


def test_rows_and_goals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(suite.ROUNDS, TILEWRIGHT, 2)
    monkeypatch.delitem(suite.ROUNDS, "flex")
    rows = SUITES["mask-build"](Session(say=lambda text: None))
    assert [row.error for row in rows] == [None, None]
    assert all(row.extra["first_call_ms"] > 0 for row in rows)
    goals = [verdict.goal.name for verdict in verdicts(rows)]
    assert goals == [f"{suite.mask_case(variant)} mask" for variant in suite.MASK_VARIANTS]


def test_a_failure_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's masks of this length need gigabytes: where they fail, ours are measured."""

    def fails(*args: object) -> object:
        raise MemoryError("no memory")

    monkeypatch.setattr(suite, "_measured", fails)
    rows = suite.mask_build(Session(say=lambda text: None))
    assert {row.error for row in rows} == {"MemoryError: no memory"}
    assert {row.impl for row in rows} == {TILEWRIGHT, "flex"}
