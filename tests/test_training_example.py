"""The training example ends with the same weights twice, and says so where they are not the same."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

FILE = Path(__file__).parents[1] / "examples" / "training" / "train.py"
SMALL = ["--steps", "2", "--layers", "1", "--length", "70", "--batch", "2"]


@pytest.fixture(scope="module")
def train():
    found = importlib.util.spec_from_file_location("train_example", FILE)
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # where dataclasses look
    found.loader.exec_module(module)
    module.attend = module.tw.compile(module.alibi, backward=True, deterministic=True, verify=False)
    yield module
    del sys.modules[found.name]


@pytest.fixture(autouse=True)
def flag():
    was_on = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(was_on)


def told(folder: Path) -> dict:
    return json.loads((folder / "loss.json").read_text())


def test_two_runs_are_one(train, tmp_path: Path, capsys) -> None:
    assert train.main([*SMALL, "--out", str(tmp_path)]) == 0
    found = told(tmp_path)
    assert len(set(found["sha256"])) == 1
    assert len(found["losses"]) == 2
    assert found["is_same"]
    assert found["is_same_on_threads"]
    assert "DIFFERENT" not in capsys.readouterr().out
    assert (tmp_path / "loss.svg").read_text().startswith("<?xml")


def test_what_differs_is_told(train, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    """One weight off by one step of its type after the second run; one thread count gives another gradient."""
    original, seen = train.train, []

    def off(sizes, data):
        model, losses = original(sizes, data)
        seen.append(model)
        if len(seen) == 2:
            with torch.no_grad():
                bias = model.head.bias
                bias[3] = torch.nextafter(bias[3], torch.tensor(9.0))
        return model, losses

    monkeypatch.setattr(train, "train", off)
    monkeypatch.setattr(train, "gradients", lambda threads, sizes: (torch.tensor(1.0 + (threads == 3) * 1e-7),))
    assert train.main([*SMALL, "--out", str(tmp_path)]) == 1
    found = told(tmp_path)
    assert len(set(found["sha256"])) == 2
    assert not found["is_same"]
    assert not found["is_same_on_threads"]
    assert capsys.readouterr().out.count("DIFFERENT") == 2


def test_without_matplotlib_there_is_no_plot(train, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    train.plot([1.0, 0.5], tmp_path / "loss.svg")
    assert not (tmp_path / "loss.svg").exists()
    assert "tilewright[plot]" in capsys.readouterr().out
