"""C++ text of additions of a tile's elements at places of their own, and of sums of tiles of one element a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ...ir.dtypes import Kind
from ...ir.errors import LoweringError
from ...ir.expr import Expr
from ...ir.printer import print_statement
from ...ir.program import Program, Reduce, ScatterAdd, statements
from ...ir.shapes import Shapes
from .expressions import Lanes, Term, emit, identifier, widen
from .sweeps import RunWriter

if TYPE_CHECKING:
    from .body import BodyWriter


def needs_scatter(program: Program, shapes: Shapes) -> bool:
    """Whether a program scatters, or sums whole tiles."""
    return any(isinstance(s, ScatterAdd) or is_whole_sum(s, shapes) for s in statements(program.body))


def is_whole_sum(statement: object, shapes: Shapes) -> bool:
    """Whether a reduction leaves a scalar."""
    return isinstance(statement, Reduce) and not shapes.names[statement.name].axes


def whole_sum(w: BodyWriter, s: Reduce) -> None:
    """A tile of one element a row, summed."""
    if s.op != "sum":
        raise LoweringError(f"{print_statement(s)}: the cpu target sums whole tiles; it finds no greatest element")
    name = identifier(s.name)
    declared = "" if s.name in w.declared else "float "
    w.declared.add(s.name)
    w.add(f"{declared}{name} = sum_of_rows({identifier(s.source)}, {w.valid(s.axis)});")
    w.scalars[s.name] = Term(name, Kind.FLOAT)


def scatter_add(w: BodyWriter, s: ScatterAdd) -> None:
    """Rows in turn, W elements of a row at a time; or W rows at a time where a row has one element."""
    axes = w.frame.shapes.axes(s.value)
    if len(axes) > 2:
        raise LoweringError(f"{print_statement(s)}: the cpu target scatters rows x columns, not axes {list(axes)}")
    row, axis = axes[0], axes[-1]
    writer = RunWriter(w.frame, w.scalars, w.ragged, w._indent())
    inner: list[str] = []
    depth = len(axes)
    indent = w._indent() + "    " * depth

    def term(value: Expr) -> Term:
        return emit(value, _lanes(writer, value, axes), indent, inner, w.frame.names)

    at, offset = _place(s, w.frame.shapes, term)
    value = widen(term(s.value)).text
    exists = f"lanes_below({w.valid(axis)} - {'c * W' if depth == 2 else 'r'})"
    if s.where is not None:
        exists += f" & ({widen(term(s.where)).text})"
    w.add(f"for (int r = 0; r < {w.valid(row)}; {'++r' if depth == 2 else 'r += W'}) {{")
    if depth == 2:
        w.add(f"    for (int c = 0; c * W < {w.valid(axis)}; ++c) {{")
    w.lines += inner
    w.lines.append(f"{indent}scatter_add({at}, {offset}, {value}, {exists});")
    for nested in reversed(range(depth)):
        w.add("    " * nested + "}")


def _lanes(writer: RunWriter, value: Expr, axes: tuple[str, ...]) -> Lanes:
    """Names as vectors along the last axis: of row r, or over rows r … r + W - 1."""
    row, axis = axes[0], axes[-1]
    lanes = writer.across_lanes(row if len(axes) == 2 else None, axis, value, {}, "r")
    if len(axes) == 2:
        return lanes
    terms = {name: Term(term.text.replace("c * W", "r"), term.kind, term.wide) for name, term in lanes.terms.items()}
    count = None if lanes.count is None else lanes.count.replace("c * W", "r")
    return Lanes(terms, {}, axis, f"{axis}0 + r", count, is_aligned=True)


def _place(s: ScatterAdd, shapes: Shapes, term: Callable[[Expr], Term]) -> tuple[str, str]:
    """C++ text of the address that lanes count from, and of their offsets; kept inside the memory."""
    name = f"a.{identifier(s.target.name)}"
    first, offsets = [], []
    for position, item in enumerate(s.target.indices):
        assert isinstance(item, Expr)
        found = term(item)
        kept = f"{name}.inside({position}, {found.text})"
        first.append("0" if found.wide else kept)
        if found.wide:
            offsets.append(f"{kept} * vi(int({name}.stride[{position}]))")
    return f"{name}.at({', '.join(first)})", " + ".join(offsets) or "vi(0)"


__all__ = ["is_whole_sum", "needs_scatter", "scatter_add", "whole_sum"]
