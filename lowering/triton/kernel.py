"""The walker: one grid becomes one Triton kernel. Its state is what has been bound; statements.py has the table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ...ir.dtypes import DType, Kind
from ...ir.edit import resolved
from ...ir.expr import Expr, Op, free_vars, loads, rebuild, transform, var, walk
from ...ir.printer import COMPARE, TERM, Path
from ...ir.program import (
    Alloc,
    Fill,
    Gemm,
    Grid,
    Let,
    RangeLoop,
    Reduce,
    ReduceAdd,
    Ref,
    Statement,
    TileAt,
    TileLoop,
    Tiles,
    statements,
)  # fmt: skip
from ...ir.shapes import TileType
from ...ir.sharing import shared_parts
from .bound import dependencies, expressions_of, is_run_time, names_in, tile_references
from .context import Context
from .expressions import ExpressionWriter, folded
from .layout import statement_lines
from .loops import is_heavier_later
from .memory import element_place, load_lines
from .orientation import orders_of
from .statements import WRITERS
from .turns import TAKE_NEXT, is_ordered, look_up_again, open_tickets


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel of the file: its name, what it takes, its body, and what launching and tuning ask of it.

    `products`: how many different tiles are products. `merge`: the function that the last instance of each group calls,
    see arrivals.py. `turns`: counters of the additions in order that it makes, see turns.py; there are some just where
    its programs take instances in order.
    """

    name: str
    tensors: tuple[str, ...]
    sizes: tuple[str, ...]
    body: tuple[str, ...]
    grid: Grid
    stages: int | None
    products: int
    has_wide_loads: bool
    restores: tuple[str, ...]
    turns: tuple[str, ...] = ()
    merge: Kernel | None = None


