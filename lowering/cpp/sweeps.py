"""C++ text of runs: one loop over groups of W rows, with its across and down sweeps."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ...ir.dtypes import DType, Kind
from ...ir.errors import LoweringError
from ...ir.expr import Expr, Op, loads, walk
from ...ir.program import Let, Reduce
from ...ir.shapes import Shapes
from .expressions import SCALAR, VECTOR, Lanes, Names, Term, as_float, emit, identifier, widen
from .hoist import Hoisted, hoist
from .prepare import tile_of
from .rows import Run, Sweep, drop_unread, recompute_cheap, scale_after_maximum, unswitched
from .storage import Storage

# combine two vectors, finish W rows, start
COMBINE = {
    "max": ("max({0}, {1})", "max_across", "-INFINITY"),
    "sum": ("{0} + {1}", "sum_across", "0.0f"),
}


@dataclass(frozen=True, slots=True)
class Frame:
    """What stays the same while one grid's body is written."""

    storage: Storage
    buffers: frozenset[str]  # tiles with memory of their own
    extents: dict[str, str]  # tile variable -> C++ text of its dimension's size
    names: Names
    has_whole_tiles: bool = False  # whether some tiles are computed without a mask that others of the grid have

    @property
    def shapes(self) -> Shapes:
        """Types of all names."""
        return self.storage.shapes


