"""What an across sweep need not compute for every element: parts that only rows, or only columns, or neither decide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ...ir.expr import Expr, Op, loads, rebuild, var, walk
from ...ir.shapes import Shapes
from .expressions import is_same_in_all_lanes

PLAIN = frozenset({Op.CONST, Op.VAR, Op.INDEX})
Axes = frozenset[str]


@dataclass(slots=True)
class Hoisted:
    """Named parts of the values of one sweep, each once."""

    once: dict[Expr, str] = field(default_factory=dict)  # scalars
    columns: dict[Expr, str] = field(default_factory=dict)  # a vector per position along the axis
    rows: dict[Expr, str] = field(default_factory=dict)  # a scalar per row


def hoist(value: Expr, axis: str, shapes: Shapes, into: Hoisted, fresh: Callable[[str], str]) -> Expr:
    """The value with its hoisted parts replaced by variables.

    rewrite:
        where(doc[b, i] == doc[b, j], slopes[h] * s, -inf)
        ->  once t = slopes[h]; per column t2 = doc[b, j]; per row t3 = doc[b, i]; where(t3 == t2, t * s, -inf)
    needs: nothing; parts that cost less than they save (an index, a name, a constant) stay where they are.
    """
    if value.op in PLAIN or (axis in shapes.tiles and is_same_in_all_lanes(value, axis)):
        return value
    axes = frozenset(shapes.axes(value))
    table = _table(value, axes, axis, into)
    if table is None:
        return rebuild(value, tuple(hoist(arg, axis, shapes, into, fresh) for arg in value.args))
    if value not in table:
        table[value] = fresh("t")
    return var(table[value], value.kind)


def _table(value: Expr, axes: Axes, axis: str, into: Hoisted) -> dict[Expr, str] | None:
    if not axes:
        return into.once if loads(value) or len(list(walk(value))) > 3 else None
    if axes == {axis}:
        return into.columns
    if axis not in axes and len(axes) == 1 and loads(value):
        return into.rows
    return None
