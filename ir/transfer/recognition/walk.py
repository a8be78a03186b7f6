"""What every name of a program holds, as an expression over inputs: the program executed on symbols.

Tiles become expressions over `index(…)` of their axes; sums over an axis become CALLs `@sum:axis`, maxima `@max:axis`.
A loop that carries values is solved for its invariant (`folds.py`); what it leaves is `@fold` and `@peak` atoms.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ...dtypes import Kind
from ...edit import inlined
from ...errors import ScheduleError
from ...expr import Expr, Op, apply, call, const, free_vars, index, load, loads, select, transform, var, walk
from ...integers import expression, polynomial
from ...printer import Path
from ...program import (
    All,
    Alloc,
    Block,
    Commit,
    Fill,
    Gemm,
    Grid,
    If,
    Let,
    Load,
    Operand,
    Program,
    RangeLoop,
    Reduce,
    Ref,
    Statement,
    Store,
    Sync,
    TileAt,
    TileAxis,
    TileLoop,
    Tiles,
    WaitGroup,
)  # fmt: skip
from ...shapes import infer, program_line
from .buffers import read, tidy
from .forms import Form, Forms

MOST_NODES = 20_000
ZERO = const(0)


@dataclass(frozen=True, slots=True)
class Binding:
    """A tile variable as bound at one place: the name of its indices in expressions, its tiles, the tile's number.

    shift: what every index of memory adds to it; the name stands for the sum, `tiles` is of so many more.
    """

    axis: str
    tiles: Tiles
    number: Expr
    shift: Expr = ZERO

    @property
    def index(self) -> Expr:
        """The variable's own indices."""
        return index(self.axis) if self.shift is const(0) else index(self.axis) - self.shift


@dataclass(frozen=True, slots=True)
class LoopInfo:
    """A loop of the program: over which index it adds up (VAR or INDEX `element`), and which tiles it visits.

    `visit`: BOOL over the element and what is the same for the loop. `domain` and `part`: of a loop with `where=`.
    """

    path: Path
    element: Expr
    tiles: Tiles | None
    visit: Expr
    is_descending: bool = False
    domain: Expr | None = None
    part: str = "any"


@dataclass(frozen=True, slots=True)
class Fold:
    """A sum over what a loop visits: of `value`, a form over the loop's element. `coords`: the instance's variables."""

    number: int
    loop: LoopInfo
    value: Form
    coords: tuple[Expr, ...]
    path: Path


@dataclass(frozen=True, slots=True)
class Stored:
    """A store: where, what, and under which conditions."""

    path: Path
    indices: tuple[Expr, ...]
    value: Expr
    conditions: tuple[Expr, ...]
    coords: tuple[Expr, ...]


@dataclass(slots=True)
class Scope:
    """What is known at one place of the program."""

    env: dict[str, Expr] = field(default_factory=dict)
    tiles: dict[str, Binding] = field(default_factory=dict)
    conditions: tuple[Expr, ...] = ()
    coords: tuple[Expr, ...] = ()

    def copy(self) -> Scope:
        """A scope that may change without changing this one."""
        return Scope(dict(self.env), dict(self.tiles), self.conditions, self.coords)


