"""Several models at once: bounded concurrency, early ends, determinism, disagreement, the cheapest of what is right."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tilewright.ir.errors import SettingError, TransferFailed
from tilewright.ir.printer import print_program
from tilewright.ir.transfer.consensus_decision import Thresholds
from tilewright.ir.transfer.engine import Outcome, Verdict
from tilewright.ir.transfer.models import Limits, ModelEngine, Price

from .server import Reply, by_model, by_turn, fenced, in_turn, serving
from .tasks import PLANTED, causal, engine, good_text, planted, settings, task_of, tensors

THREE = {"models": ("a", "b", "c"), "thresholds": Thresholds()}


@pytest.fixture(scope="module")
def task():
    return task_of(causal, tensors())[0]


def decisions(path: Path | None) -> list[str]:
    assert path is not None
    events = [json.loads(line) for line in path.read_text().splitlines()]
    return [event["action"] for event in events if event["event"] == "decision"]


def test_models_that_agree_end_it_early(task, tmp_path: Path) -> None:
    text = good_text(task)
    with serving(in_turn(fenced(text))) as server:
        made = engine(server.url, tmp_path, samples=4, **THREE).transfer(task)
    assert len(server.requests) == 3, "one of each is enough where all agree and all is verified"
    assert {asked["model"] for asked in server.requests} == {"a", "b", "c"}
    assert "a, b and c agree" in made.notes
    assert decisions(made.transcript) == ["sample_more", "accept"]


def test_no_more_requests_at_once_than_allowed(task, tmp_path: Path) -> None:
    models = tuple(f"m{n}" for n in range(8))
    barrier = threading.Barrier(3)

    def play(asked, number):
        barrier.wait(20)  # passes only where three requests are under way together
        return Reply(fenced(good_text(task)))

    with serving(play) as server:
        engine(server.url, tmp_path, concurrency=3, models=models[:6]).transfer(task)
    assert (len(server.requests), server.peak) == (6, 3)


def test_the_same_seeds_ask_the_same_whatever_the_order_of_answers(task, tmp_path: Path) -> None:
    right, wrong = good_text(task), planted(good_text(task), "tail")

    def run(slow: str):
        def play(asked, number):
            reply = by_turn(fenced(wrong), fenced(right))(asked, number)
            return Reply(reply.text, pause_s=0.2 if asked["model"] == slow else 0.0)

        with serving(play) as server:
            made = engine(server.url, tmp_path / slow, **THREE, samples=2, seed=5).transfer(task)
        return print_program(made.program), made.notes, sorted((r["model"], r["seed"]) for r in server.requests)

    first, second = run("a"), run("c")
    assert first == second
    seeds = [seed for _, seed in first[2]]
    assert len(set(seeds)) == len(seeds) == 6


def test_a_model_that_never_parses_does_not_stop_the_others(task, tmp_path: Path) -> None:
    plays = by_model(a=in_turn(fenced(good_text(task))), b=in_turn(fenced(good_text(task))), c=in_turn("no idea"))
    with serving(plays) as server:
        made = engine(server.url, tmp_path, **THREE, samples=2, rounds=2).transfer(task)
    assert print_program(made.program) == good_text(task)
    assert "a and b agree" in made.notes


def test_a_server_that_knows_one_model_only(task, tmp_path: Path) -> None:
    plays = by_model(a=in_turn(fenced(good_text(task))), b=in_turn(Reply(status=404, body=b"no such model")))
    with serving(plays) as server:
        known = {"models": ("a", "b"), "thresholds": Thresholds(), "samples": 2}
        made = engine(server.url, tmp_path, **known).transfer(task)
    assert print_program(made.program) == good_text(task)


def test_confident_models_that_differ_are_told_apart_by_verification(task, tmp_path: Path) -> None:
    right, wrong = good_text(task), planted(good_text(task), "mask edge")
    plays = by_model(a=in_turn(fenced(right)), b=in_turn(fenced(wrong)), c=in_turn(fenced(wrong)))
    with serving(plays) as server:
        made = engine(server.url, tmp_path, **THREE, samples=2, rounds=1).transfer(task)
    assert print_program(made.program) == right
    assert "distinguish" in decisions(made.transcript)
    assert any("the models are sure and differ" in note for note in made.notes)


def test_unsure_models_that_differ_end_in_a_report(task, tmp_path: Path) -> None:
    text = good_text(task)
    wrongs = [fenced(planted(text, mistake)) for mistake in PLANTED]
    wrongs += [fenced(planted(planted(text, a), b)) for a, b in (("tail", "wrong head"), ("tail", "no rescale"))]
    plays = by_model(**{name: in_turn_of_model(wrongs[n::3]) for n, name in enumerate(("a", "b", "c"))})
    with serving(plays) as server, pytest.raises(TransferFailed, match=r"the models are unsure and differ"):
        engine(server.url, tmp_path, **THREE, samples=3, rounds=1).transfer(task)


def in_turn_of_model(replies: list[str]):
    """These replies one after another for one model, over and over."""
    count = iter(range(1000))
    return lambda asked, number: Reply(replies[next(count) % len(replies)])


class Suspicious:
    """A judge that accepts two programs until it is asked to tell them apart."""

    def __init__(self, judge, right: str) -> None:
        self.judge_of, self.right, self.is_warned = judge, right, False

    def judge(self, text: str) -> Verdict:
        verdict = self.judge_of.judge(text)
        if verdict.outcome is Outcome.WRONG and not self.is_warned:
            return Verdict(Outcome.ACCEPTED, "", None, ("also",), verdict.program)
        return verdict

    def distinguish(self, candidates, names) -> str:
        self.is_warned = True
        return f"{', '.join(names)} differ on M=1"


def test_an_input_that_tells_candidates_apart_is_heeded(tmp_path: Path) -> None:
    task, judge = task_of(causal, tensors())
    right, wrong = good_text(task), planted(good_text(task), "mask edge")
    ambiguous = type(task)(
        **{**{f: getattr(task, f) for f in task.__dataclass_fields__}, "judge": Suspicious(judge, right)}
    )
    plays = by_model(a=in_turn(fenced(right)), b=in_turn(fenced(wrong)), c=in_turn(fenced(wrong)))
    with serving(plays) as server:
        made = engine(server.url, tmp_path, **THREE, samples=2, rounds=1).transfer(ambiguous)
    assert print_program(made.program) == right
    assert any(note.endswith("; b and c, a differ on M=1") for note in made.notes)


def test_of_what_is_right_the_cheapest_is_taken(task, tmp_path: Path) -> None:
    slow = good_text(task)
    quick = slow.replace("tiles(N, 16", "tiles(N, 32")
    assert quick != slow
    plays = by_model(a=in_turn(fenced(slow)), b=in_turn(fenced(quick)))
    with serving(plays) as server:
        known = settings(server.url, tmp_path, models=("a", "b"), thresholds=Thresholds())
        made = ModelEngine(known, rank=lambda program: -print_program(program).count("32")).transfer(task)
        other = ModelEngine(known, rank=lambda program: print_program(program).count("32")).transfer(task)
        ranked: list[str] = []
        plays_same = ModelEngine(replace(known, models=("a",)), rank=lambda program: float(ranked.append("asked") or 0))
        assert print_program(plays_same.transfer(task).program) == slow
        first = ModelEngine(known).transfer(task)
    assert print_program(made.program) == quick
    assert print_program(other.program) == print_program(first.program) == slow
    assert ranked == [], "one text needs no ranking"


def test_money_stops_the_asking(task, tmp_path: Path) -> None:
    wrong = planted(good_text(task), "tail")
    prices = {"good": Price(prompt=1000.0, completion=1000.0)}
    with serving(in_turn(fenced(wrong))) as server, pytest.raises(TransferFailed, match="limit of 20 money is reached"):
        engine(server.url, tmp_path, prices=prices, money=20.0, requests=10**6, rounds=100, max_tokens=1000).transfer(
            task
        )
    assert 0 < len(server.requests) < 60  # 0.15 each, and some 15 reserved for the next one
    with pytest.raises(SettingError, match="needs the price of every model; b has none"):
        engine(
            "http://127.0.0.1:1/v1", tmp_path, prices=prices, limits=Limits(money=1.0), models=("good", "b")
        ).transfer(task)
