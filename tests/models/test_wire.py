"""Responses as bytes: any of them is an answer or one clear failure, and a stream means the same however it is cut."""

from __future__ import annotations

import contextlib
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilewright.ir.transfer.models.limits import Usage
from tilewright.ir.transfer.models.requests import Answer, Unanswered, escaped
from tilewright.ir.transfer.models.transcript import Transcript
from tilewright.ir.transfer.models.wire import Stream, read_body

from .server import Reply, completion

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
NAMES = st.sampled_from(["choices", "message", "delta", "content", "usage", "finish_reason", "error", "text", "x"])
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)


def streamed(pieces: list[bytes]) -> Answer:
    stream = Stream()
    for piece in pieces:
        stream.feed(piece)
    return stream.answer()


@given(st.binary(max_size=300) | JSON.map(lambda data: json.dumps(data).encode()))
def test_any_body_is_an_answer_or_a_failure(body: bytes) -> None:
    with contextlib.suppress(Unanswered):
        assert isinstance(read_body(body).text, str)
    with contextlib.suppress(Unanswered):
        assert isinstance(streamed([b"data: " + body + b"\n", b"data: [DONE]\n"]).text, str)


@given(st.text(max_size=500), st.lists(st.integers(0, 4000), max_size=8))
def test_a_stream_means_the_same_however_it_is_cut(text: str, cuts: list[int]) -> None:
    whole = completion(Reply(text), is_stream=True)
    places = sorted({0, *(cut for cut in cuts if cut < len(whole)), len(whole)})
    pieces = [whole[a:b] for a, b in itertools.pairwise(places)]
    assert streamed(pieces) == Answer(text, Usage(100, 50), "stop")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_end_either_way(end: str) -> None:
    whole = completion(Reply("hello"), is_stream=True).replace(b"\n", end.encode())
    assert streamed([whole]).text == "hello"


@pytest.mark.parametrize(
    "usage",
    [None, 5, {}, {"prompt_tokens": -1, "completion_tokens": 1}, {"prompt_tokens": 1 << 40, "completion_tokens": 1},
     {"prompt_tokens": True, "completion_tokens": 1}, {"prompt_tokens": 1.5, "completion_tokens": 1}],
)  # fmt: skip
def test_nonsense_about_usage_counts_as_silence(usage: object) -> None:
    body = json.dumps({"choices": [{"message": {"content": "hi"}}], "usage": usage}).encode()
    assert read_body(body) == Answer("hi", None, "")


def test_content_may_come_in_parts() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image"}, "x", {"text": 5}, {"text": "b"}]
    body = json.dumps({"choices": [{"message": {"content": parts}}]}).encode()
    assert read_body(body).text == "ab"
    refusal = json.dumps({"choices": [{"message": {"content": None, "refusal": "I will not"}}]}).encode()
    with pytest.raises(Unanswered, match="the model refused: I will not"):
        read_body(refusal)


@given(st.lists(st.binary(max_size=60) | JSON.map(lambda data: json.dumps(data).encode()), max_size=6))
def test_any_file_can_be_taken_up_as_a_transcript(tmp_path_factory, lines: list[bytes]) -> None:
    path = Path(tmp_path_factory.mktemp("runs")) / "run.jsonl"
    path.write_bytes(b"\n".join(lines))
    transcript = Transcript(path, "task")
    transcript.add("start", task="task")
    transcript.close()
    assert path.read_bytes().splitlines()[-1] == b'{"event": "start", "task": "task"}'


@given(st.text(max_size=2000))
def test_foreign_text_in_messages_is_one_printable_line(text: str) -> None:
    assert escaped(text).isprintable()
    assert len(escaped(text)) <= 300
