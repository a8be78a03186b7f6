"""C++ text of tile loops: which tiles a row tile visits, from the loop plan of the domain analysis."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.domain import LoopPlan, Summary, plan, question_of
from ...ir.dtypes import Kind
from ...ir.errors import LoweringError
from ...ir.expr import Expr, free_vars, loads, var
from ...ir.printer import print_statement
from ...ir.program import Program, TileLoop, statements
from ...ir.shapes import Shapes
from ...ir.spec import SIZES
from .expressions import Lanes, Names, Term, emit, identifier


@dataclass(frozen=True, slots=True)
class Domain:
    """A tile loop's plan. `row` is the tile variable whose rows it is about (None: a single row)."""

    plan: LoopPlan
    row: str | None
    row_name: str  # the predicate's names of row and column
    column_name: str

    @property
    def has_whole_tiles(self) -> bool:
        """Whether some tile may be whole."""
        return self.plan.full_lo is not self.plan.full_hi


def domain_of(loop: TileLoop, program: Program, shapes: Shapes) -> Domain | None:
    """The plan of a loop with `where=`; None for a loop over everything."""
    if loop.where is None:
        return None
    try:
        asked = question_of(loop, program)
    except ValueError as error:
        raise LoweringError(f"{print_statement(loop)}: {error}") from None
    assert asked is not None
    row_tile = shapes.tiles[asked.row].tile if asked.row else 1
    is_local = is_run_time(loop.tiles.extent, program)
    extent = var(f"{identifier(loop.name)}_extent") if is_local else loop.tiles.extent
    found = plan(
        asked.predicate, row_tile, loop.tiles.tile, row=asked.row_name, column=asked.column_name, extent=extent
    )
    return Domain(found, asked.row, asked.row_name, asked.column_name)


def is_run_time(extent: Expr, program: Program) -> bool:
    """Whether only a grid's instances know an extent: it is no expression of sizes."""
    sizes = {*SIZES, *program.fixed, *program.free_sizes}
    sizes |= {dim for param in program.params for dim in param.dims if isinstance(dim, str)}
    return bool(loads(extent)) or not free_vars(extent) <= sizes


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
        if self.extent == f"{identifier(self.loop.name)}_extent":
            self._add(f"const int {self.extent} = {self._scalar(self.loop.tiles.extent, 1)};", 1)
            self.scalars[self.extent] = Term(self.extent, Kind.INT)
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

    @property
    def end(self) -> str:
        """C++ text of the number after the last tile."""
        return self._range()[1]

    def tell_whole(self, name: str, nested: int) -> None:
        """A truth value of that name: whether the current tile is whole."""
        assert self.domain is not None
        must = self._scalar(self.domain.plan.must_rest, nested)
        self._add(f"const bool {name} = {self._is_whole(identifier(self.loop.name), must)};", nested)

    def _is_whole(self, n: str, must: str) -> str:
        inside = f"{n} >= full_lo && {n} < full_hi"
        return inside if must == "true" else f"{inside} && ({must})"

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
        if self.loop.part == "partial" and self.domain.has_whole_tiles:
            self._add(f"if ({self._is_whole(n, must)}) continue;", nested + 1)
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
