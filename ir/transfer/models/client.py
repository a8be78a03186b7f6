"""One question to any server that speaks OpenAI's chat completions, within a time and a number of bytes.

The client library makes the request; what comes back is read here, piece by piece, because a server may be slow, broken
or hostile: responses are bounded before they are parsed, redirects are not followed (they could carry a key away), and
compressed bodies are refused (a few bytes could become many).
"""

from __future__ import annotations

import asyncio
import math
import time
from email.utils import parsedate_to_datetime
from types import ModuleType
from typing import Any, Protocol

from ...errors import MissingExtra
from .requests import Answer, Request, Unanswered
from .wire import MAX_BODY_BYTES, Stream, read_body

__all__ = ["Asker", "OpenAIAsker"]

NO_KEY = "none"
CONNECT_S = 10.0
MAX_ERROR_BYTES = 8 << 10
PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}
REFUSING = {400, 422}
OPTIONAL = ("max_tokens", "seed", "temperature", "stream_options")
LONG_NAME = {"max_tokens": "max_completion_tokens"}


class Asker(Protocol):
    """Asks a model one question."""

    async def ask(self, request: Request, seconds: float) -> Answer:
        """The answer, within `seconds`. Raises Unanswered."""

    async def close(self) -> None:
        """Let go of connections."""


class OpenAIAsker:
    """Asks a server by the `openai` client. `key` goes into the request's header; what comes back has it not."""

    def __init__(self, base_url: str, key: str | None, *, is_streaming: bool = True) -> None:
        openai = _library()
        self._is_streaming = is_streaming
        self._key = key
        self._openai = openai
        self._left_out: dict[str, set[str]] = {}  # by model: parameters that its server refuses
        http = openai.DefaultAsyncHttpxClient(follow_redirects=False, event_hooks={"response": [_check_head]})
        self._client = openai.AsyncOpenAI(
            api_key=key or NO_KEY, base_url=base_url, max_retries=0, http_client=http, organization="", project=""
        )

    async def ask(self, request: Request, seconds: float) -> Answer:
        """The answer, within `seconds`. Raises Unanswered for everything that goes wrong on the way."""
        try:
            async with asyncio.timeout(seconds):
                answer = await self._ask(request, seconds)
        except TimeoutError:
            raise Unanswered(f"no answer within {seconds:.3g} s", is_passing=True, is_billed=True) from None
        except Unanswered as failure:
            raise self._without_key(failure) from None
        except Exception as error:  # noqa: BLE001 - whatever the library or the transport raises
            raise self._without_key(_failure_of(error)) from None
        return Answer(self._redacted(answer.text), answer.usage, answer.finish)

    async def close(self) -> None:
        """Let go of connections."""
        await self._client.close()

    async def _ask(self, request: Request, seconds: float) -> Answer:
        messages = [{"role": message.role, "content": message.content} for message in request.messages]
        timeout = self._openai.Timeout(seconds, connect=min(CONNECT_S, seconds))
        create = self._client.chat.completions.with_streaming_response.create
        headers = {"Accept-Encoding": "identity"}
        options = self._options(request)
        try:
            async with create(
                model=request.model, messages=messages, timeout=timeout, extra_headers=headers, **options
            ) as response:
                return await _read(response)
        except Exception as error:  # noqa: BLE001 - as above
            failure = error if isinstance(error, Unanswered) else _failure_of(error)
            if failure.refused in options:
                self._left_out.setdefault(request.model, set()).add(failure.refused)
                failure.is_passing = True
            raise failure from None

    def _options(self, request: Request) -> dict[str, Any]:
        """The parameters that the model's server is known to take."""
        asked: dict[str, Any] = {"seed": request.seed, "max_tokens": request.max_tokens, "stream": self._is_streaming}
        if request.temperature is not None:
            asked["temperature"] = request.temperature
        if self._is_streaming:
            asked["stream_options"] = {"include_usage": True}
        left_out = self._left_out.get(request.model, set())
        options = {name: value for name, value in asked.items() if name not in left_out}
        for short, long in LONG_NAME.items():
            if short in left_out and long not in left_out:
                options[long] = asked[short]
        return options

    def _without_key(self, failure: Unanswered) -> Unanswered:
        failure.reason = self._redacted(failure.reason)
        failure.args = (failure.reason,)
        return failure

    def _redacted(self, text: str) -> str:
        text = text.encode(errors="replace").decode()  # halves of surrogate pairs would not go into the next request
        return text.replace(self._key, "[key]") if self._key else text


def _library() -> ModuleType:
    try:
        import openai
    except ImportError:
        raise MissingExtra("llm", "the engine 'llm'") from None
    return openai


async def _read(response: Any) -> Answer:
    """The answer in a response's body, by what the server says that it is."""
    kind = str(response.headers.get("content-type", "")).partition(";")[0].strip().lower()
    if kind not in ("application/json", "text/event-stream"):
        reason = f"the server's response is of type {kind or 'unknown'}; wanted application/json or text/event-stream"
        raise Unanswered(reason, is_billed=True)
    stream, body, size = Stream(), bytearray(), 0
    async for piece in response.iter_bytes():
        size += len(piece)
        if size > MAX_BODY_BYTES:
            raise Unanswered(f"the server's response is larger than {MAX_BODY_BYTES} bytes", is_billed=True)
        if kind == "application/json":
            body += piece
            continue
        stream.feed(piece)
        if stream.is_done:
            break
    return read_body(bytes(body)) if kind == "application/json" else stream.answer()


async def _check_head(response: Any) -> None:
    """Refuse a response by its head, before the library reads its body."""
    if response.status_code >= 300:
        raise await _refusal(response)
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise Unanswered(f"the server's response is compressed ({encoding}) although that was not asked for")


async def _refusal(response: Any) -> Unanswered:
    """What a status of 300 and above means."""
    status, body = response.status_code, b""
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > MAX_ERROR_BYTES:
            break
    text = body[:MAX_ERROR_BYTES].decode(errors="replace")
    refused = next((name for name in _names_in_order(text) if status in REFUSING), "")
    return Unanswered(
        f"HTTP {status}: {text}",
        is_passing=status in PASSING,
        retry_after=_seconds(response.headers.get("retry-after")),
        refused=refused,
    )


def _names_in_order(text: str) -> list[str]:
    """Optional parameters that an error names, the first named first."""
    found = [(text.find(name), name) for name in (*OPTIONAL, *LONG_NAME.values()) if name in text]
    return [name for _, name in sorted(found)]


def _seconds(header: str | None) -> float | None:
    """Retry-After: seconds, or a date."""
    if header is None:
        return None
    try:
        value = float(header)
    except ValueError:
        try:
            value = parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(value, 0.0) if math.isfinite(value) else None


def _failure_of(error: Exception) -> Unanswered:
    """What the library or its transport raised, as a failure; another try may help."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, Unanswered):
            return seen
        seen = seen.__cause__
    cause = error.__cause__ or error
    detail = f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__
    return Unanswered(f"no answer from the server ({detail})", is_passing=True, is_billed=_is_half_done(cause))


def _is_half_done(error: BaseException) -> bool:
    """Whether the server may have worked on the request before it broke off."""
    return not type(error).__name__.startswith("Connect")
