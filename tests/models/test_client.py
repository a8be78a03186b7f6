"""The client against servers that are slow, broken or hostile: one clear failure each, within bounds."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import socket
import sys
import time
from collections.abc import Callable

import pytest

from tilewright.ir.errors import MissingExtra
from tilewright.ir.transfer.models import client
from tilewright.ir.transfer.models.budget import Budget, BudgetSpent
from tilewright.ir.transfer.models.client import OpenAIAsker
from tilewright.ir.transfer.models.limits import Limits, Usage
from tilewright.ir.transfer.models.requests import Answer, Message, Request, Unanswered
from tilewright.ir.transfer.models.retries import Patience, ask_patiently

from .server import Reply, in_turn, serving

KEY = "sk-very-secret-0123456789"
REQUEST = Request("good", (Message("system", "be brief"), Message("user", "hello")), 7, 100, 0.5)


def ask(play, *, is_streaming: bool = False, seconds: float = 10.0, key: str | None = None) -> Answer:
    """One question, without retries."""

    async def run(url: str) -> Answer:
        asker = OpenAIAsker(url, key, is_streaming=is_streaming)
        try:
            return await asker.ask(REQUEST, seconds)
        finally:
            await asker.close()

    with serving(play) as server:
        return asyncio.run(run(server.url))


def patiently(play, limits: Limits | None = None, patience: Patience | None = None):
    """One question with retries: the answer or failure, what was told, the budget and the server's requests."""
    told: list[str] = []

    async def run(url: str):
        budget = Budget(limits or Limits(seconds=30))
        asker = OpenAIAsker(url, None, is_streaming=False)
        try:
            found = await ask_patiently(
                asker, REQUEST, budget, patience or Patience(4, 5.0, 0.01), lambda n, f: told.append(f.reason)
            )
        except (Unanswered, BudgetSpent) as error:
            found = error
        finally:
            await asker.close()
        return found, budget

    with serving(play) as server:
        found, budget = asyncio.run(run(server.url))
    return found, told, budget, server


@pytest.mark.parametrize("is_streaming", [True, False], ids=["streamed", "whole"])
def test_what_is_asked_and_answered(is_streaming: bool) -> None:
    with serving(in_turn("hello ☃ " * 100)) as server:

        async def run() -> Answer:
            asker = OpenAIAsker(server.url, KEY, is_streaming=is_streaming)
            answer = await asker.ask(REQUEST, 10.0)
            await asker.close()
            return answer

        answer = asyncio.run(run())
    assert answer == Answer("hello ☃ " * 100, Usage(100, 50), "stop")
    asked = server.requests[0]
    assert {name: asked[name] for name in ("model", "seed", "max_tokens", "temperature")} == {
        "model": "good", "seed": 7, "max_tokens": 100, "temperature": 0.5
    }  # fmt: skip
    assert asked["messages"] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


