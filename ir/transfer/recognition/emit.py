"""The canonical program of what was understood: the expert's grids, loops, tiles and loads, with the canonical arithmetic.

What it emits is a softmax with the regions `score` and `keep`, whatever the kernel's normaliser: the passes of `rules.py`
put a spec's own into it. Statements that only computed scores and weights are replaced by the lines of
kernels/programs/flash_forward.txt at the place where the weights are first used; the rest keeps its order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from ...dtypes import DType, Kind
from ...edit import extents
from ...errors import ScheduleError
from ...expr import Expr, Op, apply, call, const, index, select, transform, var, walk
from ...printer import Path
from ...program import (
    All,
    Fill,
    Gemm,
    Grid,
    If,
    Index,
    Let,
    Load,
    Param,
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
from .specify import Understood

LOG2E = math.log2(math.e)
LN2 = math.log(2.0)
ROLES = frozenset(
    [
        "q",
        "k",
        "v",
        "o",
        "lse",
        "q_tile",
        "k_tile",
        "v_tile",
        "s",
        "x",
        "top",
        "peak_next",
        "base",
        "rescale",
        "p",
        "total",
        "mass",
        "peak",
        "acc",
        "share",
        "g",
        "b",
        "h",
        "i",
        "j",
        "m",
        "n",
        "score",
        "keep",
        "piece",
        "part",
        "weight",
        "after",
        "kept",
        "o_split",
        "peak_split",
        "mass_split",
        "peak_here",
        "mass_here",
        "sums",
        "peak_both",
        "origin",
    ]
)
MINUS = const(-math.inf)


def f(name: str) -> Expr:
    """A float tile by name."""
    return var(name, Kind.FLOAT)


def softmax_lines(kept: Expr | None, peak: str = "peak", mass: str = "mass") -> tuple[Statement, ...]:
    """The step of an online softmax over a tile of keys."""
    score = call("score", (f("s"), *(var(name) for name in "bhij")), Kind.FLOAT) * LOG2E
    x = score if kept is None else select(kept, score, MINUS)
    return (
        Let("x", x),
        Reduce("top", "max", "x", "n"),
        Let("peak_next", apply(Op.MAX, f(peak), f("top"))),
        Let("base", select(apply(Op.EQ, f("peak_next"), MINUS), 0.0, f("peak_next"))),
        Let("rescale", apply(Op.EXP2, f(peak) - f("base"))),
        Let("p", apply(Op.EXP2, f("x") - f("base"))),
        Reduce("total", "sum", "p", "n"),
        Let(mass, f(mass) * f("rescale") + f("total")),
        Let(peak, f("peak_next")),
    )


def closing_lines() -> tuple[Statement, ...]:
    """What a row's sums are multiplied by."""
    return (Let("share", select(apply(Op.EQ, f("mass"), 0.0), 0.0, 1.0 / f("mass"))),)


LSE = select(apply(Op.EQ, f("mass"), 0.0), MINUS, (f("peak") + apply(Op.LOG2, f("mass"))) * LN2)


