"""Gradients of tables for targets without `scatter_add`: every entry looks for the pairs that meet in it.

A tile of entries stays with one instance, which goes over all pairs of its chunk of the rows and, entry by entry, adds
up those whose index it is. A tile of pairs is gone over as often as there are entries in a tile, where `scatter_add`
does it once; but there is one writer per entry, and one order of additions.
"""

from __future__ import annotations

from ..dtypes import DType, Kind
from ..errors import ScheduleError
from ..expr import Expr, Op, apply, const, index, select, var, walk
from ..program import Alloc, Fill, Grid, Let, Program, RangeLoop, Reduce, Ref, Store, TileAt, TileAxis, Tiles
from ..spec import COLUMN, ROW
from .captured_places import CHUNKS, EXTENTS, Target, add_tables, in_heads, instead_of_pairs, main_grid, with_output

__all__ = ["gather_pairs"]

ENTRIES = 32  # of a table that an instance keeps


def gather_pairs(program: Program, target: Target) -> Program:
    """Pairs that may meet in a table: each entry adds up its own, in a table for each chunk of the rows.

    rewrite:
        for b, h, m in grid(B, Hq, tiles(M, 64)):         for chunk, h, t in grid(8, Hq, tiles(T0, 32)):
            …                                                 for b in range(0, B): for step in range(…): …
                store(pairs[b, h, m, n], ds)      ->              for entry in range(0, 32):
                                                                      hit = where(place == t * 32 + entry, ds, 0.0)
                                                                      … entry_sums[entry] += the sum of hit
                                                              store(tables[chunk, h, t], entry_sums)
                                                          for h, t1 in grid(Hq, tiles(T0, 256)): …
    needs: one index that i or j are in, all others b or h alone. Raises ScheduleError otherwise.
    """
    main = main_grid(program)
    tiles = main.extents[-1]
    assert isinstance(tiles, Tiles)
    heads = [target.owned[name] for name in target.heads]
    free = [n for n, item in enumerate(target.term.indices) if n not in heads and item.op is not Op.CONST]
    if len(free) != 1 or not any(node in (ROW, COLUMN) for node in walk(target.term.indices[free[0]])):
        raise ScheduleError(f"transfer: the gradient of {target.tensor.name} needs one computed index, got {len(free)}")
    order = [*heads, *(n for n in range(len(target.dims)) if n not in heads and n != free[0]), free[0]]
    entries = Tiles(target.dims[free[0]], ENTRIES)
    chunk = var("chunk")
    number = apply(Op.FLOORDIV, tiles.extent + (tiles.tile - 1), tiles.tile)
    count = apply(Op.FLOORDIV, number - chunk + (CHUNKS - 1), CHUNKS)
    row = TileAt("m", tiles, chunk + var("step") * CHUNKS)
    pairs = RangeLoop("step", const(0), count, (row, *instead_of_pairs(main, _hits(target.term.indices[free[0]]))))
    place = Ref("tables", (chunk, *(target.term.indices[n] for n in order[:-1]), TileAxis("t")))
    sums = Fill("entry_sums", DType.F32, ("t",), const(0.0))
    body = (sums, *in_heads(target.heads, (pairs,)), Store(place, _float("entry_sums")))
    extents: tuple[Expr | Tiles, ...] = (const(CHUNKS), *(EXTENTS[name] for name in target.heads), entries)
    grid = Grid(("chunk", *target.heads, "t"), extents, body)
    dims = (const(CHUNKS), *(target.dims[n] for n in order))
    tables = Alloc("tables", DType.F32, dims)
    new = (grid, add_tables(target, order))
    whole = tuple(part for s in program.body for part in (new if s is main else (s,)))
    return with_output(program, target, "pairs", (tables, *whole))


def _hits(place: Expr) -> tuple[Let | RangeLoop, ...]:
    """Statements that add what a tile of pairs gives to the entries of tile t."""
    entry = var("t") * ENTRIES + var("entry")
    hit = select(apply(Op.EQ, var("place"), entry), _float("ds"), 0.0)
    mine = select(apply(Op.EQ, index("t"), entry), _float("hit_sum"), 0.0)
    found = (
        Let("hit", hit),
        Reduce("hit_rows", "sum", "hit", "n"),
        Reduce("hit_sum", "sum", "hit_rows", "m"),
        Let("entry_sums", _float("entry_sums") + mine),
    )
    return Let("place", place), RangeLoop("entry", const(0), const(ENTRIES), found)


def _float(name: str) -> Expr:
    return var(name, Kind.FLOAT)
