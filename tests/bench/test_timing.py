"""Interleaving with a clock that only moves when a run says so."""

from __future__ import annotations

import pytest

from tilewright.bench.timing import Rounds, WallTimer, interleave


class Machine:
    """A clock, and runs that move it by what they cost and note that they ran."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ran: list[str] = []

    def clock(self) -> float:
        return self.now

    def run(self, name: str, seconds: float):
        def once() -> None:
            self.ran.append(name)
            self.now += seconds

        return once


@pytest.fixture
def machine() -> Machine:
    return Machine()


def measured(machine: Machine, rounds: Rounds, **costs: float) -> dict[str, list[float]]:
    runs = {name: machine.run(name, seconds) for name, seconds in costs.items()}
    return interleave(runs, rounds, WallTimer(machine.clock), machine.clock)


def test_every_round_runs_everything_once(machine: Machine) -> None:
    samples = measured(machine, Rounds(budget_s=0, least=6, warmups=0), a=0.25, b=0.5, c=1.0)
    rounds = [machine.ran[i : i + 3] for i in range(0, len(machine.ran), 3)]
    assert [sorted(names) for names in rounds] == [["a", "b", "c"]] * 6
    assert samples == {"a": [0.25] * 6, "b": [0.5] * 6, "c": [1.0] * 6}


def test_the_order_changes_and_the_seed_fixes_it(machine: Machine) -> None:
    def order(seed: int) -> list[str]:
        machine.ran.clear()
        measured(machine, Rounds(budget_s=0, least=8, warmups=0, seed=seed), a=1, b=1, c=1)
        return list(machine.ran)

    first = order(1)
    assert len({tuple(first[i : i + 3]) for i in range(0, len(first), 3)}) > 1
    assert order(1) == first
    assert order(2) != first


def test_warmups_are_not_samples(machine: Machine) -> None:
    samples = measured(machine, Rounds(budget_s=0, least=2, warmups=3), a=1.0)
    assert machine.ran == ["a"] * 5
    assert samples == {"a": [1.0, 1.0]}


@pytest.mark.parametrize(
    ("rounds", "wanted"),
    [
        (Rounds(budget_s=10.0, least=1, most=100, warmups=0), 5),
        (Rounds(budget_s=10.0, least=8, most=100, warmups=0), 8),
        (Rounds(budget_s=10.0, least=1, most=3, warmups=0), 3),
    ],
    ids=["budget", "least", "most"],
)
def test_rounds_adapt_to_the_budget(machine: Machine, rounds: Rounds, wanted: int) -> None:
    assert len(measured(machine, rounds, a=1.5, b=0.5)["a"]) == wanted


def test_warmups_do_not_spend_the_budget(machine: Machine) -> None:
    assert len(measured(machine, Rounds(budget_s=2.0, least=1, warmups=50), a=1.0)["a"]) == 2


def test_a_sample_is_seconds_per_call(machine: Machine) -> None:
    samples = measured(machine, Rounds(budget_s=0, least=1, warmups=0, calls=40), a=0.125)
    assert samples == {"a": [0.125]}
    assert len(machine.ran) == 40


def test_nothing_to_run(machine: Machine) -> None:
    assert measured(machine, Rounds()) == {}
