"""Bytes of a chat completion -> an answer, whole or streamed. A server may send anything: all of it is checked."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

from .answer import MAX_ANSWER_CHARS
from .limits import Usage
from .requests import Answer, Unanswered, escaped

__all__ = ["MAX_BODY_BYTES", "Stream", "read_body"]

MAX_BODY_BYTES = 16 << 20  # a streamed token takes some 250 bytes
MOST_TOKENS = 1 << 31
DATA = b"data:"
DONE = b"[DONE]"


def read_body(body: bytes) -> Answer:
    """The answer in a whole response. Raises Unanswered for what is no chat completion."""
    data = _json(body)
    choice = _choice(data)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise _malformed("a choice without a message")
    text = _text(message.get("content"))
    if not text and isinstance(message.get("refusal"), str):
        raise Unanswered(f"the model refused: {message['refusal']}", is_billed=True)
    return Answer(_bounded(text), _usage(data), _word(choice.get("finish_reason")))


class Stream:
    """A response that arrives in pieces, as server-sent events."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._texts: list[str] = []
        self._length = 0
        self._usage: Usage | None = None
        self._finish = ""
        self.is_done = False

    def feed(self, piece: bytes) -> None:
        """Take in some bytes. Raises Unanswered for what is no event of a chat completion."""
        self._rest += piece
        if b"\n" not in piece:
            return
        *lines, rest = self._rest.split(b"\n")
        self._rest = rest
        for line in lines:
            self._line(bytes(line))

    def answer(self) -> Answer:
        """The whole answer. Raises Unanswered where the stream ended before its end."""
        with contextlib.suppress(Unanswered):  # half of an event: the stream was cut
            self._line(bytes(self._rest))
        self._rest = bytearray()
        if not (self.is_done or self._finish):
            raise Unanswered("the answer's stream ended before its end", is_passing=True, is_billed=True)
        return Answer("".join(self._texts), self._usage, self._finish)

    def _line(self, line: bytes) -> None:
        if self.is_done or not line.startswith(DATA):
            return
        payload = line[len(DATA) :].strip()
        if payload == DONE:
            self.is_done = True
            return
        data = _json(payload)
        self._usage = _usage(data) or self._usage
        if data.get("choices"):
            choice = _choice(data)
            self._finish = _word(choice.get("finish_reason")) or self._finish
            delta = choice.get("delta")
            self._add(_text(delta.get("content")) if isinstance(delta, dict) else "")

    def _add(self, text: str) -> None:
        self._length += len(text)
        if self._length > MAX_ANSWER_CHARS:
            raise Unanswered(f"the answer is longer than {MAX_ANSWER_CHARS} characters", is_billed=True)
        self._texts.append(text)


def _json(body: bytes) -> dict[str, object]:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        raise _malformed(f"no JSON: {_start(body)}") from None
    if not isinstance(data, dict):
        raise _malformed(f"JSON that is no object: {_start(body)}")
    if data.get("error"):
        raise Unanswered(f"the server reports an error: {_start(json.dumps(data['error']).encode())}", is_passing=True)
    return data


def _choice(data: dict[str, object]) -> dict[str, object]:
    choices = data.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(first, dict):
        raise _malformed("no choices")
    return first


def _text(content: object) -> str:
    """Text of a message: a string, a list of parts with texts, or nothing."""
    if isinstance(content, list):
        return "".join(_part_texts(content))
    if content is not None and not isinstance(content, str):
        raise _malformed("content that is no text")
    return content or ""


def _part_texts(parts: list[object]) -> Iterator[str]:
    for part in parts:
        text = part.get("text") if isinstance(part, dict) else None
        if isinstance(text, str):
            yield text


def _bounded(text: str) -> str:
    if len(text) > MAX_ANSWER_CHARS:
        raise Unanswered(f"the answer is longer than {MAX_ANSWER_CHARS} characters", is_billed=True)
    return text


def _usage(data: dict[str, object]) -> Usage | None:
    """The tokens that the server counted; None where it does not say, or says nonsense."""
    found = data.get("usage")
    if not isinstance(found, dict):
        return None
    counts = [found.get(name) for name in ("prompt_tokens", "completion_tokens")]
    numbers = [count for count in counts if type(count) is int and 0 <= count < MOST_TOKENS]
    return Usage(*numbers) if len(numbers) == len(counts) else None


def _word(value: object) -> str:
    return escaped(value, 40) if isinstance(value, str) else ""


def _malformed(what: str) -> Unanswered:
    return Unanswered(f"the server's response is no chat completion: {what}", is_passing=True, is_billed=True)


def _start(body: bytes) -> str:
    return escaped(body[:400].decode(errors="replace"), 120) or "(empty)"
