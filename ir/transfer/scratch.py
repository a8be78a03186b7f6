"""Scratch memory that an instance writes and reads back itself, as kernels do to move a tile between layouts."""

from __future__ import annotations

from dataclasses import replace

from ..dtypes import DType
from ..edit import references
from ..expr import Expr, Op, cast, free_vars, walk
from ..program import Alloc, Block, Fill, Let, Load, Program, Ref, Statement, Store, Sync, statements
from .unread import drop_unread, unread_buffers

__all__ = ["forward_scratch"]


def forward_scratch(program: Program) -> Program:
    """Read a value where it was stored, not from the memory it went through.

    rewrite:
        store(tmp[b, h, m], exp(x))
        y = load(tmp[b, h, m])              ->      y = exp(x)
    Between the two, in one body, nothing else writes the buffer and no name of the place or the value is bound anew.
    Buffers that nothing reads any more go. Rows past the end read zero from memory; they take part in nothing.
    needs: a buffer of the program's own, at one place.
    """
    buffers = {s.name: s.dtype for s in program.body if isinstance(s, Alloc)}
    if not buffers:
        return program
    body = _forwarded(program.body, buffers)
    if body == program.body and not unread_buffers(program):
        return program
    return drop_unread(replace(program, body=body))


def _forwarded(body: tuple[Statement, ...], buffers: dict[str, DType]) -> tuple[Statement, ...]:
    """A body, and the bodies in it, with such loads replaced."""
    known: dict[Ref, Expr] = {}
    out: list[Statement] = []
    for original in body:
        statement = original
        if isinstance(statement, Load) and statement.where is None and statement.source in known:
            statement = Let(statement.name, known[statement.source])
        if isinstance(statement, Block):
            statement = replace(statement, body=_forwarded(statement.body, buffers))
        _forget(known, original)
        if isinstance(original, Store) and original.target.name in buffers and original.where is None:
            known[original.target] = _stored(original.value, buffers[original.target.name])
        out.append(statement)
    return tuple(out)


def _stored(value: Expr, dtype: DType) -> Expr:
    """A value as memory of this element type holds it."""
    return value if dtype is DType.F32 else cast(value, dtype)


def _forget(known: dict[Ref, Expr], statement: Statement) -> None:
    """Drop what a statement makes untrue: values whose memory it writes, or whose names it binds."""
    inside = [statement, *(statements(statement.body) if isinstance(statement, Block) else ())]
    if any(isinstance(s, Sync) for s in inside):
        known.clear()
    written = {ref.name for s in inside if not isinstance(s, (Load, Let, Fill)) for ref in references(s)}
    bound = {name for s in inside for name in _bound(s)}
    for place in list(known):
        names = _names(known[place]) | {n for item in place.indices for n in _names(item)}
        if place.name in written or names & bound:
            del known[place]


def _bound(statement: Statement) -> set[str]:
    names = getattr(statement, "names", None)
    name = getattr(statement, "name", None)
    return set(names) if isinstance(names, tuple) else {name} if isinstance(name, str) else set()


def _names(item: object) -> set[str]:
    """Names that an index or an expression reads, tile variables included."""
    if not isinstance(item, Expr):
        return {str(getattr(item, "name", ""))}
    return set(free_vars(item)) | {str(node.attr) for node in walk(item) if node.op is Op.INDEX}