DEEP = b'{"choices":' * 2000
BROKEN: dict[str, tuple[Reply, str]] = {
    "wrong JSON": (Reply(body=b'{"choices": ['), "no chat completion: no JSON"),
    "no JSON": (Reply(body=b"\x00\xff\x1b[31mhello"), r"no JSON: \\x00"),
    "deep JSON": (Reply(body=DEEP), "no JSON"),
    "a list": (Reply(body=b"[1, 2]"), "JSON that is no object"),
    "no choices": (Reply(body=b'{"choices": []}'), "no choices"),
    "choices of another type": (Reply(body=b'{"choices": {"0": 1}}'), "no choices"),
    "no message": (Reply(body=b'{"choices": [{"index": 0}]}'), "a choice without a message"),
    "content of another type": (Reply(body=b'{"choices": [{"message": {"content": 5}}]}'), "content that is no text"),
    "an error in a 200": (Reply(body=b'{"error": {"message": "overloaded"}}'), "reports an error: .*overloaded"),
    "HTML": (Reply(body=b"<html>login</html>", content_type="text/html"), "of type text/html; wanted"),
    "a redirect": (Reply(status=302, headers={"Location": "http://127.0.0.1:1/"}, body=b""), "HTTP 302"),
    "401": (Reply(status=401, body=b'{"error": "bad key"}'), "HTTP 401: .*bad key"),
    "404": (Reply(status=404, body=b"no model"), "HTTP 404: no model"),
    "500": (Reply(status=500, body=b"oops"), "HTTP 500: oops"),
    "compressed": (Reply(body=gzip.compress(bytes(1000)), headers={"Content-Encoding": "gzip"}), "is compressed"),
    "cut short": (Reply("hello" * 100, cut=40), "no answer from the server"),
    "a reset": (Reply(is_reset=True), "no answer from the server"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_server(case: str) -> None:
    reply, reason = BROKEN[case]
    with pytest.raises(Unanswered, match=reason) as failure:
        ask(in_turn(reply))
    assert failure.value.reason.isprintable()
    assert len(failure.value.reason) <= 300


def test_a_stream_that_breaks_off() -> None:
    with pytest.raises(Unanswered, match="ended before its end") as failure:
        ask(in_turn(Reply("x" * 1000, cut=300)), is_streaming=True)
    assert failure.value.is_passing
    assert failure.value.is_billed


def test_a_stream_with_wrong_events() -> None:
    reply = Reply(body=b"data: {broken\n\n", content_type="text/event-stream")
    with pytest.raises(Unanswered, match=r"no JSON: \{broken"):
        ask(in_turn(reply), is_streaming=True)


ENDLESS = {
    "whole": (Reply(body=b" ", endless=b" " * (1 << 16)), "larger than 16777216 bytes"),
    "error": (Reply(body=b"no", status=500, endless=b"n" * (1 << 16)), "HTTP 500: no"),
    "one line": (
        Reply(body=b"data: ", content_type="text/event-stream", endless=b"x" * (1 << 16)),
        "larger than 16777216 bytes",
    ),
    "events": (
        Reply(
            body=b"\n",
            content_type="text/event-stream",
            endless=b'data: {"choices": [{"delta": {"content": "%s"}}]}\n\n' % (b"y" * 50_000),
        ),
        "longer than 1048576 characters",
    ),
}


@pytest.mark.parametrize("case", ENDLESS)
def test_an_endless_answer_is_cut(case: str) -> None:
    reply, reason = ENDLESS[case]
    with pytest.raises(Unanswered, match=reason):
        ask(in_turn(reply), is_streaming="stream" in reply.content_type)


SLOW = {
    "no head": Reply("late", pause_s=30.0),
    "drip": Reply("x" * 5000, drip_s=0.05),
    "drip for ever": Reply(body=b" ", endless=b" ", drip_s=0.02),
}


@pytest.mark.parametrize("case", SLOW)
def test_a_slow_server_costs_no_more_than_its_time(case: str) -> None:
    begin = time.monotonic()
    with pytest.raises(Unanswered, match=r"no answer within 0\.5 s") as failure:
        ask(in_turn(SLOW[case]), seconds=0.5)
    assert time.monotonic() - begin < 10.0  # a bound, not a measurement: the server would take 30 s or for ever
    assert failure.value.is_billed


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"

        async def run() -> None:
            await OpenAIAsker(url, None).ask(REQUEST, 5.0)

        with pytest.raises(Unanswered, match="no answer from the server") as failure:
            asyncio.run(run())
    assert failure.value.is_passing
    assert not failure.value.is_billed


@pytest.mark.parametrize("is_streaming", [True, False], ids=["streamed", "whole"])
def test_the_key_comes_back_in_no_answer_and_no_message(is_streaming: bool, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    echo = Reply(status=401, body=json.dumps({"error": f"key {KEY} is unknown"}).encode())
    with pytest.raises(Unanswered, match=r"key \[key\] is unknown") as failure:
        ask(in_turn(echo), is_streaming=is_streaming, key=KEY)
    assert KEY not in repr(failure.value) + str(failure.value.__cause__)
    answer = ask(in_turn(f"your key is {KEY}!"), is_streaming=is_streaming, key=KEY)
    assert answer.text == "your key is [key]!"
    assert KEY not in caplog.text
    assert caplog.records  # something was logged, so that its absence means something


def test_retry_after_is_heeded() -> None:
    replies = (
        Reply(status=429, headers={"Retry-After": "0.2"}, body=b"slow down"),
        Reply(status=503, body=b""),
        "done",
    )
    found, told, budget, server = patiently(in_turn(*replies), patience=Patience(4, 5.0, 0.01))
    assert found == Answer("done", Usage(100, 50), "stop")
    assert told == ["HTTP 429: slow down", "HTTP 503:"]
    assert (budget.spent["requests"], len(server.requests)) == (3, 3)
    assert budget.spent["seconds"] > 0.2


def test_a_wait_beyond_the_budget_is_not_begun() -> None:
    later = Reply(status=429, headers={"Retry-After": "3600"}, body=b"")
    found, _, budget, server = patiently(in_turn(later))
    assert isinstance(found, BudgetSpent)
    assert "waiting 3.6e+03 s would pass the time limit" in str(found)
    assert len(server.requests) == 1
    assert budget.spent["seconds"] < 25


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("-5", 0.0), ("soon", None), ("nan", None), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0)],
)
def test_retry_after(header: str, seconds: float | None) -> None:
    assert client._seconds(header) == seconds


