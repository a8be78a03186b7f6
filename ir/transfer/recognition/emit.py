"""The canonical program of what was understood: the expert's grids, loops, tiles and loads, canonical arithmetic.

What it emits is a softmax with the regions `score` and `keep`, whatever the kernel's normaliser: the passes of
`rules.py` put a spec's own into it. Statements that only computed scores and weights are replaced by the lines of
kernels/programs/flash_forward.txt at the place where the weights are first used; the rest keeps its order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from ...algebra import simplify
from ...dtypes import DType, Kind
from ...expr import Expr, Op, apply, call, const, free_vars, index, load, loads, select, substitute, transform, var
from ...printer import Path, print_expr
from ...program import (
    All,
    Fill,
    Gemm,
    Grid,
    If,
    Index,
    Let,
    Load,
    Program,
    RangeLoop,
    Reduce,
    Ref,
    Region,
    RegionParam,
    Statement,
    Store,
    TileAt,
    TileAxis,
    TileLoop,
    Tiles,
    statements,
)  # fmt: skip
from ...spec import MASK_PARAMETERS, SCORE_PARAMETERS
from ..unread import drop_unread
from .coordinates import GROUP
from .cover import least_of
from .forms import replaced
from .lines import LSE, MINUS, closing_lines, f, merging, softmax_lines
from .naming import Naming
from .prover import implies
from .specify import Weighed

ROW_NAMES = frozenset({"h", "i", "j"})
LEAST_ROWS = 16  # of a tile, where the kernel has none


@dataclass(slots=True)
class Emitter(Naming):
    """Emits one program. `parts`: path of a key loop -> part of its domain, None where it is left out."""

    parts: dict[Path, str | None] = field(default_factory=dict)
    sums: set[Path] = field(default_factory=set)
    values: set[Path] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    has_started: bool = False
    has_closed: bool = False

    def program(self) -> Program:
        """The canonical program."""
        u = self.understood
        raw, places = u.walker.program, self.places
        self._plan_loops()
        self.plan_names()
        self.plan_tensors()
        body = self._split_body(raw.body) if self.is_split else self.body(raw.body, ())
        fixed = {k: n for k, n in raw.sizes if k not in places.sizes and k not in ("D", "Dv")}
        sizes = (("D", u.spec.head_dim), ("Dv", u.spec.value_dim), *fixed.items())
        program = Program(raw.name, self.parameters(), body, self._regions(), sizes, raw.free_sizes)
        dropped = drop_unread(program)
        lengths = [r for r in program.regions if r.name in ("rows", "columns") and r not in dropped.regions]
        return replace(dropped, regions=(*lengths, *dropped.regions))

    def _regions(self) -> tuple[Region, ...]:
        """The lengths of sequences, the score, the mask, the mask of a split."""
        keep = call("keep", tuple(var(n) for n in MASK_PARAMETERS), Kind.BOOL)
        score = Region("score", _params(SCORE_PARAMETERS), f("s"))
        regions = [*self._lengths(), score, Region("keep", _params(MASK_PARAMETERS), const(True))]
        if self.is_split:
            size, split = self._in_keys(self.understood.cover.part), var("split")
            piece = keep & (split * size <= var("j")) & (var("j") < split * size + size)
            regions.append(Region("piece", _params((*MASK_PARAMETERS, "split")), piece))
        return tuple(regions)

    def _lengths(self) -> list[Region]:
        """How many rows and columns sequence b has, where sequences have lengths of their own."""
        places, params = self.places, (RegionParam("b", Kind.INT),)
        found = []
        if places.start is not None:
            found.append(Region("rows", params, self.named(self._rows())))
        if places.layout != "dense":
            found.append(Region("columns", params, self.named(self._columns())))
        return found

    def _rows(self) -> Expr:
        """How many rows sequence b has: what the tiles of rows say, else up to where the next sequence starts."""
        places, loop = self.places, self.understood.values[0].leaf.loop
        binding = next((b for b in self.understood.walker.axes if index(b.axis) is places.row), None)
        if binding is not None and loads(binding.tiles.extent):
            return self._of_a_sequence(places.canonical(binding.tiles.extent, loop.element), "rows")
        start = str(places.start.attr)  # type: ignore[union-attr]
        return load(start, (var("b") + 1,), Kind.INT) - load(start, (var("b"),), Kind.INT)

    def _columns(self) -> Expr:
        """How many keys sequence b has; limits that a row's mask keeps it from are no part of it."""
        loop = self.understood.values[0].leaf.loop
        extent = simplify(self.places.canonical(loop.tiles.extent, loop.element))  # type: ignore[union-attr]
        split = self.understood.values[0].leaf.split
        own = set() if split is None else {str(split.element.attr)}
        limits = [limit for limit in least_of(extent) if not free_vars(limit) & own] or [extent]
        if len(limits) == 1:
            return self._of_a_sequence(limits[0], "keys")
        length = [limit for limit in limits if not free_vars(limit) & ROW_NAMES]
        if not length or len(length) == len(limits):
            return self._of_a_sequence(extent, "keys")
        least = length[0]
        for limit in length[1:]:
            least = apply(Op.MIN, least, limit)
        seen = [self.understood.spec.keep, const(0) <= var("j"), const(0) <= var("i"), var("j") < least]
        if not implies(seen, var("j") < extent):
            return self._of_a_sequence(extent, "keys")
        return least

    def _of_a_sequence(self, length: Expr, what: str) -> Expr:
        """A length, unless it is not the same for all of a sequence."""
        if free_vars(length) & ROW_NAMES:
            path = self.understood.values[0].leaf.loop.path
            raise self.understood.walker.refuse(
                path, f"a sequence has {print_expr(length)} {what}; expected a number that its rows and heads share"
            )
        return length

    def _in_keys(self, e: Expr | None) -> Expr:
        """An expression of the number of keys, by that name where queries are as many."""
        assert e is not None
        if self.places.is_square:
            e = substitute(e, {"M": var("N")})
        if self.places.layout != "dense":
            loop = self.understood.values[0].leaf.loop
            extent = self.places.canonical(loop.tiles.extent, loop.element)  # type: ignore[union-attr]
            e = replaced(e, {extent: call("columns", (var("b"),), Kind.INT)})
        return e

    def _split_body(self, body: Sequence[Statement]) -> tuple[Statement, ...]:
        """The grid over splits, between its buffers and the grid that merges them."""
        u = self.understood
        grids = [(n, s) for n, s in enumerate(body) if isinstance(s, Grid)]
        if len(grids) != 2:
            raise u.walker.refuse(
                grids[-1][0:1], f"expected a grid over splits and one that merges; found {len(grids)} grids"
            )
        (first, sweep), (_, merge) = grids
        rows = [e.tile for e in (*merge.extents, *sweep.extents) if isinstance(e, Tiles)] or [
            s.tiles.tile for s in statements(sweep.body) if isinstance(s, TileAt)
        ]
        count = self._split_count()
        sizes = (u.spec.head_dim, u.spec.value_dim)
        free = tuple(name for name in u.walker.program.free_sizes if name in free_vars(count))
        buffers, merging_grid = merging(
            print_expr(count), rows[0], sizes, free, rows_first=self.places.layout == "paged"
        )
        if u.lse is None:
            kept = tuple(s for s in merging_grid.body if not (isinstance(s, Store) and s.target.name == "lse"))
            merging_grid = replace(merging_grid, body=kept)
        merging_grid = replace(merging_grid, order=merge.order, warps=merge.warps)
        return (*buffers, self._grid(sweep, (first,)), merging_grid)

    @property
    def is_uneven(self) -> bool:
        """Whether sequences have as many parts as their lengths ask for."""
        return self.is_split and bool(loads(self.understood.splits))  # type: ignore[arg-type]

    def _split_count(self) -> Expr:
        """How many parts there are: as many as the longest sequence has, where that depends on the sequence."""
        if not self.is_uneven:
            return self._in_keys(self.understood.splits)
        u = self.understood
        sweep = u.walker.program.body[u.values[0].leaf.path[0]]
        assert isinstance(sweep, Grid)
        extent = sweep.extents[sweep.names.index(u.split_name or "")]
        return self._in_keys(self.expr(extent) if isinstance(extent, Expr) else extent.extent)

    # Plans

    def _plan_loops(self) -> None:
        """Which part of the mask's domain each loop over keys visits."""
        u = self.understood
        self.values = {w.leaf.loop.path for w in u.values}
        self.sums = {w.leaf.loop.path for w in u.sums} or set(self.values)
        for paths in (self.values, self.sums):
            loops = [w for w in (*u.values, *u.sums) if w.leaf.loop.path in paths]
            unique = list({w.leaf.loop.path: w for w in loops}.values())
            self._divide(sorted(unique, key=lambda w: w.leaf.loop.path))

    def _divide(self, loops: Sequence[Weighed]) -> None:
        if len(loops) == 1:
            self.parts[loops[0].leaf.loop.path] = "any"
            return
        tiles = {w.leaf.loop.tiles.tile for w in loops if w.leaf.loop.tiles is not None}
        free = [w for w in loops if self._is_free(w)]
        bound = [w for w in loops if w not in free]
        for w in loops:
            self.parts[w.leaf.loop.path] = None
        if free and bound and len(tiles) == 1:
            self.parts[free[0].leaf.loop.path], self.parts[bound[0].leaf.loop.path] = "full", "partial"
        else:
            self.parts[(bound or free)[0].leaf.loop.path] = "any"
        lost = [path for path, part in self.parts.items() if part is None]
        if lost:
            self.notes.append(
                f"{len(lost)} of {len(loops)} loops over keys are joined: a mask's tiles are full or partial"
            )

    def _is_free(self, weighed: Weighed) -> bool:
        """Whether a loop's scores have no mask but the test for the end."""
        loop = weighed.leaf.loop
        if loop.domain is not None:
            return bool(loop.part == "full")
        assert loop.tiles is not None
        extent = self.places.canonical(loop.tiles.extent, loop.element)
        return weighed.mask in (const(True), var("j") < extent)

    # Statements

    def body(self, body: Sequence[Statement], path: Path) -> tuple[Statement, ...]:
        """The canonical statements of a body outside loops over keys."""
        found: list[Statement] = []
        for position, s in enumerate(body):
            found += self.statement(s, (*path, position))
        return tuple(found)

    def statement(self, s: Statement, path: Path) -> Sequence[Statement]:
        """What stands for one statement."""
        places = self.places
        if isinstance(s, Grid):
            return (self._grid(s, path),)
        if path in self.parts:
            return self._loop(s, path)
        if isinstance(s, Load):
            if s.source.name == places.q:
                return (*self._coordinates(), Load("q_tile", self.place(s.source), s.space, self._where(s.where)))
            return ()
        if isinstance(s, Let):
            return self._let(s, path)
        if isinstance(s, TileAt):
            name = self.name(s.name)
            if name == "m" and places.row.op is Op.CONST:
                return ()
            return (TileAt(name, self._tiles(s.tiles, name), self.expr(s.number)),)
        if isinstance(s, Store):
            return self._store(s)
        if isinstance(s, If) and self.is_uneven:  # a part without keys is stored as such
            return self.body(s.body, path)
        if isinstance(s, If):
            return (If(self.expr(s.condition), self.body(s.body, path)),)
        if isinstance(s, RangeLoop):
            start, stop = self.expr(s.start), self.expr(s.stop)
            return (RangeLoop(self.name(s.name), start, stop, self.body(s.body, path), s.stages),)
        if isinstance(s, (Fill, Gemm, Reduce)):
            return ()
        raise self.understood.walker.refuse(path, f"{type(s).__name__} has no place in a canonical program yet")

    def _where(self, e: Expr | None) -> Expr | None:
        return None if e is None else self.expr(e)

    def _grid(self, s: Grid, path: Path) -> Grid:
        names = tuple(self.name(name) for name in s.names)
        extents_ = tuple(
            self._tiles(e, n) if isinstance(e, Tiles) else self._count(n, e)
            for n, e in zip(names, s.extents, strict=True)
        )
        row = next((t for t in s.body if isinstance(t, TileAt) and self.name(t.name) == "m"), None)
        if self.places.row.op is Op.CONST and row is not None:  # a tile of heads becomes one of heads and rows
            names, extents_ = (*names, "m"), (*extents_, self._tiles(row.tiles, "m"))
        if self.is_single and any(isinstance(t, Load) and t.source.name == self.places.q for t in s.body):
            names, extents_ = (*names, "m"), (*extents_, Tiles(var("M"), LEAST_ROWS))
            self.notes.append(f"one row at a time becomes tiles of {LEAST_ROWS} rows")
        return replace(s, names=names, extents=extents_, body=self.body(s.body, path))

    def _count(self, name: str, e: Expr) -> Expr:
        """How many instances: a number of batches or heads that the program fixes becomes the size."""
        if name == "b" and (e.op is Op.CONST or self.places.layout == "ragged"):
            return var("B")
        if name == "h" and e.op is Op.CONST:
            return var("Hq")
        return self.expr(e)

    def _tiles(self, tiles: Tiles, name: str = "") -> Tiles:
        if name == "m" and self.places.row.op is Op.CONST:
            return Tiles(GROUP * var("M"), tiles.tile)
        if name == "m" and self.places.start is not None and tiles.extent.op is not Op.VAR:
            return Tiles(call("rows", (var("b"),), Kind.INT), tiles.tile, var("M"))
        return Tiles(self.expr(tiles.extent), tiles.tile, None if tiles.most is None else self.expr(tiles.most))

    def _coordinates(self) -> list[Statement]:
        """b, h, i and g where the program has no variables of these names."""
        places = self.places
        found: list[Statement] = []
        if self.is_single:
            found = [Let("b", self._original(places.batch))] if places.batch.op is not Op.VAR else []
            if places.head.op is not Op.VAR and self.h not in self.bound:
                found.append(Let(self.h, self._original(places.head)))
            found += [] if "g" in self.bound else [Let("g", apply(Op.FLOORDIV, var(self.h), GROUP))]
            return [*found, Let(self.i, index("m"))]
        if places.row.op is Op.CONST:  # a tile of the heads of a group: for several rows, their heads and rows
            if places.batch.op is not Op.VAR:
                found.append(Let("b", self._original(places.batch)))
            if "g" not in self.bound:
                found.append(Let("g", self._original(places.key_head)))
            m = index("m")
            return [
                *found,
                Let(self.h, var("g") * GROUP + apply(Op.FLOORDIV, m, var("M"))),
                Let(self.i, apply(Op.MOD, m, var("M"))),
            ]
        for e, name in ((places.batch, "b"), (places.head, self.h), (places.row, self.i)):
            if e.op in (Op.VAR, Op.CONST) or name in self.bound:
                continue
            found.append(Let(name, self._original(e)))
        if "g" not in self.bound:
            found.append(Let("g", apply(Op.FLOORDIV, var(self.h), GROUP)))
        return found

    def _original(self, e: Expr) -> Expr:
        """An expression of the walk in the program's own variables."""
        plain = transform(e, lambda n: index(str(n.attr).split("@")[0]) if n.op is Op.INDEX else None)
        return self.expr(plain)

    def _let(self, s: Let, path: Path) -> Sequence[Statement]:
        if s.value.kind is Kind.FLOAT:
            return ()
        places = self.places
        value = self.understood.walker.lets.get(path)
        for e, name in ((places.batch, "b"), (places.head, self.h), (places.row, self.i)):
            if value is e and e.op is not Op.VAR:
                self.names[s.name] = name
                self.bound.add(name)
        is_bound = places.head.op is Op.VAR or self.h in self.bound
        if value is places.key_head and value is not places.head and value.op is not Op.VAR and is_bound:
            self.names[s.name] = "g"
            self.bound.add("g")
            return (Let("g", apply(Op.FLOORDIV, var(self.h), GROUP)),)
        if value in self.elements:
            self.names[s.name] = "j"
            return ()
        return (Let(self.name(s.name), self.expr(s.value)),)

    def _store(self, s: Store) -> Sequence[Statement]:
        if self.is_split:
            return self._part_stores(s)
        first: tuple[Statement, ...] = () if self.has_closed else closing_lines()
        self.has_closed = True
        value = f("acc") * f("share") if s.target.name == self.output() else LSE
        return (*first, Store(self.place(s.target), value, self._where(s.where)))

    def _part_stores(self, s: Store) -> Sequence[Statement]:
        """The three sums of a part, where the program stored its sums of values."""
        if not any(isinstance(item, All) for item in s.target.indices):
            return ()
        row: Index = TileAxis("m") if self.places.row.op is Op.INDEX else var(self.i)
        place = (var("b"), var(self.h), var("split"), row)
        return (
            Store(Ref("o_split", (*place, All())), f("acc")),
            Store(Ref("peak_split", place), f("peak_here")),
            Store(Ref("mass_split", place), f("mass_here")),
        )

    # Loops over keys

    def _loop(self, s: Statement, path: Path) -> Sequence[Statement]:
        start: list[Statement] = []
        if not self.has_started:
            start = [
                Fill("acc", DType.F32, ("m", "Dv"), const(0.0)),
                Fill(self.peak, DType.F32, ("m",), MINUS),
                Fill(self.mass, DType.F32, ("m",), const(0.0)),
            ]
            self.has_started = True
        part = self.parts[path]
        if part is None:
            return start
        if path not in self.sums:
            start.append(Let("base", select(apply(Op.EQ, f(self.peak), MINUS), 0.0, f(self.peak))))
        count, most = self._keys()
        row = "m" if self.places.row.op is Op.INDEX else self.i
        info = next(w.leaf.loop for w in (*self.understood.values, *self.understood.sums) if w.leaf.loop.path == path)
        stages = s.stages if isinstance(s, (TileLoop, RangeLoop)) else 1
        order = "descending" if info.is_descending else "ascending"
        kept = None if part == "full" else self._kept(self.i, "j") & (var("j") < count)
        body = (Let("j", index("n")), *self._keyed(s.body, path, kept))  # type: ignore[union-attr]
        cut = Tiles(count, info.tiles.tile, most)  # type: ignore[union-attr]
        return (*start, TileLoop("n", cut, body, self._kept(row, "n"), part, order, stages))

    @property
    def peak(self) -> str:
        """The running maximum's name."""
        return "peak_here" if self.is_split else "peak"

    @property
    def mass(self) -> str:
        """The running sum's name."""
        return "mass_here" if self.is_split else "mass"

    def _kept(self, row: str, column: str) -> Expr:
        """The predicate of a loop over keys."""
        names = ("b", self.h, row, column, *(("split",) if self.is_split else ()))
        return call("piece" if self.is_split else "keep", tuple(var(n) for n in names), Kind.BOOL)

    def _keys(self) -> tuple[Expr, Expr | None]:
        """How many keys there are, and a bound of the run where a sequence says so itself."""
        if self.places.layout == "dense":
            return var("N"), None
        return call("columns", (var("b"),), Kind.INT), var("N")

    def _keyed(self, body: Sequence[Statement], path: Path, kept: Expr | None) -> list[Statement]:
        """The body of a loop over keys."""
        places = self.places
        found: list[Statement] = []
        emitted = False
        for s, where in _flattened(body, path):
            is_second = self._is_second(s)
            if (is_second or self._is_mass(s)) and not emitted:
                found += self._weights(path, kept)
                emitted = True
            if isinstance(s, Load) and s.source.name in (places.k, places.v):
                name = "k_tile" if s.source.name == places.k else "v_tile"
                found.append(Load(name, self.place(self._grouped(s.source)), s.space))
            elif is_second:
                into = f("acc") * f("rescale") if path in self.sums else f("acc")
                found.append(Gemm("acc", "p", "v_tile", into, getattr(s, "is_async", False)))
            elif self._is_first(s) and not any(isinstance(made, Gemm) and made.name == "s" for made in found):
                found.append(Gemm("s", "q_tile", "k_tile", None, getattr(s, "is_async", False)))
            elif isinstance(s, Let):
                found += self._let(s, where)
        return found

    def _grouped(self, ref: Ref) -> Ref:
        """The head of keys and values as g."""
        roles = self.roles(ref.name)
        self.names["@g"] = "g"  # whatever the program calls g
        items = tuple(var("@g") if role == "head" else item for role, item in zip(roles, ref.indices, strict=True))
        return Ref(ref.name, items)

    def _weights(self, path: Path, kept: Expr | None) -> tuple[Statement, ...]:
        lines = softmax_lines(kept, (self.peak, self.mass), (self.h, self.i))
        if path in self.sums:
            return lines
        return (lines[0], Let("p", apply(Op.EXP2, f("x") - f("base"))))

    def _is_first(self, s: Statement) -> bool:
        """Whether a statement is the product of queries and keys: a gemm, or a sum over the head dimension."""
        return isinstance(s, (Gemm, Reduce)) and self._summed(s)[0] in self.understood.walker.program.fixed

    def _is_second(self, s: Statement) -> bool:
        """Whether a statement is the product of weights and values: a gemm, or a sum over keys of rows of v."""
        if not isinstance(s, (Gemm, Reduce)) or self._is_first(s):
            return False
        wide = self._summed(s)[1] & set(self.understood.walker.program.fixed)
        return isinstance(s, Gemm) or (s.op == "sum" and bool(wide))

    def _is_mass(self, s: Statement) -> bool:
        """Whether a statement sums weights."""
        return isinstance(s, Reduce) and s.op == "sum" and not self._is_first(s)

    def _summed(self, s: Gemm | Reduce) -> tuple[str, set[str]]:
        """The axis that a statement sums over, and the axes of what it sums."""
        shapes = self.understood.walker.shapes
        if isinstance(s, Reduce):
            return s.axis, set(shapes.operand(s.source).axes)
        left, right = (shapes.operand(side).axes for side in (s.left, s.right))
        return next(axis for axis in left if axis in right), {*left, *right}


def _flattened(body: Sequence[Statement], path: Path) -> Iterator[tuple[Statement, Path]]:
    """Statements of a body and of its conditions, with their paths."""
    for position, s in enumerate(body):
        if isinstance(s, If):
            yield from _flattened(s.body, (*path, position))
        else:
            yield s, (*path, position)


def _params(names: Sequence[str]) -> tuple[RegionParam, ...]:
    return tuple(RegionParam(name, Kind.FLOAT if name == "s" else Kind.INT) for name in names)
