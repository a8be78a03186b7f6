"""Where a captured gradient's sums go: one writer per element, in an order that no scheduler decides.

    index is b, h, i (or j)     an instance owns the element: a variable of its grid
    others                      loops inside the instance, in ascending order

A program of this kind stores sums per row (or column), `sums[b, h, m]`, or what each pair adds, `pairs[b, h, m, n]`.
Each pass here is `f(program, target) -> program`; `place_sums` chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..dtypes import DType, Kind
from ..edit import edit_body
from ..expr import Expr, Op, apply, as_expr, const, index, load, substitute, var, walk
from ..gradient import Term
from ..program import (
    Alloc,
    Fill,
    Grid,
    Index,
    Let,
    Load,
    Param,
    Program,
    RangeLoop,
    Reduce,
    Ref,
    ScatterAdd,
    Statement,
    Store,
    TileAt,
    TileAxis,
    TileLoop,
    Tiles,
)  # fmt: skip
from ..shapes import infer
from ..spec import COLUMN, ROW, Dim, TensorSpec
from .captured import PAIRS, form_of

CHUNKS = 8  # of the rows, each with a table of its own where instances would meet in one
CLEARED = (32, 256)  # tiles of a tensor that is set to zero
GATHERED = 256  # elements of a table that are added up at once
EXTENTS = {"b": var("B"), "h": var("Hq")}
OUT = "gradient"


@dataclass(frozen=True, slots=True)
class Target:
    """The tensor that a term belongs to, and the memory that its sums go to."""

    tensor: TensorSpec
    term: Term

    @property
    def owned(self) -> dict[str, int]:
        """Of b, h, i and j those that are an index, and which: different values never meet in one element."""
        found: dict[str, int] = {}
        for position, name in enumerate(self.term.bare):
            if name is not None:
                found.setdefault(name, position)
        return found

    @property
    def heads(self) -> tuple[str, ...]:
        """Which of b and h are owned."""
        return tuple(name for name in EXTENTS if name in self.owned)

    @property
    def dims(self) -> tuple[Expr, ...]:
        """The tensor's dimensions."""
        return tuple(_size(dim) for dim in self.tensor.dims)

    @property
    def is_covered(self) -> bool:
        """Whether the elements of all pairs are the whole tensor."""
        sizes = {"b": "B", "h": "Hq", "i": "M", "j": "N"}
        pairs = zip(self.term.bare, self.tensor.dims, strict=True)
        is_whole = all(dim == 1 if name is None else dim == sizes[name] for name, dim in pairs)
        return is_whole and sum(name is not None for name in self.term.bare) == len(self.owned)

    def at(self, line: str) -> tuple[Expr, ...]:
        """The elements of a tile of rows or columns."""
        return tuple(substitute(item, {"i": index(line), "j": index(line)}) for item in self.term.indices)


def place_sums(program: Program, target: Target) -> Program:
    """Add the program's sums to where the term's indices point. Its output is then `gradient`."""
    form = form_of(target.term)
    if form == PAIRS:
        return place_pairs(program, target)
    return place_lines(program, target)


# Sums of rows and columns


def place_lines(program: Program, target: Target) -> Program:
    """Sums of rows, or of columns, added up in a second grid.

    rewrite:
                                                  for t0 in grid(tiles(Hq, 256)): store(gradient[t0], 0.0)
        …                                   ->    …
        store(sums[b, h, m], sum_acc)             store(sums[b, h, m], sum_acc)
                                                  for h in grid(Hq): for b in range(0, B): …
    needs: an output sums[b, h, line].
    """
    sums = next(param for param in program.params if param.name == "sums")
    line = "n" if sums.dims[-1] == "N" else "m"
    tiles = infer(program).tiles[line]
    add = _second_grid(target, line, tiles)
    kept = Alloc("sums", DType.F32, tuple(_size(dim) for dim in sums.dims))
    return with_output(program, target, "sums", (kept, clear(OUT, target.dims), *program.body, add))


