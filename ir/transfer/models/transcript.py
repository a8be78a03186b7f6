"""What happened, one JSON object a line, on disk before anything depends on it; a later run takes up where it ends.

    {"event": "start", "task": …, "name": …, "settings": …}     of each run
    {"event": "prompt", "id": …, "messages": […]}                each prompt once
    {"event": "answer", "line": …, "turn": …, "key": …, "prompt": …, "text": …, "tokens": …, "from": …}
    {"event": "failure", "line": …, "turn": …, "attempt": …, "reason": …}
    {"event": "verdict", "line": …, "turn": …, "outcome": …, "reason": …, "counter_example": …, …}
    {"event": "spent", …}                                        after each request: what all runs spent so far
    {"event": "decision", "action": …, "reason": …}
    {"event": "end", "outcome": …, …}

Nothing that is read back is trusted: answers go through the parser and the judge again.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from ...errors import SettingError, TilewrightError
from ...private_files import make_folders
from .answers import answer_from_json, answer_to_json
from .requests import Answer, Message, Request, digest

__all__ = ["Transcript"]

MAX_LINE_BYTES = 16 << 20
MAX_FILE_BYTES = 1 << 30


class Transcript:
    """A file that only grows; `path` None keeps events in memory alone."""

    def __init__(self, path: Path | None, task: str) -> None:
        self.path = path
        self.answers: dict[str, Answer] = {}
        self.spent: dict[str, float] = {}
        self._prompts: set[str] = set()
        self._task = task
        self._handle: int | None = None
        if path is not None:
            self._open(path)
            self._take_up(path)

    def add(self, event: str, **facts: object) -> None:
        """Append an event; it is on disk when this returns. TilewrightError where the disk refuses."""
        if self._handle is None:
            return
        line = json.dumps({"event": event, **facts}, allow_nan=False, default=str) + "\n"
        try:
            rest = line.encode()
            while rest:
                rest = rest[os.write(self._handle, rest) :]
            os.fsync(self._handle)
        except OSError as error:
            raise TilewrightError(f"transcript {self.path}: {error.strerror}") from None

    def add_prompt(self, messages: tuple[Message, ...]) -> str:
        """The prompt's id; its text is written the first time."""
        plain = [{"role": message.role, "content": message.content} for message in messages]
        name = digest(json.dumps(plain))[:16]
        if name not in self._prompts:
            self._prompts.add(name)
            self.add("prompt", id=name, messages=plain)
        return name

    def add_answer(self, request: Request, answer: Answer, source: str, **place: object) -> None:
        """An answer, where it came from (network, cache, transcript), and the question's place."""
        prompt = self.add_prompt(request.messages)
        asked = {"model": request.model, "seed": request.seed, "temperature": request.temperature}
        facts = {"key": request.key, "prompt": prompt, "from": source, **asked, **answer_to_json(answer)}
        self.add("answer", **place, **facts)
        self.answers[request.key] = answer

    def close(self) -> None:
        """Let go of the file."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _open(self, path: Path) -> None:
        """Open the file to append to it, made for us alone. SettingError for a link and for a file of somebody else."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | getattr(os, "O_NOFOLLOW", 0)
        try:
            make_folders(path.parent)
            self._handle = os.open(path, flags, 0o600)
            status = os.fstat(self._handle)
            if status.st_uid != os.geteuid() or not stat.S_ISREG(status.st_mode):
                raise SettingError(f"transcript {path}: not a file of your own; name another one")
            if status.st_size and not self._ends_a_line(path):
                os.write(self._handle, b"\n")  # a run that was killed while it wrote
        except OSError as error:
            raise SettingError(f"transcript {path}: {error.strerror}") from None

    @staticmethod
    def _ends_a_line(path: Path) -> bool:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    def _take_up(self, path: Path) -> None:
        """Answers and spending of earlier runs. SettingError for the transcript of another task."""
        if path.stat().st_size > MAX_FILE_BYTES:
            raise SettingError(f"transcript {path}: larger than {MAX_FILE_BYTES} bytes; name another file")
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE_BYTES):
                with contextlib.suppress(ValueError, RecursionError):  # a damaged line counts as absent
                    self._recall(json.loads(line))

    def _recall(self, event: object) -> None:
        if not isinstance(event, dict):
            return
        if event.get("event") == "start" and event.get("task") != self._task:
            raise SettingError(f"transcript {self.path} is of another task; name another file")
        if event.get("event") == "answer" and isinstance(event.get("key"), str):
            self.answers[event["key"]] = answer_from_json(event)
        if event.get("event") == "spent":
            self.spent = _numbers(event)


def _numbers(event: Mapping[str, object]) -> dict[str, float]:
    return {name: float(value) for name, value in event.items() if type(value) in (int, float)}  # type: ignore[arg-type]
