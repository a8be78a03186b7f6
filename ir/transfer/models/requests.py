"""What is asked of a model and what comes back; a request's key is what its answer is remembered by."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from .limits import Usage

__all__ = ["Answer", "Message", "Request", "Unanswered", "digest", "escaped", "seed_of"]

MESSAGE_TOKENS = 16  # what a chat's format adds to a message, at most
SEED_BITS = 31
SHORT = 300


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat: role is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Request:
    """One question to one model. temperature None: the server's own."""

    model: str
    messages: tuple[Message, ...]
    seed: int
    max_tokens: int
    temperature: float | None = None

    @property
    def key(self) -> str:
        """SHA-256 of everything that is asked: equal questions have equal keys."""
        return digest(json.dumps(asdict(self), sort_keys=True))

    @property
    def most(self) -> Usage:
        """The most tokens it can cost: a token is at least a byte."""
        size = sum(len(message.content.encode(errors="replace")) + MESSAGE_TOKENS for message in self.messages)
        return Usage(size, self.max_tokens)


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's text, what the server says it used (None: it does not say), and why it ended."""

    text: str
    usage: Usage | None = None
    finish: str = ""


class Unanswered(Exception):
    """A request without a usable answer.

    reason: one line without control characters. is_passing: another try may succeed, after `retry_after` seconds if
    the server said so. is_billed: the server may have done the work. refused: a parameter that it does not take.
    """

    def __init__(
        self,
        reason: str,
        *,
        is_passing: bool = False,
        retry_after: float | None = None,
        is_billed: bool = False,
        refused: str = "",
    ) -> None:
        self.reason = escaped(reason)
        self.is_passing = is_passing
        self.retry_after = retry_after
        self.is_billed = is_billed
        self.refused = refused
        super().__init__(self.reason)


def digest(text: str) -> str:
    """SHA-256 of a text, 64 hex digits."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def escaped(text: str, most: int = SHORT) -> str:
    """Foreign text fit for a message: one line, control characters written out, at most `most` characters."""
    line = "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in " ".join(text[: 4 * most].split()))
    return line if len(line) <= most else line[: most - 1] + "…"


def seed_of(seed: int, model: str, sample: int, turn: int) -> int:
    """The seed of one question, the same in every run: 31 bits of a hash."""
    return int(digest(json.dumps([seed, model, sample, turn])), 16) % (1 << SEED_BITS)
