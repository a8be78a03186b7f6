"""Answers by question, kept on disk: what was answered once is not asked again. Damaged entries count as absent."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from ...private_files import private_folder, write_whole
from .answer import MAX_ANSWER_CHARS
from .limits import Usage
from .requests import Answer, digest

__all__ = ["Answers", "answer_from_json", "answer_to_json"]

MAX_ENTRY_BYTES = 8 * MAX_ANSWER_CHARS


class Answers:
    """root/<2 digits>/<key>.json; each entry carries the hash of its text. `root` None: remembered by nobody."""

    def __init__(self, root: Path | None) -> None:
        self._root = None if root is None else private_folder(root)

    def get(self, key: str) -> Answer | None:
        """The answer to the question with this key, None if it is not there or not intact."""
        if self._root is None:
            return None
        try:
            path = self._path(self._root, key)
            if path.stat().st_size > MAX_ENTRY_BYTES:
                return None
            return answer_from_json(json.loads(path.read_bytes()))
        except (OSError, ValueError, RecursionError):
            return None

    def put(self, key: str, answer: Answer) -> None:
        """Keep an answer; a disk that is full or read-only keeps none."""
        if self._root is not None:
            with contextlib.suppress(OSError):
                write_whole(self._path(self._root, key), json.dumps(answer_to_json(answer)).encode())

    @staticmethod
    def _path(root: Path, key: str) -> Path:
        return root / key[:2] / f"{key}.json"


def answer_to_json(answer: Answer) -> dict[str, object]:
    """Plain data, with a hash of the text."""
    usage = answer.usage
    tokens = None if usage is None else [usage.prompt_tokens, usage.completion_tokens]
    return {"text": answer.text, "tokens": tokens, "finish": answer.finish, "sha256": digest(answer.text)}


def answer_from_json(data: object) -> Answer:
    """The inverse of answer_to_json; ValueError for anything else."""
    if not isinstance(data, dict):
        raise ValueError("no answer")
    text, tokens, finish = data.get("text"), data.get("tokens"), data.get("finish")
    if not isinstance(text, str) or digest(text) != data.get("sha256") or not isinstance(finish, str):
        raise ValueError("a damaged answer")
    if tokens is None:
        return Answer(text, None, finish)
    if not isinstance(tokens, list) or len(tokens) != 2 or not all(type(n) is int and n >= 0 for n in tokens):
        raise ValueError("a damaged answer")
    return Answer(text, Usage(*tokens), finish)