def _second_grid(target: Target, line: str, tiles: Tiles) -> Grid:
    """The grid that adds up sums per row or column: to an element each, to computed places, or to one element."""
    sums = Load("line_sums", Ref("sums", (var("b"), var("h"), TileAxis(line))))
    own = _place_of_line(target, line)
    if own is not None:
        store = Store(own, _float("line_before") + _float("line_sums"))
        return _grid(target.heads, (sums, Load("line_before", own), store), (line, tiles))
    at = target.at(line)
    if any(index(line) in walk(item) for item in at):
        return _grid(target.heads, (TileLoop(line, tiles, (sums, _scatter(at, _float("line_sums")))),))
    more = Let("whole_sum", _float("whole_sum") + _float("tile_sum"))
    loop = TileLoop(line, tiles, (sums, Reduce("tile_sum", "sum", "line_sums", line), more))
    out = Ref(OUT, at)
    add = (Load("line_before", out), Store(out, _float("line_before") + _float("whole_sum")))
    return _grid(target.heads, (Fill("whole_sum", DType.F32, (), const(0.0)), loop, *add))


def _place_of_line(target: Target, line: str) -> Ref | None:
    """The tile of a line's elements; None where they lie at computed places, or are one."""
    position = target.owned.get(str((ROW if line == "m" else COLUMN).attr))
    others = [item for n, item in enumerate(target.at(line)) if n != position]
    if position is None or any(index(line) in walk(item) for item in others):
        return None
    return Ref(OUT, tuple(TileAxis(line) if n == position else item for n, item in enumerate(target.at(line))))


# Pairs


def place_pairs(program: Program, target: Target) -> Program:
    """What each pair adds, added to where its indices point."""
    main = main_grid(program)
    owned = target.owned
    places = (owned.get("i"), owned.get("j"))
    others = [item for n, item in enumerate(target.term.indices) if n not in places]
    if {"i", "j"} <= owned.keys() and not any(node in (ROW, COLUMN) for item in others for node in walk(item)):
        return store_pairs(program, main, target)
    free = [dim for n, dim in enumerate(target.tensor.dims) if n not in owned.values() and isinstance(dim, str)]
    if "i" in owned or len(free) > 1:
        return scatter_pairs(program, main, target)
    return scatter_chunks(program, main, target)


def store_pairs(program: Program, main: Grid, target: Target) -> Program:
    """Pairs with an element each: it is stored, or added to over b and h where they share it.

    rewrite:
        for b, h, m in grid(B, Hq, tiles(M, 64)):           for h, m in grid(Hq, tiles(M, 64)):
            …                                         ->        for n in tiles(N, 64): store(gradient[h, m, n], 0.0)
                store(pairs[b, h, m, n], ds)                    for b in range(0, B):
                                                                    …
                                                                        before = load(gradient[h, m, n])
                                                                        store(gradient[h, m, n], before + ds)
    needs: i and j are indices.
    """
    i, j = (target.owned[name] for name in "ij")
    axes = {i: TileAxis("m"), j: TileAxis("n")}
    place: tuple[Index, ...] = tuple(axes.get(n, item) for n, item in enumerate(target.term.indices))
    out = Ref(OUT, place)
    body = instead_of_pairs(main, _added(out, target, is_turned=j < i))
    tiles = main.extents[-1]
    assert isinstance(tiles, Tiles)
    cleared = TileLoop("n", infer(program).tiles["n"], (Store(out, const(0.0)),))
    if target.is_covered:
        grid = _grid(target.heads, body, ("m", tiles), order=main.order, before=(cleared,))
        return with_output(program, target, "pairs", _replaced(program, main, (grid,)))
    grid = _grid(target.heads, body, ("m", tiles), order=main.order)
    return with_output(program, target, "pairs", _replaced(program, main, (clear(OUT, target.dims), grid)))


