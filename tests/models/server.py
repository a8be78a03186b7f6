"""A real server of OpenAI's chat completions that plays what a test has written, well-behaved or not."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PIECE_CHARS = 200


@dataclass
class Reply:
    """What the server sends. body: instead of a completion. cut: bytes after which it hangs up.

    endless: send this for ever after the head. pause_s: before the head; drip_s: between small pieces; is_reset: hang up
    without a word.
    """

    text: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    content_type: str = ""
    cut: int | None = None
    endless: bytes = b""
    pause_s: float = 0.0
    drip_s: float = 0.0
    usage: tuple[int, int] | None = (100, 50)
    finish: str = "stop"
    is_reset: bool = False


Play = Callable[[dict[str, Any], int], Reply]


class Server:
    """Runs in threads; remembers every request and how many were under way at once."""

    def __init__(self, play: Play) -> None:
        self.play = play
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.peak = self._under_way = 0
        self.lock = threading.Lock()
        self._stop = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                """Tests print nothing."""

            def do_GET(self) -> None:
                self._send(Reply(body=json.dumps({"object": "list", "data": [{"id": "good"}]}).encode()), False)

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with owner.lock:
                    number = len(owner.requests)
                    owner.requests.append(asked)
                    owner.headers.append({name.lower(): value for name, value in self.headers.items()})
                    owner._under_way += 1
                    owner.peak = max(owner.peak, owner._under_way)
                try:
                    self._send(owner.play(asked, number), bool(asked.get("stream")))
                except OSError:
                    self.close_connection = True
                finally:
                    with owner.lock:
                        owner._under_way -= 1

            def _send(self, reply: Reply, is_stream: bool) -> None:
                owner._stop.wait(reply.pause_s)
                if reply.is_reset:
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()
                    self.close_connection = True
                    return
                is_stream = is_stream and reply.body is None and reply.status == 200
                body = reply.body if reply.body is not None else completion(reply, is_stream)
                kind = reply.content_type or ("text/event-stream" if is_stream else "application/json")
                self.send_response(reply.status)
                self.send_header("Content-Type", kind)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                if is_stream or reply.endless:
                    self.send_header("Connection", "close")
                    self.close_connection = True
                else:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self._body(reply, body)

            def _body(self, reply: Reply, body: bytes) -> None:
                if reply.cut is not None:
                    body, self.close_connection = body[: reply.cut], True
                step = 16 if reply.drip_s else len(body) or 1
                for start in range(0, len(body), step):
                    self.wfile.write(body[start : start + step])
                    self.wfile.flush()
                    if owner._stop.wait(reply.drip_s):
                        return
                while reply.endless and not owner._stop.is_set():
                    self.wfile.write(reply.endless)
                    time.sleep(reply.drip_s)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    @property
    def prompts(self) -> list[str]:
        """The user's message of each request."""
        return [asked["messages"][-1]["content"] for asked in self.requests]

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._http.shutdown()
        self._http.server_close()


def completion(reply: Reply, is_stream: bool) -> bytes:
    """A chat completion, whole or as server-sent events."""
    usage = None
    if reply.usage is not None:
        usage = {"prompt_tokens": reply.usage[0], "completion_tokens": reply.usage[1], "total_tokens": sum(reply.usage)}
    if not is_stream:
        message = {"role": "assistant", "content": reply.text}
        choice = {"index": 0, "message": message, "finish_reason": reply.finish}
        return json.dumps({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()
    pieces = [reply.text[start : start + PIECE_CHARS] for start in range(0, len(reply.text), PIECE_CHARS)]
    events = [{"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]} for piece in pieces]
    events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": reply.finish}]})
    events.append({"choices": [], "usage": usage})
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    return (": hello\n\n" + "".join(lines) + "data: [DONE]\n\n").encode()


@contextmanager
def serving(play: Play) -> Iterator[Server]:
    """A server for the time of a test."""
    server = Server(play)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def fenced(text: str) -> str:
    """A program as models give it."""
    return f"Here is the program.\n\n```python\n{text}```\nIt keeps the reference's order.\n"


def in_turn(*replies: Reply | str) -> Play:
    """These replies one after another, whoever asks; the last one for ever."""
    return lambda asked, number: as_reply(replies[min(number, len(replies) - 1)])


def by_turn(*replies: Reply | str) -> Play:
    """The first reply to a first question, the second to a question with a candidate in it, the third after two, ….

    The turn is told by which earlier reply the prompt quotes.
    """

    def play(asked: dict[str, Any], number: int) -> Reply:
        prompt = asked["messages"][-1]["content"]
        if "<<< CANDIDATE" not in prompt:
            return as_reply(replies[0])
        quoted = prompt.split("<<< CANDIDATE", 1)[1]
        turn = next(
            (n for n, r in enumerate(replies) if _core(as_reply(r).text) and _core(as_reply(r).text) in quoted), 0
        )
        return as_reply(replies[min(turn + 1, len(replies) - 1)])

    return play


def by_model(**plays: Play) -> Play:
    """A play for each model."""
    return lambda asked, number: plays[asked["model"]](asked, number)


def as_reply(reply: Reply | str) -> Reply:
    return Reply(reply) if isinstance(reply, str) else reply


def _core(text: str) -> str:
    """What of an answer the next prompt quotes: the block's inside, or the whole."""
    parts: Sequence[str] = text.split("```")
    return (parts[1].partition("\n")[2] if len(parts) > 1 else text).strip()
