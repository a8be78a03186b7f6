"""Computed indices that a stride, or a block of packed memory, describes."""

from __future__ import annotations

from ...ir.domain.linear import Linear
from ...ir.expr import Expr, index, walk
from ...ir.program import Ref
from ...ir.shapes import Shapes


def is_scattered(ref: Ref, where: Expr | None, shapes: Shapes) -> bool:
    """Whether a reference's rows lie at places that no stride describes, or do not all exist."""
    rows = shapes.rows_axis(ref)
    if where is not None or rows is None:
        return where is not None
    return any(step_of(item, rows) is None for item in ref.indices if isinstance(item, Expr))


def step_of(item: Expr, rows: str) -> int | None:
    """What an index grows by from row to row; None when that differs from row to row."""
    form = Linear.of(item)
    if any(index(rows) in walk(atom) for atom, _ in form.without(index(rows)).terms):
        return None
    return form.coefficient(index(rows))


def block_number(item: Expr, rows: str, block: int) -> Expr | None:
    """The number of the block of `block` rows that the tile numbered 0 fills; the tile numbered n fills the n-th after.

    The index is `first + index(rows)` with a multiple of `block` for `first`; None for any other.
    """
    form = Linear.of(item)
    rest = form.without(index(rows))
    if step_of(item, rows) != 1 or rest.constant % block or any(k % block for _, k in rest.terms):
        return None
    return Linear(tuple((atom, k // block) for atom, k in rest.terms), rest.constant // block).expr()