def _added(out: Ref, target: Target, *, is_turned: bool) -> tuple[Statement, ...]:
    """Statements that add what pairs give to their elements, which lie column by column where is_turned."""
    ds = _float("ds")
    if len(target.heads) == len(EXTENTS):
        return (Store(out, ds),)
    if is_turned:
        return (Store(out, load(OUT, target.term.indices, Kind.FLOAT) + ds),)
    return (Load("before", out), Store(out, _float("before") + ds))


def scatter_pairs(program: Program, main: Grid, target: Target) -> Program:
    """Pairs that may meet in elements of one instance: added there one after another.

    rewrite:
        store(pairs[b, h, m, n], ds)      ->      scatter_add(gradient[h, i, j % 7], ds, where=ds != 0.0)
    needs: nothing; only b, h and i that are indices are run in parallel.
    """
    tiles = main.extents[-1]
    assert isinstance(tiles, Tiles)
    add = _scatter(target.term.indices, var("ds", Kind.FLOAT))
    body = instead_of_pairs(main, (add,))
    if "i" in target.owned:
        grid = _grid(target.heads, body, ("m", tiles), order=main.order)
    else:
        grid = _grid(target.heads, (TileLoop("m", tiles, body),))
    return with_output(program, target, "pairs", _replaced(program, main, (clear(OUT, target.dims), grid)))


def scatter_chunks(program: Program, main: Grid, target: Target) -> Program:
    """Pairs that may meet anywhere in a table: a table for each chunk of the rows, added up in a grid of its own.

    rewrite:
        for b, h, m in grid(B, Hq, tiles(M, 64)):         for chunk, h in grid(8, Hq): for b in range(0, B):
            …                                                 for step in range(…): m = tile(M, 64, chunk + step * 8)
                store(pairs[b, h, m, n], ds)      ->              … scatter_add(tables[chunk, h, bucket], ds, …)
                                                          for h, t1 in grid(Hq, tiles(T0, 256)): …
    needs: nothing. The count of chunks is fixed, so that bits do not depend on who runs them.
    """
    tiles = main.extents[-1]
    assert isinstance(tiles, Tiles)
    order = [*(target.owned[name] for name in target.heads)]
    order += [n for n in range(len(target.dims)) if n not in order]  # of the tensor's dimensions in a table
    chunk = var("chunk")
    add = _scatter((chunk, *(target.term.indices[n] for n in order)), var("ds", Kind.FLOAT), "tables")
    number = apply(Op.FLOORDIV, tiles.extent + (tiles.tile - 1), tiles.tile)
    count = apply(Op.FLOORDIV, number - chunk + (CHUNKS - 1), CHUNKS)
    row = TileAt("m", tiles, chunk + var("step") * CHUNKS)
    body = (RangeLoop("step", const(0), count, (row, *instead_of_pairs(main, (add,)))),)
    grid = _grid(target.heads, body, first=("chunk", const(CHUNKS)))
    dims = (const(CHUNKS), *(target.dims[n] for n in order))
    tables = Alloc("tables", DType.F32, dims)
    new = (clear("tables", dims), grid, add_tables(target, order))
    return with_output(program, target, "pairs", (tables, *_replaced(program, main, new)))


def add_tables(target: Target, order: Sequence[int]) -> Grid:
    """The grid that adds up the tables of all chunks, in ascending order."""
    names = [f"t{n}" for n in range(len(order))]
    last = order[-1]
    place: tuple[Index, ...] = tuple(TileAxis(names[n]) if n == last else var(names[n]) for n in range(len(order)))
    here = tuple(place[n] for n in order)
    extents = tuple(Tiles(target.dims[n], GATHERED) if n == last else target.dims[n] for n in order)
    body = (
        Load("table_sum", Ref("tables", (const(0), *here))),
        RangeLoop("chunk", const(1), const(CHUNKS), (
            Load("table_part", Ref("tables", (var("chunk"), *here))),
            Let("table_sum", _float("table_sum") + _float("table_part")),
        )),
        Store(Ref(OUT, place), _float("table_sum")),
    )  # fmt: skip
    return Grid(tuple(names[n] for n in order), extents, body)


