"""One argument of an interface and its state, as a row of docs/compat.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["REFUSED", "STATES", "WORKS", "Argument", "rows"]

WORKS = "works"
REFUSED = "refused"
STATES = (WORKS, REFUSED)


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument `name` of `function`: `state` is one of STATES, `note` its limits or the reason."""

    interface: str
    function: str
    name: str
    state: str
    note: str = ""

    def __post_init__(self) -> None:
        """A state outside the table is our bug; so is a refusal without its reason."""
        assert self.state in STATES, self
        assert self.note or self.state == WORKS, self


def rows(interface: str, function: str, states: Mapping[str, tuple[str, str]]) -> tuple[Argument, ...]:
    """The arguments of one function, in order: name -> (state, note)."""
    return tuple(Argument(interface, function, name, *state) for name, state in states.items())