@dataclass(slots=True)
class RunWriter:
    """Writes one run. `scalars`: C++ of scalar names; `ragged`: tile axes that may reach past their dimension."""

    frame: Frame
    scalars: dict[str, Term]
    ragged: frozenset[str]
    indent: str
    lines: list[str] = field(default_factory=list)
    rows: dict[str, Term] = field(default_factory=dict)  # per-row values bound in this run: vectors over W rows
    known: dict[str, Term] = field(default_factory=dict)  # values per column, the same for all rows
    stashed: frozenset[str] = frozenset()  # wide values kept as x[W][vectors] from sweep to sweep
    coarse: frozenset[str] = frozenset()  # exponentials that are only needed to bfloat16 precision

    def write(self, run: Run) -> list[str]:
        """The lines of the whole run, twice where one truth value decides conditions in it."""
        cases = unswitched(run, self.frame.shapes)
        if cases is None:
            return self._write(run)
        condition, where_true, where_false = cases
        test = emit(condition, Lanes(self.scalars), self.indent, self.lines, self.frame.names).text
        before, tile = (self.scalars, self.known, self.ragged), tile_of(condition)
        self._add(f"if ({test}) {{")
        self.known, self.ragged = dict(self.known), self.ragged - {tile}
        self._write(where_true)
        self._add("} else {")
        (self.scalars, self.known, self.ragged), self.rows = before, {}
        self._write(where_false) if tile is None else self.write(where_false)
        self._add("}")
        return self.lines

    def _write(self, run: Run) -> list[str]:
        recompute_cheap(run, has_whole_tiles=self.frame.has_whole_tiles)
        scale_after_maximum(run)
        drop_unread(run, self.frame.buffers)
        self.stashed = frozenset(_crossing(run)) - self.frame.buffers
        self.coarse = frozenset(_rounded(run))
        parts = [self._hoist(run.row, sweep) for sweep in run.sweeps]
        self._add(f"for (int r = 0; r < {run.row}_rows; r += W) {{")
        for sweep, hoisted in zip(run.sweeps, parts, strict=True):
            if sweep.axis is None:
                self._down(run.row, sweep)
            else:
                self._across(run.row, sweep.axis, sweep, hoisted)
        self._add("}")
        return self.lines

    def _add(self, text: str, nested: int = 0) -> None:
        self.lines.append(self.indent + "    " * nested + text)

    def _hoist(self, row: str, sweep: Sweep) -> Hoisted:
        """Take what does not vary over the sweep's elements out of it, and compute what does not vary over rows."""
        found, axis = Hoisted(), sweep.axis
        if axis is None:
            return found
        for position, statement in enumerate(sweep.statements):
            if isinstance(statement, Let):
                value = hoist(statement.value, axis, self.frame.shapes, found, self.frame.names.fresh)
                sweep.statements[position] = replace(statement, value=value)
        for value, name in found.once.items():
            term = emit(value, Lanes(self.scalars), self.indent, self.lines, self.frame.names)
            self._add(f"const {SCALAR[value.kind]} {name} = {term.text};")
            self.scalars = {**self.scalars, name: Term(name, value.kind)}
        if found.columns:
            self._hoist_columns(row, axis, found.columns)
        return found

    def _hoist_columns(self, row: str, axis: str, columns: dict[Expr, str]) -> None:
        vectors = self.frame.storage.vectors(axis)
        for value, name in columns.items():
            self._add(f"{VECTOR[value.kind]} {name}[{vectors}];")
        self._add(f"TW_UNROLL for (int c = 0; c < {vectors}; ++c) {{")
        for value, name in columns.items():
            lanes = self.across_lanes(row, axis, value, {}, "r")
            term = widen(emit(value, lanes, self.indent + "    ", self.lines, self.frame.names))
            self._add(f"{name}[c] = {term.text};", 1)
            self.known[name] = Term(f"{name}[c]", value.kind, wide=True)
        self._add("}")

    # down: one row per lane

    def _down(self, row: str, sweep: Sweep) -> None:
        for statement in sweep.statements:
            assert isinstance(statement, Let)
            self._bind_rows(statement.name, self.down(row, statement.value, 1))

    def down(self, row: str, value: Expr, nested: int) -> Term:
        """A per-row expression as a vector over rows r … r + W - 1."""
        terms = dict(self.scalars)
        for node in walk(value):
            name = str(node.attr)
            if node.op is Op.VAR and name not in terms:
                terms[name] = self.rows.get(name) or Term(f"load({identifier(name)} + r)", node.kind, wide=True)
        count = f"{row}_rows - r" if loads(value) else None
        lanes = Lanes(terms, {}, row, f"{row}0 + r", count)
        term = widen(emit(value, lanes, self.indent + "    " * nested, self.lines, self.frame.names))
        return as_float(term) if value.kind is Kind.FLOAT else term

    def _bind_rows(self, name: str, term: Term) -> None:
        local = identifier(name)
        is_buffer = name in self.frame.buffers
        if is_buffer and term.text.isidentifier():
            self._add(f"store({local} + r, {term.text});", 1)
            self.rows[name] = term
            return
        if is_buffer:
            if term.kind is Kind.BOOL:
                raise LoweringError(f"{name}: the cpu target keeps no tile of truth values; use it at once")
            local = self.frame.names.fresh(f"{local}_next")
        self._add(f"const {VECTOR[term.kind]} {local} = {term.text};", 1)
        if is_buffer:
            self._add(f"store({identifier(name)} + r, {local});", 1)
        self.rows[name] = Term(local, term.kind, wide=True)

    # across: each row in turn

    def _across(self, row: str, axis: str, sweep: Sweep, hoisted: Hoisted) -> None:
        reductions = [s for s in sweep.statements if isinstance(s, Reduce)]
        vectors = self.frame.storage.vectors(axis)
        self._across_head(sweep, reductions, vectors)
        spread = self._spread(sweep)
        self._add(f"for (int u = 0; u < W && r + u < {row}_rows; ++u) {{", 1)
        for reduction in reductions:
            start = COMBINE[reduction.op][2]
            self._add(f"vf {identifier(reduction.name)}_row[2] = {{{start}, {start}}};", 2)
        rounded = [s.name for s in sweep.statements if isinstance(s, Let) and self._rounds_on_store(s)]
        for name in rounded:
            self._add(f"vf {identifier(name)}_row[{vectors}];", 2)
        for value, local in hoisted.rows.items():
            lanes = self.across_lanes(row, axis, value, spread, "r + u")
            term = emit(value, lanes, self.indent + "        ", self.lines, self.frame.names)
            self._add(f"const {SCALAR[value.kind]} {local} = {term.text};", 2)
            spread[local] = Term(local, value.kind)
        self._add(f"TW_UNROLL for (int c = 0; c < {vectors}; ++c) {{", 2)
        values: dict[str, Term] = dict(self.known)
        for statement in sweep.statements:
            if isinstance(statement, Reduce):
                self._gather(statement, values)
            else:
                self._bind_wide(statement, self.across(row, axis, statement, spread, values), values)
        self._add("}", 2)
        for reduction in reductions:
            name = identifier(reduction.name)
            both = COMBINE[reduction.op][0].format(f"{name}_row[0]", f"{name}_row[1]")
            self._add(f"{name}_lanes[u] = {both};", 2)
        for name in rounded:
            local = identifier(name)
            self._add(f"store_row({local} + (r + u) * {self.frame.storage.stride(name)}, {local}_row);", 2)
        self._add("}", 1)
        for reduction in reductions:
            finish = f"{COMBINE[reduction.op][1]}({identifier(reduction.name)}_lanes)"
            self._bind_rows(reduction.name, Term(finish, Kind.FLOAT, wide=True))

    def _across_head(self, sweep: Sweep, reductions: list[Reduce], vectors: str) -> None:
        for statement in sweep.statements:
            if statement.name in self.stashed and isinstance(statement, Let):
                kind = VECTOR[statement.value.kind]
                self._add(f"{kind} {identifier(statement.name)}[W][{vectors}];", 1)
        for reduction in reductions:
            self._add(f"vf {identifier(reduction.name)}_lanes[W] = {{}};", 1)

    def _spread(self, sweep: Sweep) -> dict[str, Term]:
        """Write per-row vectors that an across sweep reads to memory, so that it reads one scalar a row."""
        spread: dict[str, Term] = {}
        values = [s.value for s in sweep.statements if isinstance(s, Let)]
        for node in (node for value in values for node in walk(value)):
            name = str(node.attr)
            if node.op is not Op.VAR or name not in self.rows or name in spread:
                continue
            kind = self.rows[name].kind
            array = self.frame.names.fresh(f"{identifier(name)}_of")
            self._add(f"alignas(64) {'float' if kind is Kind.FLOAT else 'std::int32_t'} {array}[W];", 1)
            self._add(f"store({array}, {self.rows[name].text});", 1)
            spread[name] = Term(f"{array}[u]", kind)
        return spread

    def _gather(self, reduction: Reduce, values: dict[str, Term]) -> None:
        total = f"{identifier(reduction.name)}_row[c % 2]"
        value = values.get(reduction.source) or self._wide_name(reduction.source, "r + u")
        self._add(f"{total} = {COMBINE[reduction.op][0].format(total, value.text)};", 3)

    def across(
        self, row: str, axis: str, statement: Let, spread: dict[str, Term], values: dict[str, Term]
    ) -> Term:
        """A statement's value as a vector along `axis`, of row r + u."""
        lanes = self.across_lanes(row, axis, statement.value, {**spread, **values}, "r + u")
        lanes.coarse_exp2 = statement.name in self.coarse
        value = statement.value
        if self._rounds_on_store(statement):
            value = value.args[0]
        return widen(emit(value, lanes, self.indent + "            ", self.lines, self.frame.names))

    def _rounds_on_store(self, statement: Let) -> bool:
        """Whether the tile's memory holds the type that the outermost cast rounds to."""
        storage, name = self.frame.storage, statement.name
        return statement.value.op is Op.CAST and name in storage.operand and name not in storage.others

    def across_lanes(self, row: str | None, axis: str, value: Expr, known: dict[str, Term], at: str) -> Lanes:
        """Names as vectors along `axis`; `at` is the C++ text of the row in the tile."""
        terms = dict(self.scalars)
        for node in walk(value):
            name = str(node.attr)
            if node.op is not Op.VAR or name in terms:
                continue
            if name in known:
                terms[name] = known[name]
                continue
            axes = self.frame.shapes.names[name].axes
            if len(axes) > 1 and axes[-1] != axis:
                raise LoweringError(f"{name}: the cpu target mixes no tiles of axes {list(axes)} with their transposes")
            if axes == (axis,):
                terms[name] = Term(f"load({identifier(name)} + c * W)", node.kind, wide=True)
            elif len(axes) == 1:
                terms[name] = Term(f"{identifier(name)}[{at}]", node.kind)
            else:
                terms[name] = self._wide_name(name, at)
        has_loads = bool(loads(value))
        indices = {}
        if row in self.frame.extents:
            position = f"{row}0 + {at}"
            indices[str(row)] = f"std::min({position}, {self.frame.extents[row]} - 1)" if has_loads else f"({position})"
        first = f"{axis}0 + c * W" if axis in self.frame.extents else "c * W"
        count = f"{self.frame.extents[axis]} - ({first})" if axis in self.ragged and has_loads else None
        return Lanes(terms, indices, axis, first, count, is_aligned=axis in self.frame.extents)

    def _wide_name(self, name: str, at: str) -> Term:
        local, kind = identifier(name), self.frame.shapes.names[name].dtype.kind
        if name in self.stashed:
            return Term(f"{local}[u][c]", kind, wide=True)
        if name not in self.frame.buffers:
            raise LoweringError(f"{name} is read where the cpu target has not computed it")
        return Term(f"load({local} + ({at}) * {self.frame.storage.stride(name)} + c * W)", kind, wide=True)

    def _bind_wide(self, statement: Let, term: Term, values: dict[str, Term]) -> None:
        name, local = statement.name, identifier(statement.name)
        if name in self.stashed:
            self._add(f"{local}[u][c] = {term.text};", 3)
            values[name] = Term(f"{local}[u][c]", term.kind, wide=True)
            return
        if self._rounds_on_store(statement):
            self._add(f"{local}_row[c] = {term.text};", 3)
            values[name] = Term(f"{local}_row[c]", term.kind, wide=True)
            return
        is_buffer = name in self.frame.buffers
        shadow = self.frame.names.fresh(f"{local}_c") if is_buffer else local
        self._add(f"const {VECTOR[term.kind]} {shadow} = {term.text};", 3)
        if is_buffer:
            self._add(f"store({local} + (r + u) * {self.frame.storage.stride(name)} + c * W, {shadow});", 3)
        values[name] = Term(shadow, term.kind, wide=True)


