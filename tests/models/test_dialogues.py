"""Dialogues with a real server: candidates at once, corrected after a counter-example, and never."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tilewright.ir.errors import TransferFailed
from tilewright.ir.printer import print_program

from .server import by_turn, fenced, in_turn, serving
from .tasks import PLANTED, causal, engine, good_text, planted, task_of, tensors


@pytest.fixture(scope="module")
def task_and_judge():
    return task_of(causal, tensors())


@pytest.fixture(scope="module")
def task(task_and_judge):
    return task_and_judge[0]


@pytest.mark.parametrize("is_streaming", [True, False], ids=["streamed", "whole"])
def test_a_good_candidate_at_once(task, tmp_path: Path, is_streaming: bool) -> None:
    text = good_text(task)
    with serving(in_turn(fenced(text))) as server:
        made = engine(server.url, tmp_path, is_streaming=is_streaming).transfer(task)
    assert print_program(made.program) == text
    assert made.engine == "llm"
    assert "written by good" in made.notes[0]
    assert [asked["model"] for asked in server.requests] == ["good"]
    assert server.requests[0]["stream"] is is_streaming
    assert (made.spent["requests"], made.spent["prompt_tokens"], made.spent["completion_tokens"]) == (1, 100, 50)
    assert made.transcript is not None
    events = [json.loads(line)["event"] for line in made.transcript.read_text().splitlines()]
    assert events == ["start", "decision", "prompt", "answer", "spent", "verdict", "decision", "spent", "end"]


@pytest.mark.parametrize("mistake", PLANTED)
def test_a_wrong_candidate_is_corrected_after_its_counter_example(task, tmp_path: Path, mistake: str) -> None:
    right, wrong = good_text(task), planted(good_text(task), mistake)
    with serving(by_turn(fenced(wrong), fenced(right))) as server:
        made = engine(server.url, tmp_path).transfer(task)
    assert print_program(made.program) == right
    first, second = server.prompts
    assert "CANDIDATE" not in first
    assert wrong.strip() in second
    assert "The smallest input found on which it is wrong: " in second
    assert len(server.requests) == 2


def test_what_is_never_right_is_never_accepted(task, tmp_path: Path) -> None:
    wrong = planted(good_text(task), "mask edge")
    with serving(in_turn(fenced(wrong))) as server, pytest.raises(TransferFailed, match="wrong on") as failure:
        engine(server.url, tmp_path, rounds=2, samples=2).transfer(task)
    assert len(server.requests) == 4
    assert failure.value.transcript is not None
    assert Path(failure.value.transcript).is_file()
