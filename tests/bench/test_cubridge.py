"""The paper's eight variants: they are there, a small part is generated and verified, failures are told."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from tilewright.bench import cubridge
from tilewright.bench.cubridge import PAPER, Configuration, PaperVariant, VariantRow, measure, rows_of, summary
from tilewright.bench.gallery import examples
from tilewright.ir.errors import UnsupportedSpec

SMALL = Configuration(16, 2, torch.float32)
BY_NAME = {variant.name: variant for variant in PAPER}


def test_the_eight_variants_are_examples() -> None:
    assert len(BY_NAME) == 8
    assert {variant.example for variant in PAPER} <= {example.name for example in examples()}


@pytest.mark.parametrize("target", ["cpu", "triton"])
def test_a_variant_is_generated_and_verified(target: str) -> None:
    forward, backward = rows_of(BY_NAME["comb"], SMALL, (target,))
    for row in (forward, backward):
        assert row.verified, row.note
        assert 0 < row.max_error <= row.budget < 1e-2
        assert 0 < row.seconds_transfer < row.seconds_total
        assert (row.target, row.engine, row.head_dim, row.group, row.dtype) == (target, "rules", 16, 2, "float32")
        assert bool(row.extra) == (target == "triton")
    assert forward.cases >= 6
    assert (forward.outputs, backward.outputs) == (("o",), ("dq", "dk", "dv"))


@pytest.mark.slow
def test_gradients_of_captured_tensors_count() -> None:
    _, backward = rows_of(BY_NAME["Relative Position"], SMALL, ("cpu",))
    assert backward.verified, backward.note
    assert len(backward.outputs) == 4


def test_what_is_wrong_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel of another function: its row says so, and so does the summary."""
    other = cubridge.subject_of

    def mistaken(variant: PaperVariant, how: Configuration, stages: cubridge.Stages) -> cubridge.Subject:
        subject = other(variant, how, stages)
        return replace(subject, function=lambda q, k, v: 2.0 * subject.function(q, k, v))

    monkeypatch.setattr(cubridge, "subject_of", mistaken)
    row = next(rows_of(BY_NAME["ReLU"], SMALL, ("cpu",)))
    assert not row.verified
    assert "budget" in row.note
    assert "cpu forward: 0/1 variants, 0/1 kernels verified" in summary([row])


def test_what_cannot_be_generated_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise UnsupportedSpec("no such function")

    monkeypatch.setattr(cubridge, "subject_of", refused)
    (row,) = rows_of(BY_NAME["ReLU"], SMALL, ("cpu",))
    assert (row.verified, row.note) == (False, "no such function")


def test_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path, capsys) -> None:
    monkeypatch.setattr(cubridge, "QUICK", (SMALL,))
    monkeypatch.setattr(cubridge, "TARGETS", ("cpu",))
    row = VariantRow("", "cpu", "forward", "rules", 16, 2, "float32", verified=True)
    rows = [row, replace(row, direction="backward")]
    monkeypatch.setattr(cubridge, "rows_of", lambda variant, how: [replace(row, variant=variant.name) for row in rows])
    assert cubridge.main([str(tmp_path / "rows.json"), "--quick"]) == 0
    written = json.loads((tmp_path / "rows.json").read_text())
    assert len(written["rows"]) == 2 * len(PAPER)
    assert written["rows"][0]["variant"] == "PrefixLM"
    assert "cpu backward: 8/8 variants, 8/8 kernels verified" in capsys.readouterr().out

    rows[1] = replace(rows[1], verified=False)
    assert cubridge.main([str(tmp_path / "rows.json"), "--quick", "--only", "relu"]) == 1
    again = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["variant"] for row in again if not row["verified"]] == ["ReLU"]
    assert len(again) == 2 * len(PAPER)


@pytest.mark.slow
def test_every_variant_everywhere() -> None:
    rows = measure([Configuration(64, 2, torch.float32)])
    assert [f"{row.variant} {row.target} {row.direction}: {row.note}" for row in rows if not row.verified] == []
