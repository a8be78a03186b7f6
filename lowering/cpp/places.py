"""C++ text of places in memory: where a reference begins, its strides, and rows at computed places."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.expr import Expr, Op, apply, index, walk
from ...ir.program import All, Index, Ref, TileAxis
from .affine import Page, page_of, step_of
from .expressions import Lanes, Term, emit, identifier
from .sweeps import Frame


@dataclass(slots=True)
class PlaceWriter:
    """Writes addresses of references; lines that they need go to `lines`."""

    frame: Frame
    scalars: dict[str, Term]
    lines: list[str]
    indent: str

    def rows(self, ref: Ref) -> str | None:
        """The tile variable over which indices are computed."""
        return self.frame.shapes.rows_axis(ref)

    def scalar(self, value: Expr, row: str | None = None, at: str = "") -> str:
        """C++ text of a scalar expression; `at` is the index along `row`."""
        indices = {} if row is None else {row: at}
        return emit(value, Lanes(self.scalars, indices), self.indent, self.lines, self.frame.names).text

    def at(self, ref: Ref) -> str:
        """C++ text of the address of a reference's first element."""
        rows = self.rows(ref)
        first = "" if rows is None else f"{identifier(rows)}0"
        items = ", ".join(self._first(item, rows, first) for item in ref.indices)
        return f"a.{identifier(ref.name)}.at({items})"

    def _first(self, item: Index, rows: str | None, first: str) -> str:
        if isinstance(item, TileAxis):
            return f"{identifier(item.name)}0"
        return "0" if isinstance(item, All) else self.scalar(item, rows, first)

    def stride(self, ref: Ref, axis: str) -> str:
        """C++ text of the stride along one axis of a reference."""
        name, rows = identifier(ref.name), self.rows(ref)
        if axis == rows:
            steps = [(p, step_of(item, rows)) for p, item in enumerate(ref.indices) if isinstance(item, Expr)]
            return _sum([f"a.{name}.stride[{p}]" + ("" if k == 1 else f" * {k}") for p, k in steps if k])
        positions = [p for p, item in enumerate(ref.indices) if not isinstance(item, Expr)]
        axes = [a for a in self.frame.shapes.ref_axes(ref) if a != rows]
        return f"a.{name}.stride[{positions[axes.index(axis)]}]"

    def row_at(self, ref: Ref, row: str, r: str) -> str:
        """C++ text of the address of row `r` of the tile, wherever it lies."""
        name, position = identifier(ref.name), f"({identifier(row)}0 + {r})"
        items = []
        for p, item in enumerate(ref.indices):
            if item == TileAxis(row):
                items.append(position)
            elif isinstance(item, Expr) and index(row) in walk(item):
                items.append(f"a.{name}.inside({p}, {self.scalar(item, row, position)})")
            else:
                items.append(self._first(item, row, position))
        return f"a.{name}.at({', '.join(items)})"

    def exists(self, where: Expr | None, row: str, r: str) -> str | None:
        """C++ text of whether row `r` of the tile exists; None when all do."""
        return None if where is None else self.scalar(where, row, f"({identifier(row)}0 + {r})")

    def addresses(self, ref: Ref, where: Expr | None, row: str, dtype: str) -> str:
        """Lines that find every row's address, null where it does not exist; the array's name."""
        name = self.frame.names.fresh(f"{identifier(ref.name)}_rows")
        count, valid = self.frame.shapes.extent(row), f"{identifier(row)}_rows"
        run = page_of(ref, row, self.frame.shapes) if where is None else None
        if run is not None:
            self._page_addresses(ref, (row, name, dtype), run)
            return name
        inner = PlaceWriter(self.frame, self.scalars, [], self.indent + "    ")
        exists = inner.exists(where, row, "r")
        at = inner.row_at(ref, row, "r")
        self.lines.append(f"{self.indent}const {dtype}* {name}[{count}];")
        self.lines.append(f"{self.indent}for (int r = 0; r < {valid}; ++r) {{")
        self.lines += inner.lines
        value = at if exists is None else f"{exists} ? {at} : nullptr"
        self.lines.append(f"{self.indent}    {name}[r] = {value};")
        self.lines.append(f"{self.indent}}}")
        return name

    def _page_addresses(self, ref: Ref, names: tuple[str, str, str], page: Page) -> None:
        """The same for rows in pages: one address is computed a page, the others follow it."""
        row, name, dtype = names
        inner = PlaceWriter(self.frame, self.scalars, [], self.indent + "    ")
        place = f"({identifier(row)}0 + r)"
        at, size = inner.row_at(ref, row, "r"), inner.scalar(page.size)
        within = inner.scalar(apply(Op.MOD, page.place, page.size), row, place)
        step = f"a.{identifier(ref.name)}.stride[{page.dimension}]"
        valid = f"{identifier(row)}_rows"
        first, end = self.frame.names.fresh(f"{name}_first"), self.frame.names.fresh(f"{name}_end")
        self.lines.append(f"{self.indent}const {dtype}* {name}[{self.frame.shapes.extent(row)}];")
        self.lines.append(f"{self.indent}for (int r = 0; r < {valid};) {{")
        self.lines += inner.lines
        self.lines.append(f"{self.indent}    const {dtype}* {first} = {at};")
        self.lines.append(f"{self.indent}    const int {end} = std::min({valid}, r + std::max(1, {size} - {within}));")
        self.lines.append(f"{self.indent}    for (; r < {end}; ++r, {first} += {step}) {name}[r] = {first};")
        self.lines.append(f"{self.indent}}}")


def _sum(parts: list[str]) -> str:
    if not parts:
        return "0"
    return parts[0] if len(parts) == 1 else f"({' + '.join(parts)})"