def main_grid(program: Program) -> Grid:
    """The grid that stores what pairs give."""
    return next(s for s in program.body if isinstance(s, Grid) and _stores_pairs(s))


def _stores_pairs(grid: Grid) -> bool:
    found: list[Statement] = []
    edit_body(grid.body, lambda s: found.append(s) or s)  # type: ignore[func-returns-value]
    return any(_is_pairs(s) for s in found)


def _is_pairs(statement: Statement) -> bool:
    return isinstance(statement, Store) and statement.target.name == "pairs"


def instead_of_pairs(main: Grid, add: tuple[Statement, ...]) -> tuple[Statement, ...]:
    """The grid's body with other statements where it stores pairs."""
    return edit_body(main.body, lambda s: add if _is_pairs(s) else s)


def _replaced(program: Program, main: Grid, new: tuple[Statement, ...]) -> tuple[Statement, ...]:
    return tuple(part for s in program.body for part in (new if s is main else (s,)))


# Pieces


def clear(name: str, dims: tuple[Expr, ...]) -> Grid:
    """A grid that sets a tensor to zero, in tiles of its last two dimensions."""
    names = [f"z{n}" for n in range(len(dims))]
    sizes = dict(zip(names[-2:], CLEARED[-len(names[-2:]) :], strict=True)) if dims else {}
    place: tuple[Index, ...] = tuple(TileAxis(n) if n in sizes else var(n) for n in names)
    extents = tuple(Tiles(dim, sizes[n]) if n in sizes else dim for n, dim in zip(names, dims, strict=True))
    return Grid(tuple(names) or ("whole",), extents or (const(1),), (Store(Ref(name, place), const(0.0)),))


def _scatter(indices: tuple[Expr, ...], value: Expr, name: str = OUT) -> ScatterAdd:
    """Pairs that add nothing, such as masked ones, are left out: their indices may be anything."""
    return ScatterAdd(Ref(name, indices), value, apply(Op.NE, value, 0.0))


def _grid(
    heads: Sequence[str], body: tuple[Statement, ...], last: tuple[str, Tiles] | None = None,
    *, first: tuple[str, Expr] | None = None, order: str = "ascending", before: tuple[Statement, ...] = (),
) -> Grid:  # fmt: skip
    """A grid over those of b and h that an instance owns, with loops over the others in it, after what comes before."""
    body = in_heads(heads, body)
    axes: list[tuple[str, Expr | Tiles]] = [] if first is None else [first]
    axes += [(name, EXTENTS[name]) for name in heads]
    axes += [] if last is None else [last]
    axes = axes or [("whole", const(1))]
    return Grid(tuple(name for name, _ in axes), tuple(extent for _, extent in axes), (*before, *body), order)


def in_heads(heads: Sequence[str], body: tuple[Statement, ...]) -> tuple[Statement, ...]:
    """Statements in loops over those of b and h that are not in `heads`."""
    for name in reversed(EXTENTS):
        if name not in heads:
            body = (RangeLoop(name, const(0), EXTENTS[name], body),)
    return body


def with_output(program: Program, target: Target, old: str, body: tuple[Statement, ...]) -> Program:
    """The program with another body, and the gradient for its output `old`."""
    params = tuple(
        Param(OUT, DType.F32, target.tensor.dims, is_output=True) if p.name == old else p for p in program.params
    )
    allocs = tuple(s for s in body if isinstance(s, Alloc))
    return replace(program, params=params, body=(*allocs, *(s for s in body if not isinstance(s, Alloc))))


def _size(dim: Dim) -> Expr:
    return var(dim) if isinstance(dim, str) else as_expr(dim)


def _float(name: str) -> Expr:
    return var(name, Kind.FLOAT)


__all__ = [
    "CHUNKS", "EXTENTS", "OUT", "Target", "add_tables", "clear", "in_heads", "instead_of_pairs", "main_grid",
    "place_sums", "with_output",
]  # fmt: skip