def _crossing(run: Run) -> set[str]:
    """Wide names that a later sweep than their own reads."""
    home: dict[str, int] = {}
    found: set[str] = set()
    for number, sweep in enumerate(run.sweeps):
        for statement in sweep.statements:
            reads = {statement.source} if isinstance(statement, Reduce) else _names(statement.value)
            found |= {name for name in reads if home.get(name, number) < number}
            if isinstance(statement, Let) and sweep.axis is not None:
                home[statement.name] = number
    return found


def _rounded(run: Run) -> set[str]:
    """Names whose value is rounded to bfloat16 in the run, as it is or as a factor."""
    lets = {s.name: s.value for sweep in run.sweeps for s in sweep.statements if isinstance(s, Let)}
    casts = [value.args[0] for value in lets.values() if value.op is Op.CAST and value.attr is DType.BF16]
    found: set[str] = set()
    for value in casts:
        found |= {str(factor.attr) for factor in _factors(value) if factor.op is Op.VAR}
    scaled = [factor for name in found if name in lets for factor in _factors(lets[name])]
    return found | {str(factor.attr) for factor in scaled if factor.op is Op.VAR}


def _factors(value: Expr) -> list[Expr]:
    return [part for arg in value.args for part in _factors(arg)] if value.op is Op.MUL else [value]


def _names(value: Expr) -> set[str]:
    return {str(node.attr) for node in walk(value) if node.op is Op.VAR}
