"""Computed indices that a stride, or a block of packed memory, describes."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.domain.linear import Linear
from ...ir.expr import Expr, Op, apply, const, index, transform, var, walk
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


@dataclass(frozen=True, slots=True)
class Page:
    """Rows in pages of `size`: a row's page is `place // size`, its place in it `place % size`, along `dimension`."""

    place: Expr
    size: Expr
    dimension: int


def page_of(ref: Ref, rows: str, shapes: Shapes) -> Page | None:
    """The pages of a reference such as k[table[b, j // Page], j % Page, :]; None for any other.

    The remainder is the whole index of the dimension that the divisor names, and everything else that varies with the
    rows does so by the quotient: rows of one page follow each other along that dimension.
    """
    dims = shapes.dims(ref.name)
    for dimension, item in enumerate(ref.indices):
        if not isinstance(item, Expr) or item.op is not Op.MOD or item.args[1] is not var(dims[dimension]):
            continue
        place, size = item.args
        quotient = apply(Op.FLOORDIV, place, size)
        others = [other for n, other in enumerate(ref.indices) if n != dimension and isinstance(other, Expr)]
        known = [transform(other, lambda e, q=quotient: const(0) if e is q else None) for other in others]  # type: ignore[misc]
        if step_of(place, rows) == 1 and not any(index(rows) in walk(other) for other in known):
            return Page(place, size, dimension)
    return None


def block_number(item: Expr, rows: str, block: int) -> Expr | None:
    """The number of the block of `block` rows that the tile numbered 0 fills; the tile numbered n fills the n-th after.

    The index is `first + index(rows)` with a multiple of `block` for `first`; None for any other.
    """
    form = Linear.of(item)
    rest = form.without(index(rows))
    if step_of(item, rows) != 1 or rest.constant % block or any(k % block for _, k in rest.terms):
        return None
    return Linear(tuple((atom, k // block) for atom, k in rest.terms), rest.constant // block).expr()
