"""What is kept on disk: transcripts that are taken up, remembered answers, damage, and who may read it."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from tilewright.ir.errors import SettingError, TransferFailed
from tilewright.ir.printer import print_program
from tilewright.ir.transfer.models.answers import Answers
from tilewright.ir.transfer.models.limits import Usage
from tilewright.ir.transfer.models.requests import Answer, digest
from tilewright.ir.transfer.models.transcript import Transcript

from .server import Reply, by_turn, fenced, in_turn, serving
from .tasks import causal, engine, good_text, planted, task_of, tensors

KEY = "sk-very-secret-0123456789"


@pytest.fixture(scope="module")
def task():
    return task_of(causal, tensors())[0]


def events(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def test_a_run_takes_up_where_the_last_one_stopped(task, tmp_path: Path) -> None:
    right, wrong = good_text(task), planted(good_text(task), "mask edge")
    path = tmp_path / "run.jsonl"
    down = Reply(status=401, body=b"who are you")
    with serving(by_turn(fenced(wrong), down)) as server, pytest.raises(TransferFailed, match="who are you"):
        engine(server.url, transcript=path).transfer(task)
    assert len(server.requests) == 2
    with serving(by_turn(fenced(wrong), fenced(right))) as server:
        made = engine(server.url, transcript=path).transfer(task)
    assert print_program(made.program) == right
    assert len(server.requests) == 1, "the first question was answered already"
    assert "<<< CANDIDATE" in server.prompts[0]
    assert made.spent["requests"] == 3
    with serving(in_turn(Reply(status=500, body=b""))) as server:
        again = engine(server.url, transcript=path).transfer(task)
    assert again.program is made.program or print_program(again.program) == right
    assert server.requests == []
    assert [e["event"] for e in events(path)].count("start") == 3


def test_a_run_that_was_killed_while_it_wrote(task, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with serving(in_turn(fenced(good_text(task)))) as server:
        engine(server.url, transcript=path).transfer(task)
        lines = path.read_bytes().splitlines(keepends=True)
        answer = next(n for n, line in enumerate(lines) if b'"event": "answer"' in line)
        path.write_bytes(b"".join(lines[:answer]) + lines[answer][:200])
        engine(server.url, transcript=path).transfer(task)
    assert len(server.requests) == 2, "half an answer counts as none"
    kept = path.read_bytes().splitlines()
    assert json.loads(kept[-1])["outcome"] == "accepted"
    assert json.loads(kept[answer + 1])["event"] == "start", "the half line has a line of its own"


def test_money_of_earlier_runs_is_spent(task, tmp_path: Path) -> None:
    path, wrong = tmp_path / "run.jsonl", planted(good_text(task), "tail")
    with serving(in_turn(fenced(wrong))) as server:
        for _ in range(2):
            with pytest.raises(TransferFailed):
                engine(server.url, transcript=path, rounds=9, requests=3).transfer(task)
    assert len(server.requests) == 3


def test_a_transcript_of_another_task_is_refused(task, tmp_path: Path) -> None:
    def other(q, k, v):
        return (q @ k.mT).softmax(-1) @ v

    path = tmp_path / "run.jsonl"
    with serving(in_turn(fenced(good_text(task)))) as server:
        engine(server.url, transcript=path).transfer(task)
        with pytest.raises(SettingError, match="is of another task"):
            engine(server.url, transcript=path).transfer(task_of(other, tensors(1))[0])


def test_an_edited_transcript_accepts_nothing_wrong(task, tmp_path: Path) -> None:
    path, wrong = tmp_path / "run.jsonl", planted(good_text(task), "wrong head")
    with serving(in_turn(fenced(good_text(task)))) as server:
        engine(server.url, transcript=path).transfer(task)
    forged = events(path)
    for event in forged:
        if event["event"] == "answer":
            event |= {"text": fenced(wrong), "sha256": digest(fenced(wrong))}
    path.write_text("".join(json.dumps(event) + "\n" for event in forged))
    with serving(in_turn(Reply(status=401, body=b"nothing new"))) as server, pytest.raises(TransferFailed):
        engine(server.url, transcript=path).transfer(task)


def test_damaged_lines_count_as_absent(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    good = {"event": "answer", "key": "k", "text": "hi", "tokens": [1, 2], "finish": "", "sha256": digest("hi")}
    changed = {**good, "key": "changed", "text": "ho"}
    lines = [b"\x00\xff", b"[1]", b'{"event": "answer", "key": 5}', b"[" * 100_000, json.dumps(changed).encode()]
    path.write_bytes(b"\n".join([*lines, json.dumps(good).encode(), b'{"event": "spent", "requests": 2, "x": "y"}']))
    transcript = Transcript(path, "task")
    transcript.close()
    assert transcript.answers == {"k": Answer("hi", Usage(1, 2), "")}
    assert transcript.spent == {"requests": 2.0}


def test_remembered_answers_are_not_asked_for_again(task, tmp_path: Path) -> None:
    with serving(in_turn(fenced(good_text(task)))) as server:
        first = engine(server.url, tmp_path).transfer(task)
        second = engine(server.url, tmp_path).transfer(task)
        assert len(server.requests) == 1
        assert (second.spent["requests"], second.transcript != first.transcript) == (0, True)
        assert second.transcript is not None
        assert [e["from"] for e in events(second.transcript) if e["event"] == "answer"] == ["memory"]
        engine(server.url, tmp_path, has_memory=False).transfer(task)
        assert len(server.requests) == 2
        engine(server.url, tmp_path, seed=1).transfer(task)
        assert len(server.requests) == 3, "another seed is another question"


def test_memory_heals_itself(tmp_path: Path) -> None:
    answers, kept = Answers(tmp_path), Answer("text", None, "stop")
    answers.put("ab12", kept)
    path = next(tmp_path.rglob("*.json"))
    assert answers.get("ab12") == kept
    for damage in (b"", b"{", path.read_bytes().replace(b"text", b"tixt", 1), b"[" * 100_000):
        path.write_bytes(damage)
        assert answers.get("ab12") is None
    answers.put("ab12", kept)
    assert answers.get("ab12") == kept
    assert answers.get("ab13") is None
    assert Answers(None).get("ab12") is None


def test_files_are_private_and_hold_no_key(task, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TILEWRIGHT_API_KEY", KEY)
    folder = tmp_path / "kept"
    echo = Reply(status=500, body=f"I know {KEY}".encode())
    with serving(in_turn(echo, f"{KEY}\n" + fenced(good_text(task)))) as server:
        engine(server.url, folder).transfer(task)
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 2  # a transcript and an answer
    for path in files:
        assert KEY.encode() not in path.read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert any(b"I know [key]" in path.read_bytes() for path in files)
    for path in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_folders_of_others_are_refused(task, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    os.chmod(folder, 0o777)
    with pytest.raises(SettingError, match=r"others may write to it \(mode 777\)"):
        Answers(folder)
    link = tmp_path / "link.jsonl"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SettingError, match=r"link\.jsonl"):
        Transcript(link, "task")
    assert not (tmp_path / "elsewhere").exists()
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(SettingError, match="not a file of your own"):
        Transcript(pipe, "task")
    os.close(reader)
    Transcript(folder / "named.jsonl", "task").close()  # where a user names it, anywhere will do
    assert stat.S_IMODE((folder / "named.jsonl").stat().st_mode) == 0o600
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match="name one that can be written"):
        Answers(tmp_path / "file" / "below")