class KernelWriter:
    """Writes one grid. Its state is what has been bound so far; `line` and `block` append text.

    `is_merge`: write what one instance does, as a function of the grid's variables.
    """

    def __init__(self, context: Context, grid: Grid, path: Path, is_merge: bool = False) -> None:
        self.context, self.shapes, self.grid, self.path = context, context.shapes, grid, path
        self.is_merge, self.is_ordered = is_merge, is_ordered(grid)
        self.counts: dict[str, str] = {}
        self.orders = orders_of(self.shapes, grid)
        self.turns: dict[str, None] = {}
        self.expressions = ExpressionWriter(
            context.shapes, context.names, self.index, context.call_parameters, context.functions
        )
        self.lines: list[str] = []
        self.depth = 1
        self.plans: dict[object, dict[str, Expr]] = {}
        self._tensors: set[str] = set()
        self._sizes: set[str] = set()
        self._spans: dict[str, str] = {}
        self._starts: dict[str, str] = {}
        self._rows: dict[str, str] = {}
        self._firsts: dict[str, str] = {}
        self.counted: dict[str, tuple[str, int]] = {}
        self._left: dict[tuple[str, str], str] = {}
        counted = {*grid.names, *(s.name for s in statements(grid.body) if isinstance(s, (RangeLoop, TileLoop)))}
        tiles = [s for s in statements(grid.body) if isinstance(s, TileAt)]
        self._chosen = {s.name for s in tiles if not self._is_counted(s.number, counted)}
        self._indices: dict[str, str] = {}
        self._tiles_of: dict[str, str] = {}
        self._elements: dict[Expr, str] = {}
        self._extents: dict[str, Expr] = {}
        self.wide: set[str] = set()
        self._whole: set[str] = set()
        self._has_wide_loads = False
        self._given: dict[object, str] = {}
        self._loaded: dict[tuple[Ref, Expr | None], str] = {}

    # Text

    def line(self, *texts: str) -> None:
        """Append lines at the current depth."""
        self.lines += ["    " * self.depth + text for text in texts]

    @contextmanager
    def block(self, *header: str) -> Iterator[None]:
        """A block; what is bound or loaded inside is forgotten after it."""
        self.line(*header)
        saved = [dict(known) for known in self._known()]
        self.depth += 1
        first = len(self.lines)
        yield
        if len(self.lines) == first:
            self.line("pass")
        self.depth -= 1
        for known, before in zip(self._known(), saved, strict=True):
            known.clear()
            known.update(before)

    def _known(self) -> tuple[dict[Any, Any], ...]:
        """What has been bound or loaded so far."""
        return (
            self._elements, self._indices, self._tiles_of, self._starts, self._rows, self._left, self._extents,
            self._loaded, self._firsts, self.counted, self.plans,
        )  # fmt: skip

    # Names

    def use_tensor(self, tensor: str) -> tuple[str, ...]:
        """Make a tensor an argument of the kernel; names of its strides."""
        self._tensors.add(tensor)
        strides = self.context.strides(tensor)
        self._sizes.update(size for size in self.context.sizes if any(size in text.split(" * ") for text in strides))
        return strides

    def note_wide_load(self, tensor: str, has_rows: bool) -> None:
        """Take note of a tile of two axes loaded from a captured tensor; `has_rows`: along its last dimension."""
        self._has_wide_loads = True
        if has_rows and tensor in {param.name for param in self.context.program.params if not param.is_output}:
            self.context.aligned.add(tensor)

    def use_size(self, dim: str) -> str:
        """Text of a dimension; a run-time size becomes an argument of the kernel."""
        if dim in self.context.sizes:
            self._sizes.add(dim)
        return self.context.size(dim)

    def span(self, axis: str) -> str:
        """Name of 0, 1, 2, … along an axis, defined at the top of the kernel."""
        if axis not in self._spans:
            self._spans[axis] = self.context.names.fresh(f"span_{axis.lower()}")
        return self._spans[axis]

    def given(self, key: object, name: str) -> str:
        """The name given to what `key` stands for; the same one whenever it is asked for."""
        if key not in self._given:
            self._given[key] = self.context.names.fresh(name)
        return self._given[key]

    def start(self, tile: str) -> str:
        """Name of a tile's first element, in 64 bits; defines it at its first use."""
        if tile not in self._starts:
            self._starts[tile] = self.given(("start", tile), f"{tile}_start")
            name, size = self.context.names(tile), self.context.tile(tile)
            first = self._firsts.get(tile)
            text = f"tl.cast({first}, tl.int64)" if first else f"tl.cast({name}, tl.int64) * {size}"
            self.line(f"{self._starts[tile]} = {text}")
        return self._starts[tile]

    def rows(self, tile: str) -> str:
        """Name of the indices that a tile covers, in 64 bits as offsets need them; defines it at its first use."""
        if tile not in self._rows:
            self._rows[tile] = self.given(("rows", tile), f"rows_{tile}")
            is_chosen = self.is_chosen(tile)  # see exists()
            text = f"{self.start(tile)} + {self.span(tile)}" if is_chosen else f"{self.index(tile)}.to(tl.int64)"
            self.line(f"{self._rows[tile]} = {text}")
        return self._rows[tile]

    def first(self, tile: str) -> str:
        """Text of a tile's first element, in 32 bits."""
        return self._firsts.get(tile) or f"{self.context.names(tile)} * {self.context.tile(tile)}"

    def exists(self, tile: str, dim: str) -> tuple[str, str]:
        """Two numbers of which the first is less where a row of a tile is none past the end of a dimension.

        A tile chosen by a table is loaded ahead of its use. Its indices, if the condition were about them, would be
        computed as early and kept in registers; so it is about how many rows are left.
        """
        if not self.is_chosen(tile):
            return self.index(tile), self.use_size(dim)
        if (tile, dim) not in self._left:
            self._left[tile, dim] = self.given(("left", tile, dim), f"{tile}_left")
            self.line(f"{self._left[tile, dim]} = {self.use_size(dim)} - {self.first(tile)}")
        return self.span(tile), self._left[tile, dim]

    def is_chosen(self, tile: str) -> bool:
        """Whether tiles are those that a table says, not those of a grid or a loop one after the other."""
        return tile in self._chosen

    def _is_counted(self, number: Expr, counted: set[str]) -> bool:
        """Whether a number is a formula of sizes and of what grids and loops count."""
        plain = resolved(self.context.inline(number), self.context.definitions)
        return not loads(plain) and free_vars(plain) <= {*counted, *self.context.sizes, *self.shapes.sizes}

    def index(self, tile: str) -> str:
        """Name of the indices that a tile covers; defines it at its first use."""
        if tile not in self._indices:
            name = self.given(("index", tile), f"index_{tile}")
            self.define_index(name, tile)
        return self.context.names(self._indices[tile])

    def define_index(self, name: str, tile: str) -> None:
        """Write `name = tile * TILE + span`, or another name's value, which they have already."""
        known = self._indices.setdefault(tile, name)
        value = f"{self.first(tile)} + {self.span(tile)}" if known == name else self.context.names(known)
        self.line(f"{self.context.names(name)} = {value}")
        self._tiles_of[name] = tile

    def bind_tile(self, name: str, is_whole: bool, body: tuple[Statement, ...], first: str | None = None) -> None:
        """Take note of a tile variable whose line has been written.

        `is_whole`: none of its tiles is ragged. `first`: the name of its first element, where a loop counts those.
        """
        self.forget({name})
        self._firsts.pop(name, None)
        if first is not None:
            self._firsts[name] = first
        (self._whole.add if is_whole else self._whole.discard)(name)
        self._starts.pop(name, None)
        self._rows.pop(name, None)
        self._left = {key: text for key, text in self._left.items() if key[0] != name}
        if self.is_chosen(name) and name in tile_references(body):
            self.start(name)

    def tile_of(self, index: Expr) -> str | None:
        """The tile variable whose indices an expression is, if it is just that."""
        if index.op is Op.INDEX:
            return str(index.attr)
        return self._tiles_of.get(str(index.attr)) if index.op is Op.VAR else None

    def extent(self, tile: str) -> Expr:
        """How many elements a tile variable's tiles cover: of sizes, or the name of the line that computes it."""
        extent = folded(self.context.inline(self.shapes.tiles[tile].extent), self.shapes.sizes)
        return self._extents.get(tile, var(f"{tile}_extent")) if is_run_time(extent, self.context.sizes) else extent

    def define_extent(self, tile: str, path: Path) -> None:
        """Write the line that computes an extent, where it is known only now."""
        extent = folded(self.context.inline(self.shapes.tiles[tile].extent), self.shapes.sizes)
        if tile in self._extents or not is_run_time(extent, self.context.sizes):
            return
        name = self.given(("extent", tile), f"{tile}_extent")
        self.line(*statement_lines(f"{name} = ", self.short_text(extent, path)))
        self._extents[tile] = var(name)

    def short_text(self, value: Expr, path: Path) -> str:
        """Text of an integer scalar in 32 bits."""
        text = self.text(value, (), path)
        return f"tl.cast({text}, tl.int32)" if self.is_wide(value) else text

    def is_past_end(self, tile: str) -> bool:
        """Whether rows of a tile may lie past the end of what its tiles cover."""
        extent = self.extent(tile)
        is_exact = extent.op is Op.CONST and int(str(extent.attr)) % self.shapes.tiles[tile].tile == 0
        return tile not in self._whole and not is_exact

    def is_ragged(self, tile: str, dim: str) -> bool:
        """Whether rows of a tile may lie past the end of a dimension."""
        size = str(self.shapes.sizes.get(dim, dim))
        return str(self.extent(tile)) != size or self.is_past_end(tile)

    def is_wide(self, expr: Expr) -> bool:
        """Whether the text of an integer computes in 64 bits: with such elements, or widened for an offset."""
        if expr.op is Op.VAR:
            kind = self.shapes.names.get(str(expr.attr))
            return str(expr.attr) in self.wide or (kind is not None and kind.dtype is DType.I64)
        if expr.op is Op.LOAD:
            return self.shapes.dtype(str(expr.attr)) is DType.I64
        if expr.op is Op.CAST or expr.kind is not Kind.INT:
            return expr.attr is DType.I64
        return any(self.is_wide(arg) for arg in expr.args)

    def forget(self, names: set[str]) -> None:
        """Drop what was derived from names that are bound anew."""
        stale = set(names)
        while True:
            derived = {name for node, name in self._elements.items() if not stale.isdisjoint(dependencies(node))}
            if derived <= stale:
                break
            stale |= derived
        self._elements = {node: name for node, name in self._elements.items() if name not in stale}
        self._tiles_of = {name: tile for name, tile in self._tiles_of.items() if not {name, tile} & stale}
        self._indices = {tile: name for tile, name in self._indices.items() if not {name, tile} & stale}
        tiles = self.shapes.tiles
        self._extents = {t: end for t, end in self._extents.items() if stale.isdisjoint(free_vars(tiles[t].extent))}
        self._loaded = {key: n for key, n in self._loaded.items() if stale.isdisjoint({n, *names_in(*key)})}

    # Expressions

    def prepare(self, expr: Expr, path: Path) -> Expr:
        """The expression ready to be written: regions resolved, literals folded, its loads written as lines."""
        plain = folded(transform(expr, self._resolve), self.shapes.sizes)
        ready = transform(plain, lambda node: self._element(node, path) if node.op is Op.LOAD else None)
        self._note_sizes(ready)
        return ready

    def text(self, expr: Expr, axes: tuple[str, ...], path: Path, context: int = 0) -> str:
        """Text of an expression over `axes`, after the lines that it needs."""
        return self.expressions.text(self.share(self.prepare(expr, path)), axes, context)

    def share(self, ready: Expr) -> Expr:
        """The expression with large parts that it uses twice replaced by names, after the lines of those."""
        bindings, result = shared_parts(ready, lambda: self.context.names.numbered("part"))
        for name, value in bindings:
            own = self.oriented(self.expressions.axes(value))
            self.line(*statement_lines(f"{name} = ", self.expressions.text(value, own)))
            self._has_wide_loads |= len(own) > 1  # which ask for as many registers
            self.shapes.names[name] = TileType(self.expressions.dtype(value), own)
            if not self.expressions.is_nonnegative(value):
                self.expressions.may_be_negative.add(name)
            if self.is_wide(value) and value.op is not Op.CAST:
                self.wide.add(name)
        return result

    def _resolve(self, node: Expr) -> Expr | None:
        if node.op is not Op.CALL:
            return None
        body = self.context.inlined[str(node.attr)].body
        has_floor = any(part.op in (Op.FLOORDIV, Op.MOD) for part in walk(body))
        is_plain = not has_floor or all(
            arg.kind is not Kind.INT or self.expressions.is_nonnegative(arg) for arg in node.args
        )
        return None if str(node.attr) in self.context.call_parameters and is_plain else self.context.body(node)

    def _note_sizes(self, expr: Expr) -> None:
        for node in walk(expr):
            names: tuple[str, ...] = (str(node.attr),) if node.op is Op.VAR else ()
            if node.op is Op.CALL:
                names = self.context.call_parameters[str(node.attr)][1]
            self._sizes.update(name for name in names if name in self.context.sizes)

    def _element(self, node: Expr, path: Path) -> Expr:
        if node not in self._elements:
            self._load_element(self.given(node, self._element_name(node)), node, path)
        return var(self._elements[node], node.kind)

    def _element_name(self, node: Expr) -> str:
        """A name for an element: its tensor and what its place depends on."""
        kinds = (Op.VAR, Op.INDEX) if self.expressions.axes(node) else (Op.VAR, Op.CONST)
        marks = [str(part.attr) for arg in node.args for part in walk(arg) if part.op in kinds]
        return "_".join(dict.fromkeys([self.context.names(str(node.attr)), *(m for m in marks if m.isalnum())]))

    def _load_element(self, name: str, node: Expr, path: Path) -> None:
        place = element_place(self, node, path)
        for index in node.args:
            self._note_sizes(index)
        self.line(*load_lines(name, place))
        self.shapes.names[name] = TileType(self.shapes.dtype(str(node.attr)), place.axes)
        self.expressions.may_be_negative.add(name)
        self._elements[node] = name

    def is_element(self, name: str, value: Expr, path: Path) -> bool:
        """Write `name = value` if that is one element of a table of integers, which nothing has loaded yet."""
        resolved = folded(transform(value, self._resolve), self.shapes.sizes)
        if resolved.op is not Op.LOAD or self.shapes.dtype(str(resolved.attr)) is not DType.I32:
            return False
        node = rebuild(resolved, tuple(self.prepare(arg, path) for arg in resolved.args))
        if node in self._elements or self.expressions.axes(node):
            return False
        self._load_element(name, node, path)
        return True

    def oriented(self, axes: tuple[str, ...]) -> tuple[str, ...]:
        """Axes of a tile in the order in which this kernel holds it, see orientation.py."""
        return self.orders.get(frozenset(axes), axes)

    def loaded(self, name: str, source: Ref, where: Expr | None) -> str | None:
        """The name of a tile already loaded from there, where nothing writes; else `name` is what is loaded now."""
        inputs = {param.name for param in self.context.program.params if not param.is_output}
        if source.name not in inputs:
            return None
        return self._loaded.setdefault((source, where), name)

    def hoist(self, body: tuple[Statement, ...], extra: tuple[Expr, ...], bound: set[str], path: Path) -> None:
        """Write, before a loop, the element loads of its body that do not change in it."""
        self.forget(bound)
        for expr in (*extra, *expressions_of(body)):
            resolved = folded(transform(expr, self._resolve), self.shapes.sizes)
            for node in walk(resolved):
                if node.op is Op.LOAD and bound.isdisjoint(dependencies(node)):
                    self.prepare(node, path)

    # Statements

    def kernel(self, name: str) -> Kernel:
        """The whole kernel."""
        self._orient()
        if self.is_merge:
            self._bind_given()
        else:
            self._open_grid()
        self.body(self.grid.body, self.path)
        if self.is_ordered:
            self.line(TAKE_NEXT)
        spans = [f"    {name} = tl.arange(0, {self.context.tile(axis)})" for axis, name in self._spans.items()]
        inside = list(statements(self.grid.body))
        params = [*(p.name for p in self.context.program.params), *self._allocated(), *self.context.summaries]
        stages = [s.stages for s in inside if isinstance(s, (TileLoop, RangeLoop)) and s.stages > 1]
        return Kernel(
            name=name,
            tensors=tuple(param for param in params if param in self._tensors),
            sizes=tuple(size for size in self.context.sizes if size in self._sizes),
            body=(*spans, *self.lines),
            grid=self.grid,
            stages=max(stages, default=None),
            has_wide_loads=self._has_wide_loads,
            products=len({s.name for s in inside if isinstance(s, Gemm)}),
            restores=tuple(dict.fromkeys(s.target.name for s in inside if isinstance(s, ReduceAdd))),
            turns=tuple(self.turns),
        )

    def _orient(self) -> None:
        """Give the tiles that this grid computes their order of axes."""
        for s in statements(self.grid.body):
            if isinstance(s, (Let, Gemm, Fill, Reduce)):
                kind = self.shapes.names[s.name]
                self.shapes.names[s.name] = TileType(kind.dtype, self.oriented(kind.axes))

    def _allocated(self) -> list[str]:
        return [s.name for s in self.context.program.body if isinstance(s, Alloc)]

    def _open_grid(self) -> None:
        """Write the grid's variables from the program's number or its ticket: the last one varies fastest."""
        heavier_later = self.grid.order == "longest_first" and is_heavier_later(self)
        is_reversed = self.grid.order == "descending" or heavier_later
        rest = open_tickets(self) if self.is_ordered else "pid"
        if not self.is_ordered:
            self.line("pid = tl.program_id(0)")
        for position in reversed(range(len(self.grid.names))):
            name, extent = self.grid.names[position], self.grid.extents[position]
            text = self.context.names(name)
            count = self.counts[name] = self.counts.get(name) or self.count_of(extent, name)
            value = rest if position == 0 else f"{rest} % {count}"
            if isinstance(extent, Tiles):
                note = "  # heavy tiles first" if heavier_later else ""
                self.line(f"{text} = {count} - 1 - {value}{note}" if is_reversed else f"{text} = {value}")
                self.bind_tile(name, False, self.grid.body)
            else:
                self.line(f"{text} = {value}")
            rest = f"{rest} // {count}"
        for name in self.grid.names:
            self._leave_past_end(name)

    def _bind_given(self) -> None:
        """The grid's variables are the function's arguments."""
        for name in self.grid.names:
            if name in self.shapes.tiles:
                self.bind_tile(name, False, self.grid.body)
                self.define_extent(name, self.path)

    def instance(self, names: tuple[str, ...]) -> str:
        """The number of the instance of a grid that has some of this one's variables."""
        text = self.context.names(names[0])
        for name in names[1:]:
            text = f"({text})" if "+" in text else text
            text = f"{text} * {self.counts[name]} + {self.context.names(name)}"
        return text

    def _leave_past_end(self, name: str) -> None:
        """Instances of a ragged grid beyond the end of their tiles do nothing."""
        if name in self.shapes.tiles and self.shapes.tiles[name].most is not None:
            self.define_extent(name, self.path)
            end = self.text(self.extent(name), (), self.path, COMPARE + 1)
            with self.block(f"if {self.context.names(name)} * {self.context.tile(name)} >= {end}:"):
                self.line("return")

    def count_of(self, extent: Expr | Tiles, name: str) -> str:
        """Text of how many values a variable of the grid takes, after the line that it needs."""
        if isinstance(extent, Tiles):
            count = self.context.names.fresh(f"tiles_{name}")
            size = self.text(extent.most or extent.extent, (), self.path)
            self.line(f"{count} = tl.cdiv({size}, {self.context.tile(name)})")
            return count
        return self.text(extent, (), self.path, TERM + 1)

    def body(self, body: tuple[Statement, ...], path: Path) -> None:
        """The statements of a block."""
        for position, statement in enumerate(body):
            WRITERS[type(statement)](self, statement, (*path, position))
            if self.is_ordered and isinstance(statement, RangeLoop) and path == self.path:
                look_up_again(self, body, position)
