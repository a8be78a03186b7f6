"""C++ text of tile loops: which tiles a row tile visits, from the loop plan of the domain analysis."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.domain import LoopPlan, Summary, plan
from ...ir.errors import LoweringError
from ...ir.expr import Expr, Op, const, substitute
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
    tensor: str = ""


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
    """Writes the head of a tile loop: bounds, order, and the tests that skip tiles."""

    scalars: dict[str, Term]
    names: Names
    indent: str
    lines: list[str]

    def write(self, loop: TileLoop, domain: Domain | None, extent: str) -> None:
        """Everything up to the first statement of the body; opens two blocks (the bounds' scope and the loop)."""
        n, tile = identifier(loop.name), loop.tiles.tile
        self._add("{  // " + print_statement(loop).removesuffix(":"))
        if domain is None:
            self._head(loop, "0", f"ceil_div({extent}, {tile})")
            return
        self._bounds(domain)
        is_full = loop.part == "full"
        self._head(loop, *(("full_lo", "full_hi") if is_full else ("lo", "hi")))
        self._box(domain, n, tile, extent)
        rest, must = self._test(domain.plan.may_rest), self._test(domain.plan.must_rest)
        if is_full:
            self._skip_unless(must)
            return
        if loop.part == "partial" and domain.plan.full_lo is not domain.plan.full_hi:
            inside = f"{n} >= full_lo && {n} < full_hi"
            self._add(f"if ({inside}{'' if must == 'true' else f' && ({must})'}) continue;", 2)
        self._skip_unless(rest)

    def _add(self, text: str, nested: int = 0) -> None:
        self.lines.append(self.indent + "    " * nested + text)

    def _bounds(self, domain: Domain) -> None:
        row, name = domain.row, domain.row_name
        if row is not None:
            self._add(f"const int {name}_lo = {row}0, {name}_hi = {row}0 + {row}_rows - 1, {name}_tile = {row};", 1)
            self._add(f"(void){name}_lo, (void){name}_hi, (void){name}_tile;", 1)
            for suffix in ("lo", "hi", "tile"):
                self.scalars[f"{name}_{suffix}"] = Term(f"{name}_{suffix}", const(0).kind)
        for bound, value in domain.plan.assignments:
            self._add(f"const int {bound} = {self._scalar(value)};", 1)
            self.scalars[bound] = Term(bound, const(0).kind)
        self._add("(void)lo, (void)hi, (void)full_lo, (void)full_hi;", 1)

    def _head(self, loop: TileLoop, low: str, high: str) -> None:
        n = identifier(loop.name)
        if loop.order == "descending":
            self._add(f"for (int {n} = {high} - 1; {n} >= {low}; --{n}) {{", 1)
        else:
            self._add(f"for (int {n} = {low}; {n} < {high}; ++{n}) {{", 1)

    def _box(self, domain: Domain, n: str, tile: int, extent: str) -> None:
        name = domain.column_name
        low, high = f"{n} * {tile}", f"std::min({n} * {tile} + {tile}, {extent}) - 1"
        self.scalars |= {
            f"{name}_lo": Term(f"({low})", const(0).kind),
            f"{name}_hi": Term(f"({high})", const(0).kind),
            f"{name}_tile": Term(n, const(0).kind),
        }

    def _test(self, condition: Expr) -> str:
        return self._scalar(condition, 2)

    def _skip_unless(self, condition: str) -> None:
        if condition != "true":
            self._add(f"if (!({condition})) continue;", 2)

    def _scalar(self, value: Expr, nested: int = 1) -> str:
        return emit(value, Lanes(self.scalars), self.indent + "    " * nested, self.lines, self.names).text