@dataclass(slots=True)
class Emitter:
    """Emits one program. `parts`: path of a key loop -> part of its domain, None where it is left out."""

    understood: Understood
    names: dict[str, str] = field(default_factory=dict)
    parts: dict[Path, str | None] = field(default_factory=dict)
    sums: set[Path] = field(default_factory=set)
    values: set[Path] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    bound: set[str] = field(default_factory=set)
    elements: set[Expr] = field(default_factory=set)
    has_started: bool = False
    has_closed: bool = False

    def program(self) -> Program:
        """The canonical program."""
        u = self.understood
        raw, places = u.walker.program, u.places
        self._plan_loops()
        self._plan_names()
        body = self.body(raw.body, ())
        score = Region("score", _params(SCORE_PARAMETERS), f("s"))
        keep = Region("keep", _params(MASK_PARAMETERS), const(True))
        fixed = {k: n for k, n in raw.sizes if k not in places.sizes and k not in ("D", "Dv")}
        sizes = (("D", u.spec.head_dim), ("Dv", u.spec.value_dim), *fixed.items())
        program = Program(raw.name, self._parameters(), body, (score, keep), sizes, raw.free_sizes)
        return drop_unread(program)

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

    def _divide(self, loops: Sequence[object]) -> None:
        if len(loops) == 1:
            self.parts[loops[0].leaf.loop.path] = "any"  # type: ignore[attr-defined]
            return
        tiles = {w.leaf.loop.tiles.tile for w in loops}  # type: ignore[attr-defined]
        free = [w for w in loops if self._is_free(w)]
        bound = [w for w in loops if w not in free]
        for w in loops:
            self.parts[w.leaf.loop.path] = None  # type: ignore[attr-defined]
        if free and bound and len(tiles) == 1:
            self.parts[free[0].leaf.loop.path], self.parts[bound[0].leaf.loop.path] = "full", "partial"  # type: ignore[attr-defined]
        else:
            self.parts[(bound or free)[0].leaf.loop.path] = "any"  # type: ignore[attr-defined]
        lost = [path for path, part in self.parts.items() if part is None]
        if lost:
            self.notes.append(
                f"{len(lost)} of {len(loops)} loops over keys are joined: a mask's tiles are full or partial"
            )

    def _is_free(self, weighed: object) -> bool:
        """Whether a loop's scores have no mask but the test for the end."""
        loop = weighed.leaf.loop  # type: ignore[attr-defined]
        if loop.domain is not None:
            return bool(loop.part == "full")
        extent = self.understood.places.canonical(loop.tiles.extent, loop.element)
        return weighed.mask in (const(True), var("j") < extent)  # type: ignore[attr-defined]

    def _plan_names(self) -> None:
        """Canonical names of the program's variables; what is in their way is renamed."""
        u = self.understood
        places, raw = u.places, u.walker.program
        wanted = {places.batch: "b", places.head: "h", places.row: "i"}
        for found, name in wanted.items():
            if found.op is Op.VAR:
                self.names[str(found.attr)] = name
        if places.row.op is Op.INDEX:
            self.names[str(places.row.attr).split("@")[0]] = "m"
        for w in (*u.values, *u.sums):
            self.elements.add(w.leaf.loop.element)
            self.names[str(w.leaf.loop.element.attr).split("@")[0]] = "n"
        self.names |= {places.q: "q", places.k: "k", places.v: "v"}
        self.names |= {p.name: ("o" if p.name == self._output() else "lse") for p in raw.params if p.is_output}
        self.names |= {raw_size: name for raw_size, name in places.sizes.items()}

    def _output(self) -> str:
        stores = self.understood.walker.stores
        return next(name for name, found in stores.items() if self.understood.output in found)

    def name(self, raw: str) -> str:
        """The canonical name of a variable."""
        if raw in self.names:
            return self.names[raw]
        kinds = self.understood.spec.captured
        if raw in ROLES or raw in self.names.values():
            if any(t.name == raw for t in kinds):
                raise ScheduleError(
                    f"recognise: captured tensor {raw!r} has a name that canonical programs use; rename it"
                )
            self.names[raw] = f"{raw}_own"
        else:
            self.names[raw] = raw
        return self.names[raw]

    def expr(self, e: Expr) -> Expr:
        """An expression with canonical names."""

        def rename(node: Expr) -> Expr | None:
            if node.op is Op.VAR:
                return var(self.name(str(node.attr)), node.kind)
            if node.op is Op.INDEX:
                return index(self.name(str(node.attr)))
            return None

        return transform(e, rename)

    def _parameters(self) -> tuple[Param, ...]:
        u = self.understood
        places, raw = u.places, u.walker.program
        by_name = {p.name: p for p in raw.params}

        def canonical(param: Param, name: str) -> Param:
            roles = self._roles(param.name)
            names = {"batch": "B", "head": "Hq" if name in ("q", "o", "lse") else "Hkv"}
            names |= {"row": "M" if name in ("q", "o", "lse") else "N", "feature": "D" if name in ("q", "k") else "Dv"}
            if places.layout == "dense":
                return Param(name, param.dtype, tuple(names[role] for role in self._order(name)), param.is_output)
            dims = tuple(
                names.get(role, places.sizes.get(str(dim), dim)) for dim, role in zip(param.dims, roles, strict=True)
            )
            return Param(name, param.dtype, dims, param.is_output)

        inputs = [
            canonical(by_name[raw_name], name) for raw_name, name in ((places.q, "q"), (places.k, "k"), (places.v, "v"))
        ]
        known = {places.q, places.k, places.v}
        used = self._read()
        others = [
            replace(p, dims=tuple(places.sizes.get(d, d) if isinstance(d, str) else d for d in p.dims))
            for p in raw.params
            if not p.is_output and p.name not in known and p.name in used
        ]
        outputs = [canonical(p, self.names[p.name]) for p in raw.params if p.is_output]
        outputs.sort(key=lambda p: p.name != "o")
        return (*inputs, *others, *outputs)

    def _read(self) -> set[str]:
        """Tensors that indices, extents and conditions read."""
        found: set[str] = set()
        for s in statements(self.understood.walker.program.body):
            exprs = [*extents(s.tiles)] if isinstance(s, (TileLoop, TileAt)) else []
            if isinstance(s, (Load, Store)):
                exprs += [
                    item for item in (s.source if isinstance(s, Load) else s.target).indices if isinstance(item, Expr)
                ]
                exprs += [s.where] if s.where is not None else []
            if isinstance(s, Let) and s.value.kind is not Kind.FLOAT:
                exprs.append(s.value)
            if isinstance(s, If):
                exprs.append(s.condition)
            if isinstance(s, Grid):
                exprs += [e for extent in s.extents for e in extents(extent)]
            found |= {str(node.attr) for e in exprs for node in walk(e) if node.op is Op.LOAD}
        return found

    def _roles(self, tensor: str) -> list[str]:
        """Roles of a tensor's dimensions, in its own order."""
        u = self.understood
        if tensor in u.places.dims:
            return u.places.dims[tensor]
        stored = next(s[0] for name, s in u.walker.stores.items() if name == tensor)
        known = {u.places.batch: "batch", u.places.head: "head", u.places.row: "row"}
        roles = []
        for item in stored.indices:
            is_feature = item.op is Op.INDEX and str(item.attr) in u.walker.program.fixed
            roles.append("feature" if is_feature else known.get(item, "place"))
        return roles

    def _order(self, name: str) -> tuple[str, ...]:
        return ("batch", "head", "row") if name == "lse" else ("batch", "head", "row", "feature")

    def place(self, ref: Ref) -> Ref:
        """A reference to q, k, v or an output, with canonical dimensions in their order."""
        items: list[Index] = [
            TileAxis(self.name(item.name))
            if isinstance(item, TileAxis)
            else item
            if isinstance(item, All)
            else self.expr(item)
            for item in ref.indices
        ]
        name = self.names[ref.name]
        if self.understood.places.layout != "dense":
            return Ref(name, tuple(items))
        by_role = dict(zip(self._roles(ref.name), items, strict=True))
        return Ref(name, tuple(by_role[role] for role in self._order(name)))

    # Statements

    def body(self, body: Sequence[Statement], path: Path) -> tuple[Statement, ...]:
        """The canonical statements of a body outside loops over keys."""
        found: list[Statement] = []
        for position, s in enumerate(body):
            found += self.statement(s, (*path, position))
        return tuple(found)

    def statement(self, s: Statement, path: Path) -> Sequence[Statement]:
        """What stands for one statement."""
        places = self.understood.places
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
            return (TileAt(self.name(s.name), self._tiles(s.tiles), self.expr(s.number)),)
        if isinstance(s, Store):
            return self._store(s)
        if isinstance(s, If):
            return (If(self.expr(s.condition), self.body(s.body, path)),)
        if isinstance(s, RangeLoop):
            return (RangeLoop(self.name(s.name), self.expr(s.start), self.expr(s.stop), self.body(s.body, path)),)
        if isinstance(s, (Fill, Gemm, Reduce)):
            return ()
        raise self.understood.walker.refuse(path, f"{type(s).__name__} has no place in a canonical program yet")

    def _where(self, e: Expr | None) -> Expr | None:
        return None if e is None else self.expr(e)

    def _grid(self, s: Grid, path: Path) -> Grid:
        names = tuple(self.name(name) for name in s.names)
        extents_ = tuple(
            self._tiles(e) if isinstance(e, Tiles) else self._count(n, e) for n, e in zip(names, s.extents, strict=True)
        )
        return replace(s, names=names, extents=extents_, body=self.body(s.body, path))

    def _count(self, name: str, e: Expr) -> Expr:
        """How many instances: a number of batches or heads that the program fixes becomes the size."""
        if e.op is Op.CONST and name in ("b", "h") and self.understood.places.layout == "dense":
            return var("B" if name == "b" else "Hq")
        return self.expr(e)

    def _tiles(self, tiles: Tiles) -> Tiles:
        return Tiles(self.expr(tiles.extent), tiles.tile, None if tiles.most is None else self.expr(tiles.most))

    def _coordinates(self) -> list[Statement]:
        """b, h, i and g where the program has no variables of these names."""
        places = self.understood.places
        found: list[Statement] = []
        for e, name in ((places.batch, "b"), (places.head, "h"), (places.row, "i")):
            if e.op in (Op.VAR, Op.CONST) or name in self.bound:
                continue
            found.append(Let(name, self._original(e)))
        if "g" not in self.bound:
            found.append(Let("g", apply(Op.FLOORDIV, var("h"), GROUP)))
        return found

    def _original(self, e: Expr) -> Expr:
        """An expression of the walk in the program's own variables."""
        plain = transform(e, lambda n: index(str(n.attr).split("@")[0]) if n.op is Op.INDEX else None)
        return self.expr(plain)

    def _let(self, s: Let, path: Path) -> Sequence[Statement]:
        if s.value.kind is Kind.FLOAT:
            return ()
        places = self.understood.places
        value = self.understood.walker.lets.get(path)
        for e, name in ((places.batch, "b"), (places.head, "h"), (places.row, "i")):
            if value is e and e.op is not Op.VAR:
                self.names[s.name] = name
                self.bound.add(name)
        is_bound = places.head.op is Op.VAR or "h" in self.bound
        if value is places.key_head and value is not places.head and value.op is not Op.VAR and is_bound:
            self.names[s.name] = "g"
            self.bound.add("g")
            return (Let("g", apply(Op.FLOORDIV, var("h"), GROUP)),)
        if value in self.elements:
            self.names[s.name] = "j"
            return ()
        return (Let(self.name(s.name), self.expr(s.value)),)

    def _store(self, s: Store) -> Sequence[Statement]:
        u = self.understood
        first: tuple[Statement, ...] = () if self.has_closed else closing_lines()
        self.has_closed = True
        value = f("acc") * f("share") if s.target.name == self._output() else LSE
        del u
        return (*first, Store(self.place(s.target), value, self._where(s.where)))

    # Loops over keys

    def _loop(self, s: Statement, path: Path) -> Sequence[Statement]:
        start: list[Statement] = []
        if not self.has_started:
            start = [
                Fill("acc", DType.F32, ("m", "Dv"), const(0.0)),
                Fill("peak", DType.F32, ("m",), MINUS),
                Fill("mass", DType.F32, ("m",), const(0.0)),
            ]
            self.has_started = True
        part = self.parts[path]
        if part is None:
            return start
        if path not in self.sums:
            start.append(Let("base", select(apply(Op.EQ, f("peak"), MINUS), 0.0, f("peak"))))
        tiles, most = self._keys(s, path)
        row = var("m") if self.understood.places.row.op is Op.INDEX else var("i")
        where = call("keep", (var("b"), var("h"), row, var("n")), Kind.BOOL)
        info = next(w.leaf.loop for w in (*self.understood.values, *self.understood.sums) if w.leaf.loop.path == path)
        stages = s.stages if isinstance(s, TileLoop) else 1
        order = "descending" if info.is_descending else "ascending"
        tail = var("j") < tiles
        kept = None if part == "full" else call("keep", tuple(var(n) for n in "bhij"), Kind.BOOL) & tail
        body = (Let("j", index("n")), *self._keyed(s.body, path, kept))  # type: ignore[union-attr]
        cut = Tiles(tiles, info.tiles.tile, most)  # type: ignore[union-attr]
        return (*start, TileLoop("n", cut, body, where, part, order, stages))

    def _keys(self, s: Statement, path: Path) -> tuple[Expr, Expr | None]:
        """How many keys there are, and a bound of the run where a sequence says so itself."""
        if self.understood.places.layout == "dense":
            return var("N"), None
        raw = s.tiles if isinstance(s, TileLoop) else next(t.tiles for t in statements(s.body) if isinstance(t, TileAt))  # type: ignore[union-attr]
        extent = self.expr(raw.extent)
        return extent, var("N") if raw.most is None else self.expr(raw.most)

    def _keyed(self, body: Sequence[Statement], path: Path, kept: Expr | None) -> list[Statement]:
        """The body of a loop over keys."""
        places, found = self.understood.places, []  # type: ignore[var-annotated]
        emitted = False
        for s, where in _flattened(body, path):
            uses = (isinstance(s, Reduce) and s.op == "sum") or self._is_second(s)
            if uses and not emitted:
                found += self._weights(path, kept)
                emitted = True
            if isinstance(s, Load) and s.source.name in (places.k, places.v):
                name = "k_tile" if s.source.name == places.k else "v_tile"
                found.append(Load(name, self.place(self._grouped(s.source)), s.space, self._where(s.where)))
            elif isinstance(s, Gemm) and self._is_second(s):
                into = f("acc") * f("rescale") if path in self.sums else f("acc")
                found.append(Gemm("acc", "p", "v_tile", into, s.is_async))
            elif isinstance(s, Gemm):
                found.append(Gemm("s", "q_tile", "k_tile", None, s.is_async))
            elif isinstance(s, Let):
                found += self._let(s, where)
        return found

    def _grouped(self, ref: Ref) -> Ref:
        """The head of keys and values as g."""
        roles = self._roles(ref.name)
        self.names.setdefault("g", "g")
        items = tuple(var("g") if role == "head" else item for role, item in zip(roles, ref.indices, strict=True))
        return Ref(ref.name, items)

    def _weights(self, path: Path, kept: Expr | None) -> tuple[Statement, ...]:
        lines = softmax_lines(kept)
        if path in self.sums:
            return lines
        return (lines[0], Let("p", apply(Op.EXP2, f("x") - f("base"))))

    def _is_second(self, s: Statement) -> bool:
        """Whether a statement is the product of weights and values."""
        if not isinstance(s, Gemm):
            return False
        shapes = self.understood.walker.shapes
        left, right = (shapes.operand(side).axes for side in (s.left, s.right))
        shared = next(axis for axis in left if axis in right)
        return shared not in self.understood.walker.program.fixed


def _flattened(body: Sequence[Statement], path: Path) -> Iterator[tuple[Statement, Path]]:
    """Statements of a body and of its conditions, with their paths."""
    for position, s in enumerate(body):
        if isinstance(s, If):
            yield from _flattened(s.body, (*path, position))
        else:
            yield s, (*path, position)


def _params(names: Sequence[str]) -> tuple[RegionParam, ...]:
    return tuple(RegionParam(name, Kind.FLOAT if name == "s" else Kind.INT) for name in names)
