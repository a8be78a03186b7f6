"""C++ text of tile loops: which tiles a row tile visits, from the loop plan of the domain analysis."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.domain import LoopPlan, Summary, plan
from ...ir.dtypes import Kind
from ...ir.errors import LoweringError
from ...ir.expr import Expr, Op, substitute
from ...ir.printer import print_statement
from ...ir.program import Program, TileLoop, statements
from ...ir.shapes import Shapes
from .expressions import Lanes, Names, Term, emit, identifier


@dataclass(frozen=True, slots=True)
class Domain:
    """A tile loop's plan. `row` is the tile variable whose rows it is about (None: a single row)."""

    plan: LoopPlan
    row: str | None
    row_name: str  # the predicate's names of row and column
    column_name: str


def domain_of(loop: TileLoop, program: Program, shapes: Shapes) -> Domain | None:
    """The plan of a loop with `where=`; None for a loop over everything."""
    if loop.where is None:
        return None
    region = program.region(str(loop.where.attr))
    names = [param.name for param in region.params]
    args = dict(zip(names, loop.where.args, strict=True))
    tiles = {name: str(arg.attr) for name, arg in args.items() if arg.op is Op.VAR and arg.attr in shapes.tiles}
    columns = [name for name, tile in tiles.items() if tile == loop.name]
    rows = [name for name, tile in tiles.items() if tile != loop.name]
    if len(columns) != 1 or len(rows) > 1:
        raise LoweringError(f"{print_statement(loop)}: `where` takes this loop's tile variable and at most one other")
    predicate = substitute(region.body, {name: arg for name, arg in args.items() if name not in tiles})
    row_tile = shapes.tiles[tiles[rows[0]]].tile if rows else 1
    row_name = rows[0] if rows else "row"
    found = plan(
        predicate, row_tile, loop.tiles.tile, row=row_name, column=columns[0], extent=loop.tiles.extent
    )
    return Domain(found, tiles[rows[0]] if rows else None, row_name, columns[0])


def summaries_of(program: Program, shapes: Shapes) -> dict[str, Summary]:
    """Every summary table that the program's loops read, by name."""
    domains = (domain_of(s, program, shapes) for s in statements(program.body) if isinstance(s, TileLoop))
    return {summary.name: summary for domain in domains if domain for summary in domain.plan.summaries}


@dataclass(slots=True)
class LoopWriter:
    """Writes a tile loop's bounds and the walk over its tiles; opens one block (the scope of the bounds)."""

    scalars: dict[str, Term]
    names: Names
    indent: str
    lines: list[str]
    loop: TileLoop
    domain: Domain | None
    extent: str

    def bounds(self) -> None:
        """The opening brace and the bounds."""
        self._add("{  // " + print_statement(self.loop).removesuffix(":"))
        if self.domain is None:
            return
        row, name = self.domain.row, self.domain.row_name
        if row is not None:
            self._add(f"const int {name}_lo = {row}0, {name}_hi = {row}0 + {row}_rows - 1, {name}_tile = {row};", 1)
            self._add(f"(void){name}_lo, (void){name}_hi, (void){name}_tile;", 1)
            for suffix in ("lo", "hi", "tile"):
                self.scalars[f"{name}_{suffix}"] = Term(f"{name}_{suffix}", Kind.INT)
        for bound, value in self.domain.plan.assignments:
            self._add(f"const int {bound} = {self._scalar(value, 1)};", 1)
            self.scalars[bound] = Term(bound, Kind.INT)
        self._add("(void)lo, (void)hi, (void)full_lo, (void)full_hi;", 1)

    def each(self) -> None:
        """A plain loop over the tiles; opens its block."""
        n, (low, high) = identifier(self.loop.name), self._range()
        self._walk(f"int {n} = {low if self._rises() else f'{high} - 1'}", 1)

    def walk(self) -> tuple[str, str, str]:
        """A function that finds the next tile to visit; C++ of (the first, whether `{}` is one, the one after `{}`)."""
        n, (low, high) = identifier(self.loop.name), self._range()
        find = self.names.fresh("visit")
        self._add(f"const auto {find} = [&](int {n}) {{  // {n}, or the next tile that is in the domain", 1)
        self._walk("", 2)
        self._add(f"return {n};", 3)
        self._add("}", 2)
        self._add(f"return {n};", 2)
        self._add("};", 1)
        if self._rises():
            return f"{find}({low})", f"{{}} < {high}", f"{find}({{}} + 1)"
        return f"{find}({high} - 1)", f"{{}} >= {low}", f"{find}({{}} - 1)"

    def _rises(self) -> bool:
        return self.loop.order != "descending"

    def _range(self) -> tuple[str, str]:
        if self.domain is None:
            return "0", f"ceil_div({self.extent}, {self.loop.tiles.tile})"
        return ("full_lo", "full_hi") if self.loop.part == "full" else ("lo", "hi")

    def _walk(self, start: str, nested: int) -> None:
        """The head of a loop and the tests that skip tiles."""
        n, (low, high) = identifier(self.loop.name), self._range()
        step = f"{n} < {high}; ++{n}" if self._rises() else f"{n} >= {low}; --{n}"
        self._add(f"for ({start}; {step}) {{", nested)
        if self.domain is None:
            return
        self._box(self.domain, n)
        plan = self.domain.plan
        rest, must = (self._scalar(test, nested + 1) for test in (plan.may_rest, plan.must_rest))
        if self.loop.part == "full":
            self._skip_unless(must, nested + 1)
            return
        if self.loop.part == "partial" and plan.full_lo is not plan.full_hi:
            inside = f"{n} >= full_lo && {n} < full_hi"
            self._add(f"if ({inside}{'' if must == 'true' else f' && ({must})'}) continue;", nested + 1)
        self._skip_unless(rest, nested + 1)

    def _box(self, domain: Domain, n: str) -> None:
        name, tile = domain.column_name, self.loop.tiles.tile
        self.scalars |= {
            f"{name}_lo": Term(f"({n} * {tile})", Kind.INT),
            f"{name}_hi": Term(f"(std::min({n} * {tile} + {tile}, {self.extent}) - 1)", Kind.INT),
            f"{name}_tile": Term(n, Kind.INT),
        }

    def _skip_unless(self, condition: str, nested: int) -> None:
        if condition != "true":
            self._add(f"if (!({condition})) continue;", nested)

    def _scalar(self, value: Expr, nested: int) -> str:
        return emit(value, Lanes(self.scalars), self.indent + "    " * nested, self.lines, self.names).text

    def _add(self, text: str, nested: int = 0) -> None:
        self.lines.append(self.indent + "    " * nested + text)
