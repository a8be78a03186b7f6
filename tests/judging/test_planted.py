"""Planted errors: none is accepted, each comes back with a small counter-example; harmless rewrites are all accepted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tilewright.bench.planted import judged, main, planted_text
from tilewright.bench.planted_kinds import CONTROLS, KINDS, Kind
from tilewright.ir.transfer.engine import Outcome

LARGEST = 33  # two tiles of 16 and a row, or two parts of 32 keys and one
QUICK = {"causal", "window", "sigmoid"}
MANY = 3  # of the quick kinds one in so many runs by default


def check(kind: Kind) -> None:
    verdict = judged(kind)
    assert verdict.outcome in (Outcome.WRONG, Outcome.FAILED), verdict
    assert kind.told in verdict.reason
    if verdict.outcome is Outcome.FAILED:
        assert "line " in verdict.reason
        return
    found = verdict.counter_example
    assert found is not None
    assert found.sizes["B"] <= 2
    assert found.sizes["Hkv"] <= 2
    assert found.sizes["M"] <= LARGEST
    assert found.sizes["N"] <= LARGEST
    assert not abs(found.got - found.wanted) <= found.budget
    assert "random" not in found.inputs or found.sizes["N"] <= 17


def test_there_are_many_kinds() -> None:
    """Each of them changes the text, and no two are the same program."""
    assert len({kind.name for kind in KINDS}) == len(KINDS) >= 80
    assert len({kind.name for kind in CONTROLS}) == len(CONTROLS) >= 15


def pick(kinds: tuple[Kind, ...], every: int) -> list[Kind]:
    return [kind for kind in kinds if kind.base in QUICK][::every]


@pytest.mark.parametrize("kind", pick(KINDS, MANY), ids=lambda kind: kind.name)
def test_an_error_is_rejected(kind: Kind) -> None:
    check(kind)


@pytest.mark.parametrize("kind", pick(CONTROLS, 1), ids=lambda kind: kind.name)
def test_a_rewrite_is_accepted(kind: Kind) -> None:
    verdict = judged(kind)
    assert verdict.outcome is Outcome.ACCEPTED, verdict.reason


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.base}: {kind.name}")
def test_every_error_is_rejected(kind: Kind) -> None:
    check(kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONTROLS, ids=lambda kind: f"{kind.base}: {kind.name}")
def test_every_rewrite_is_accepted(kind: Kind) -> None:
    verdict = judged(kind)
    assert verdict.outcome is Outcome.ACCEPTED, verdict.reason


def test_the_command_writes_a_row_per_kind(tmp_path: Path) -> None:
    out = tmp_path / "planted.json"
    assert main(["--only", "diagonal", "--json", str(out)]) == 0
    (row,) = json.loads(out.read_text())
    assert row["kind"] == "diagonal left out"
    assert row["verdict"] == "wrong"
    assert row["sizes"] == {"B": 1, "Hq": 2, "Hkv": 1, "M": 1, "N": 1}
    assert row["is_told"]


def test_an_edit_that_does_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="'not there' is not in the program of causal"):
        planted_text(Kind("nothing", "causal", (("not there", ""),)))
