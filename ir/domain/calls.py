"""The `where=` of a tile loop as a predicate over one row and one column, ready for the analysis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..edit import definitions, inlined, resolved
from ..expr import Expr, Op, free_vars, index, substitute, transform, var, walk
from ..program import Grid, Program, RangeLoop, Role, TileAt, TileLoop, Tiles, statements
from .linear import is_nonnegative


@dataclass(frozen=True, slots=True)
class Question:
    """`predicate` (BOOL) over VARs `row_name` and `column_name`, the indices of tile variable `row` and of the loop.

    `row` is None where no other tile variable decides. Everything else in the predicate is the same for the whole
    tile: sizes, variables of grids and loops (all at least 0), elements of inputs.
    """

    predicate: Expr
    row: str | None
    row_name: str
    column_name: str


def question_of(loop: TileLoop, program: Program) -> Question | None:
    """What the loop asks; None for a loop without `where=`.

    Names that stand for one expression are replaced by it, so that bounds are found through them. Raises ValueError
    where the arguments are of another form, naming what is in the way.
    """
    if loop.where is None:
        return None
    tiles = tile_variables(program)
    region = program.region(str(loop.where.attr))
    known = definitions(program)
    plain = {p.name: str(a.attr) for p, a in zip(region.params, loop.where.args, strict=True) if _is_tile(a, tiles)}
    given = {p.name: a for p, a in zip(region.params, loop.where.args, strict=True)}
    args = {name: _indices(inlined(resolved(arg, known), program), tiles) for name, arg in given.items()}
    _check(loop, args, program, tiles)
    rows = _row_tiles(loop, args)
    names = {tile: _name(tile, plain, args) for tile in (loop.name, *rows)}
    places = {name: _with_variables(arg, names) for name, arg in args.items()}
    predicate = substitute(inlined(region.body, program), places)
    row = rows[0] if rows else None
    return Question(predicate, row, names[row] if row else "row", names[loop.name])


def tile_variables(program: Program) -> set[str]:
    """Names that stand for tiles of a dimension."""
    found: set[str] = set()
    for s in statements(program.body):
        if isinstance(s, (TileLoop, TileAt)):
            found.add(s.name)
        elif isinstance(s, Grid):
            found |= {name for name, extent in zip(s.names, s.extents, strict=True) if isinstance(extent, Tiles)}
    return found


def _is_tile(arg: Expr, tiles: set[str]) -> bool:
    return arg.op is Op.VAR and str(arg.attr) in tiles


def _indices(arg: Expr, tiles: set[str]) -> Expr:
    """A bare tile variable as argument means its indices."""
    return index(str(arg.attr)) if _is_tile(arg, tiles) else arg


def _row_tiles(loop: TileLoop, args: Mapping[str, Expr]) -> list[str]:
    found = {str(node.attr): None for arg in args.values() for node in walk(arg) if node.op is Op.INDEX}
    if loop.name not in found:
        raise ValueError(f"where= does not depend on {loop.name!r}")
    rows = [tile for tile in found if tile != loop.name]
    if len(rows) > 1:
        raise ValueError(f"where= depends on the rows of {rows}; one tile variable besides {loop.name!r} may decide")
    return rows


def _check(loop: TileLoop, args: Mapping[str, Expr], program: Program, tiles: set[str]) -> None:
    uniform = _uniform_names(program)
    for arg in args.values():
        for name in sorted(free_vars(arg) - uniform):
            raise ValueError(f"where= reads {name!r}, which is no index, no size, and has no single definition")
        if loop.name in free_vars(arg):
            raise ValueError(f"where= computes with the number of {loop.name!r}; use index({loop.name})")


def _uniform_names(program: Program) -> set[str]:
    """Names that are scalars of at least 0 wherever they are bound."""
    names = {*program.fixed, *program.free_sizes, "B", "Hq", "Hkv", "M", "N", "D", "Dv"}
    names |= {dim for p in program.params for dim in p.dims if isinstance(dim, str)}
    for s in statements(program.body):
        if isinstance(s, Grid):
            names |= set(s.names)
        elif isinstance(s, (TileLoop, TileAt)) or (isinstance(s, RangeLoop) and is_nonnegative(s.start)):
            names.add(s.name)
        elif isinstance(s, Role) and s.worker is not None:
            names.add(s.worker)
    return names


def _name(tile: str, plain: Mapping[str, str], args: Mapping[str, Expr]) -> str:
    """The name of a tile variable's index in the predicate: the region's own where that hides nothing."""
    taken = {name for arg in args.values() for name in free_vars(arg)}
    wanted = next((param for param, of in plain.items() if of == tile), f"{tile}_index")
    return wanted if wanted not in taken else f"{tile}_index"


def _with_variables(arg: Expr, names: Mapping[str, str]) -> Expr:
    return transform(arg, lambda e: var(names[str(e.attr)]) if e.op is Op.INDEX else None)
