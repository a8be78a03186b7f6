"""Engines by name: rules, llm, and auto that asks models for what the rules refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tilewright.ir.errors import SettingError, TransferFailed, UnsupportedSpec
from tilewright.ir.printer import print_program
from tilewright.ir.transfer.engine import Outcome, Verdict
from tilewright.ir.transfer.models import AutoEngine, RulesEngine
from tilewright.kernels.engines import transfer_with_engine
from tilewright.kernels.references import reference_program

from .server import fenced, in_turn, serving
from .tasks import causal, engine, good_text, settings, task_of, tensors


def through_numpy(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Attention with a bias by distance, through numpy, which no trace looks into."""
    far = (torch.arange(q.shape[2])[:, None] - torch.arange(k.shape[2])[None, :]).abs()
    bias = torch.from_numpy(table.numpy()[far.clamp(max=3).numpy()])
    return (q @ k.mT * 0.25 + bias).softmax(-1) @ v


def readable(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """The same as a trace can read it."""
    far = (torch.arange(q.shape[2])[:, None] - torch.arange(k.shape[2])[None, :]).abs()
    return (q @ k.mT * 0.25 + table[far.clamp(max=3)]).softmax(-1) @ v


def test_auto_asks_nobody_where_the_rules_do(tmp_path: Path) -> None:
    with serving(in_turn("unused")) as server:
        made = transfer_with_engine(reference_program(), causal, tensors(), "auto", settings(server.url, tmp_path))
    assert (made.engine, server.requests) == ("rules", [])
    plain = transfer_with_engine(reference_program(), causal, tensors(), "rules")
    assert print_program(made.program) == print_program(plain.program)


def test_auto_asks_models_for_a_function_that_no_trace_reads(tmp_path: Path) -> None:
    example = (*tensors(group=1), torch.randn(4))
    text = good_text(task_of(readable, example)[0]).replace("def readable", "def through_numpy")
    with pytest.raises(UnsupportedSpec):
        transfer_with_engine(reference_program(), through_numpy, example, "rules")
    wrong = text.replace(", 3)", ", 2)")
    assert wrong != text
    with serving(in_turn(fenced(wrong), fenced(text))) as server:
        known = settings(server.url, tmp_path)
        made = transfer_with_engine(reference_program(), through_numpy, example, "auto", known, target="cpu")
    assert print_program(made.program) == text
    assert made.engine == "llm"
    assert made.notes[0].startswith("rules: ")
    assert len(server.requests) == 2
    assert "    table: f32[4]\n" in server.prompts[0], "the dims of captured tensors are found by trying"
    assert "<<< REFUSAL" in server.prompts[0]


def test_auto_asks_models_where_the_rules_program_is_rejected(tmp_path: Path) -> None:
    task, judge = task_of(causal, tensors())
    rejected: list[str] = []

    class Once:
        """Rejects the first text that it sees."""

        def judge(self, text: str) -> Verdict:
            rejected.append(text)
            return Verdict(Outcome.WRONG, "not this one") if len(rejected) == 1 else judge.judge(text)

    strict = replace(task, judge=Once())
    with pytest.raises(TransferFailed, match="the rules' program for causal is rejected: not this one"):
        RulesEngine().transfer(strict)
    rejected.clear()
    with serving(in_turn(fenced(good_text(task)))) as server:
        made = AutoEngine(RulesEngine(), engine(server.url, tmp_path)).transfer(strict)
    assert (made.engine, len(server.requests)) == ("llm", 1)
    assert "is rejected: not this one" in made.notes[0]


def test_an_engine_that_is_none() -> None:
    with pytest.raises(SettingError, match="engine 'magic': wanted one of rules, llm, auto"):
        transfer_with_engine(reference_program(), causal, tensors(), "magic")
    with pytest.raises(UnsupportedSpec, match="a function needs example tensors"):
        transfer_with_engine(reference_program(), causal, None, "rules")
