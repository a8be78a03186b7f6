"""Dropping what a transferred program computes, keeps or defines and nobody reads."""

from __future__ import annotations

from dataclasses import replace

from ..edit import edit_program, eliminate_dead, expressions, references
from ..expr import Expr, Op, loads, walk
from ..program import Alloc, Program, Statement, Store, statements


def drop_unread(program: Program) -> Program:
    """Drop dead computations, buffers that are only written, and regions that nothing calls.

    rewrite:
        peaks = alloc(f32[B, M]); … store(peaks[b, m], peak)      ->      (nothing, when no line reads peaks)
    needs: nothing.
    """
    while True:
        program = eliminate_dead(program)
        unread = unread_buffers(program)
        if not unread:
            return _drop_regions(program)
        program = edit_program(program, lambda s: () if _is_of(s, unread) else s)  # noqa: B023 - called at once


def unread_buffers(program: Program) -> set[str]:
    """Buffers of the program's own that no line reads."""
    found = {s.name for s in program.body if isinstance(s, Alloc)}
    for statement in statements(program.body):
        if not isinstance(statement, Store):
            found -= {ref.name for ref in references(statement)}
        found -= {str(node.attr) for expr in expressions(statement) for node in loads(expr)}
    return found


def _is_of(statement: Statement, buffers: set[str]) -> bool:
    """Whether a statement declares or writes one of the buffers."""
    if isinstance(statement, Alloc):
        return statement.name in buffers
    return isinstance(statement, Store) and statement.target.name in buffers


def _drop_regions(program: Program) -> Program:
    bodies = {region.name: region.body for region in program.regions}
    wanted = [name for s in statements(program.body) for expr in expressions(s) for name in _called(expr)]
    called: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name not in called:
            called.add(name)
            wanted += _called(bodies[name])
    return replace(program, regions=tuple(r for r in program.regions if r.name in called))


def _called(expr: Expr) -> list[str]:
    return [str(node.attr) for node in walk(expr) if node.op is Op.CALL]