class Walker:
    """Executes one program on symbols; `stores` and `folds` are what comes of it."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.shapes = infer(program)
        self.forms = Forms()
        self.folds: list[Fold] = []
        self.stores: dict[str, list[Stored]] = {}
        self.facts: list[Expr] = []
        self.peaks: dict[Expr, Expr] = {}  # a final maximum and what each step makes of it
        self.notes: list[str] = []
        self.where: dict[Expr, Path] = {}  # sums and where they are written
        self.axes: list[Binding] = []
        self.lets: dict[Path, Expr] = {}
        self.hidden: list[tuple[Expr, Expr, Path]] = []  # loads with where=: the element, the condition
        self.ranges: dict[str, Expr] = {}  # variables of grids and what they stay below
        self._bindings = 0

    def run(self) -> None:
        """Execute the program. Raises ScheduleError, naming the line, for what has no rule."""
        self.body(self.program.body, (), Scope())

    def refuse(self, path: Path, reason: str) -> ScheduleError:
        """The error that names a line."""
        return ScheduleError(f"recognise: {reason}\n    {program_line(self.program, path)}")

    # Statements

    def body(self, body: tuple[Statement, ...], path: Path, scope: Scope) -> None:
        """Execute statements one after another."""
        for position, statement in enumerate(body):
            self.statement(statement, (*path, position), scope)

    def statement(self, s: Statement, path: Path, scope: Scope) -> None:
        """Execute one statement."""
        if isinstance(s, (Alloc, Commit, WaitGroup, Sync)):
            return
        if isinstance(s, Let):
            scope.env[s.name] = self.lets[path] = self.value(s.value, scope, path)
        elif isinstance(s, Fill):
            scope.env[s.name] = self.value(s.value, scope, path)
        elif isinstance(s, Load):
            scope.env[s.name] = self._loaded(s, scope, path)
        elif isinstance(s, Gemm):
            self.gemm(s, path, scope)
        elif isinstance(s, Reduce):
            self.reduce(s, path, scope)
        elif isinstance(s, TileAt):
            number = self.value(s.number, scope, path)
            is_counted = any("@" in name for name in free_vars(number))
            shift = self.shift(self.beside(path), s.name, scope, path) if is_counted else ZERO
            bound = self.bind(s.name, s.tiles, number, scope, shift=shift)
            scope.coords += (index(bound.axis),)
        elif isinstance(s, Store):
            self.store(s, path, scope)
        elif isinstance(s, If):
            self.branch(s, path, scope)
        elif isinstance(s, Grid):
            self.grid(s, path, scope)
        elif isinstance(s, (TileLoop, RangeLoop)):
            from .folds import run_loop

            run_loop(self, s, path, scope)
        else:
            raise self.refuse(path, f"{type(s).__name__} is not understood in a foreign program")

    def grid(self, s: Grid, path: Path, scope: Scope) -> None:
        """Every instance at once."""
        inner = scope.copy()
        for name, extent in zip(s.names, s.extents, strict=True):
            if isinstance(extent, Tiles):
                self.bind(name, extent, None, inner, name)
                inner.coords += (index(name),)
            else:
                inner.env[name] = var(name)
                inner.coords += (var(name),)
                self.ranges[name] = self.value(extent, inner, path)
                self.facts.append(var(name) < self.ranges[name])
        self.body(s.body, path, inner)

    def beside(self, path: Path) -> tuple[Statement, ...]:
        """The statements of the block that a statement is in."""
        body: tuple[Statement, ...] = self.program.body
        for position in path[:-1]:
            inner = body[position]
            body = inner.body if isinstance(inner, Block) else ()
        return body

    def shift(self, body: tuple[Statement, ...], name: str, scope: Scope, path: Path) -> Expr:
        """What all indices of memory in a body add to a tile variable, where that is the same for all its tiles."""
        rest = added_to(body, name)
        found = const(0) if rest is const(0) else self.value(rest, scope, path)
        return const(0) if loads(found) or any("@" in free for free in free_vars(found)) else found

    def bind(
        self, name: str, tiles: Tiles, number: Expr | None, scope: Scope, axis: str | None = None,
        *, shift: Expr = ZERO,
    ) -> Binding:  # fmt: skip
        """Bind a tile variable; its indices get a name of their own."""
        if axis is None:
            self._bindings += 1
            axis = f"{name}@{self._bindings}"
        most = tiles.most
        tiles = Tiles(tidy(self.value(tiles.extent, scope, ()) + shift, self), tiles.tile, most)
        plain = apply(Op.FLOORDIV, index(axis), tiles.tile)
        number = plain if number is None else number
        binding = Binding(axis, tiles, number, shift)
        if most is not None:
            self.facts.append(tiles.extent <= most)
        if shift is const(0) and number is not plain and not any("@" in name for name in free_vars(number)):
            self.facts += [number * tiles.tile <= index(axis), index(axis) <= number * tiles.tile + (tiles.tile - 1)]
        scope.tiles[name] = binding
        scope.env[name] = number
        self.axes.append(binding)
        return binding

    def branch(self, s: If, path: Path, scope: Scope) -> None:
        """Names that the body changes become choices; stores get the condition."""
        condition = self.value(s.condition, scope, path)
        inner = scope.copy()
        inner.conditions += (condition,)
        self.body(s.body, path, inner)
        for name, new in inner.env.items():
            old = scope.env.get(name)
            if old is None:
                scope.env[name] = new
            elif old is not new:
                scope.env[name] = select(condition, new, old)

    def store(self, s: Store, path: Path, scope: Scope) -> None:
        """Remember what is stored where."""
        indices = self.indices(s.target, scope, path)
        value = self.value(s.value, scope, path)
        where = () if s.where is None else (self.value(s.where, scope, path),)
        found = Stored(path, indices, value, (*scope.conditions, *where), scope.coords)
        self.stores.setdefault(s.target.name, []).append(found)

    # Values

    def value(self, e: Expr, scope: Scope, path: Path) -> Expr:
        """The expression with names replaced by what they hold."""

        def replace(node: Expr) -> Expr | None:
            if node.op is Op.VAR:
                return scope.env.get(str(node.attr))
            if node.op is Op.INDEX:
                return scope.tiles[str(node.attr)].index if str(node.attr) in scope.tiles else None
            if node.op is Op.LOAD:
                return self._element(str(node.attr), node.args, node.kind, path)
            return None

        found = transform(inlined(e, self.program), replace)
        if sum(1 for _ in walk(found)) > MOST_NODES:
            raise self.refuse(path, "the expression unfolds to more than can be looked at")
        return tidy(found, self)

    def indices(self, ref: Ref, scope: Scope, path: Path) -> tuple[Expr, ...]:
        """The element of a place: an index for every dimension."""
        found = []
        for dim, item in zip(self.shapes.dims(ref.name), ref.indices, strict=True):
            if isinstance(item, TileAxis):
                found.append(scope.tiles[item.name].index)
            elif isinstance(item, All):
                found.append(index(dim))
            else:
                found.append(self.value(item, scope, path))
        return tuple(found)

    def load(self, ref: Ref, scope: Scope, path: Path) -> Expr:
        """The element of a tile from memory."""
        return self._element(ref.name, self.indices(ref, scope, path), self.shapes.dtype(ref.name).kind, path)

    def _loaded(self, s: Load, scope: Scope, path: Path) -> Expr:
        """A loaded tile's element; `hidden` remembers which rows exist."""
        found = self.load(s.source, scope, path)
        if s.where is not None and found.op is Op.LOAD:
            self.hidden.append((found, self.value(s.where, scope, path), path))
        return found

    def _element(self, name: str, indices: tuple[Expr, ...], kind: Kind, path: Path) -> Expr:
        if not isinstance(self.shapes.tensors.get(name), Alloc):
            return load(name, indices, kind)
        return read(self, name, indices, path)

    def operand(self, operand: Operand, scope: Scope, path: Path) -> Expr:
        """The element of a product's operand."""
        if isinstance(operand, Ref):
            return self.load(operand, scope, path)
        if operand not in scope.env:
            raise self.refuse(path, f"{operand!r} has no value that is the same every time")
        return scope.env[operand]

    def axis(self, name: str, scope: Scope) -> str:
        """The name that an axis has in expressions."""
        return scope.tiles[name].axis if name in scope.tiles else name

    def gemm(self, s: Gemm, path: Path, scope: Scope) -> None:
        """A product is a sum over the shared axis."""
        left, right = self.shapes.operand(s.left).axes, self.shapes.operand(s.right).axes
        shared = next(axis for axis in left if axis in right)
        product = self.forms.times(
            self.forms.of(self.operand(s.left, scope, path)), self.forms.of(self.operand(s.right, scope, path))
        )
        value = self.forms.expr(self.sum_over(product, self.axis(shared, scope), path))
        if s.into is not None:
            value = self.value(s.into, scope, path) + value
        scope.env[s.name] = value

    def reduce(self, s: Reduce, path: Path, scope: Scope) -> None:
        """A maximum is taken as a whole, a sum term by term."""
        axis, source = self.axis(s.axis, scope), self.operand(s.source, scope, path)
        if s.op == "max":
            found = call(f"@max:{axis}", (source,), Kind.FLOAT)
            self.where.setdefault(found, path)
            scope.env[s.name] = found
        else:
            scope.env[s.name] = self.forms.expr(self.sum_over(self.forms.of(source), axis, path))

    def sum_over(self, a: Form, axis: str, path: Path) -> Form:
        """The sum of a form over an axis: what does not depend on the axis comes out of the sum."""
        total: Form = {}
        for (powers, exponent), c in a.items():
            inner = {
                (
                    tuple(p for p in powers if depends(p[0], axis)),
                    tuple(x for x in exponent if depends(x[0], axis)),
                ): 1.0
            }
            outer = {
                (
                    tuple(p for p in powers if not depends(p[0], axis)),
                    tuple(x for x in exponent if not depends(x[0], axis)),
                ): c
            }
            atom = call(f"@sum:{axis}", (self.forms.expr(inner),), Kind.FLOAT)
            self.where.setdefault(atom, path)
            total = self.forms.add(total, self.forms.times(outer, self.forms.atom(atom)))
        return total


def depends(e: Expr, axis: str) -> bool:
    """Whether an expression varies along an axis; sums over it do not."""
    if e.op is Op.INDEX:
        return e.attr == axis
    if e.op is Op.CALL and str(e.attr) in (f"@sum:{axis}", f"@max:{axis}"):
        return False
    return any(depends(arg, axis) for arg in e.args)


def added_to(body: tuple[Statement, ...], name: str) -> Expr:
    """What all indices of memory in a body add to a tile variable: tiles that begin at any row."""
    items = [i for s in body if isinstance(s, Load) for i in s.source.indices]
    direct = any(isinstance(i, TileAxis) and i.name == name for i in items)
    own = [polynomial(i) for i in items if isinstance(i, Expr) and index(name) in set(walk(i))]
    rests = [{m: c for m, c in one.items() if m != (index(name),)} for one in own if one.get((index(name),)) == 1]
    if direct or not own or len(rests) != len(own) or any(rest != rests[0] for rest in rests) or not rests[0]:
        return const(0)
    shift = expression(rests[0])
    return const(0) if any(node is index(name) or node is var(name) for node in walk(shift)) else shift