def test_tries_are_counted_and_final_failures_end_them() -> None:
    found, told, budget, server = patiently(in_turn(Reply(status=500, body=b"down")))
    assert isinstance(found, Unanswered)
    assert (len(told), len(server.requests), budget.spent["requests"]) == (4, 4, 4)
    found, told, _, server = patiently(in_turn(Reply(status=401, body=b"who")))
    assert (len(told), len(server.requests)) == (1, 1)


def test_requests_are_limited_across_tries() -> None:
    found, _, _, server = patiently(in_turn(Reply(status=500, body=b"")), Limits(seconds=30, requests=2))
    assert isinstance(found, BudgetSpent)
    assert len(server.requests) == 2


def test_what_may_have_been_billed_counts_in_full() -> None:
    once = Patience(1, 5.0, 0.01)
    _, _, refused, _ = patiently(in_turn(Reply(status=500, body=b"")), patience=once)
    assert (refused.spent["prompt_tokens"], refused.spent["completion_tokens"]) == (0, 0)
    _, _, broken, _ = patiently(in_turn(Reply("x" * 1000, cut=100)), patience=once)
    assert (broken.spent["prompt_tokens"], broken.spent["completion_tokens"]) == (REQUEST.most.prompt_tokens, 100)
    _, _, silent, _ = patiently(in_turn(Reply("fine", usage=None)), patience=once)
    assert (silent.spent["prompt_tokens"], silent.spent["completion_tokens"]) == (REQUEST.most.prompt_tokens, 100)


REFUSALS: list[tuple[str, Callable[[dict], bool]]] = [
    ("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", lambda a: "max_tokens" in a),
    ("temperature does not support 0.5", lambda a: "temperature" in a),
    ("unknown field seed", lambda a: "seed" in a),
]


def test_parameters_that_a_server_refuses_are_left_out() -> None:
    def play(asked, number):
        reason = next((text for text, is_wrong in REFUSALS if is_wrong(asked)), None)
        return Reply("fine") if reason is None else Reply(status=400, body=json.dumps({"error": reason}).encode())

    found, told, _, server = patiently(play)
    assert isinstance(found, Answer)
    assert len(told) == 3
    last = server.requests[-1]
    assert last["max_completion_tokens"] == 100
    assert not {"max_tokens", "temperature", "seed"} & set(last)


def test_without_the_library(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtra, match=r"pip install 'tilewright\[llm\]'"):
        OpenAIAsker("http://127.0.0.1:1/v1", None)
