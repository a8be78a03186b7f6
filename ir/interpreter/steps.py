"""A program as steps: every statement with its line, consecutive roles gathered into one team."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ProgramLine
from ..printer import Listing, Path, listing
from ..program import (
    Block,
    Fill,
    Gemm,
    Let,
    Load,
    Program,
    Reduce,
    Role,
    Statement,
)  # fmt: skip

BINDERS = (Load, Fill, Let, Gemm, Reduce)


@dataclass(frozen=True, slots=True)
class Team:
    """Roles that follow each other: their workers run concurrently."""

    roles: tuple[Step, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A statement (or a team of roles), the line where it stands, and the steps of its body."""

    statement: Statement | Team
    line: ProgramLine
    body: tuple[Step, ...] = ()


def steps_of(program: Program) -> tuple[Step, ...]:
    """The program's body."""
    return _steps(program.body, (), listing(program))


def _steps(body: tuple[Statement, ...], path: Path, text: Listing) -> tuple[Step, ...]:
    steps: list[Step] = []
    team: list[Step] = []
    for position, statement in enumerate(body):
        here = (*path, position)
        line = ProgramLine(text.statement_lines[here], text.line(here))
        inner = _steps(statement.body, here, text) if isinstance(statement, Block) else ()
        step = Step(statement, line, inner)
        if isinstance(statement, Role):
            team.append(step)
            continue
        _close(team, steps)
        steps.append(step)
    _close(team, steps)
    return tuple(steps)


def _close(team: list[Step], steps: list[Step]) -> None:
    if team:
        steps.append(Step(Team(tuple(team)), team[0].line))
        team.clear()


def parameter_lines(program: Program) -> dict[str, ProgramLine]:
    """The line that declares each parameter."""
    lines = listing(program).lines
    first = next(number for number, line in enumerate(lines) if line.startswith("def ")) + 1
    return {p.name: ProgramLine(first + n + 1, lines[first + n].strip()) for n, p in enumerate(program.params)}


def binding_lines(steps: tuple[Step, ...]) -> dict[str, ProgramLine]:
    """The first line that gives each name a value."""
    found: dict[str, ProgramLine] = {}
    for step in steps:
        statement = step.statement
        if isinstance(statement, BINDERS):
            found.setdefault(statement.name, step.line)
        inner = statement.roles if isinstance(statement, Team) else step.body
        for name, line in binding_lines(inner).items():
            found.setdefault(name, line)
    return found
