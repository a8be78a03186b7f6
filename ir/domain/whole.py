"""What is known in a whole tile of a loop, one where its predicate holds everywhere: there a mask need not be asked."""

from __future__ import annotations

from collections.abc import Callable

from ..edit import definitions, name_bound, resolved
from ..expr import Expr, Op, apply, index, rebuild, walk
from ..program import Program, RangeLoop, Statement, TileAt, TileLoop, statements
from .calls import tile_variables

Known = Callable[[Expr], bool]


def known_in_whole_tiles(loop: TileLoop, program: Program) -> Known:
    """Whether a condition in a loop's body is one of two that hold in its whole tiles: the predicate that the loop
    names, of the same places, and that a place is before the end of the dimension.

    False for both where the body binds a name that they read: it may mean something else by then.
    """
    names, tiles = definitions(program), tile_variables(program)
    facts = {resolved(apply(Op.LT, index(loop.name), loop.tiles.extent), names)}
    if loop.where is not None:
        bare = {arg for arg in loop.where.args if arg.op is Op.VAR and str(arg.attr) in tiles}
        places = tuple(index(str(arg.attr)) if arg in bare else resolved(arg, names) for arg in loop.where.args)
        facts.add(rebuild(loop.where, places))
    bound = {name for s in statements(loop.body) for name in _names_bound(s)}
    facts = {fact for fact in facts if not bound & {str(e.attr) for e in walk(fact) if e.op in (Op.VAR, Op.INDEX)}}
    return lambda condition: condition.op in (Op.CALL, Op.LT) and resolved(condition, names) in facts


def _names_bound(s: Statement) -> tuple[str, ...]:
    found = name_bound(s)
    if found is not None:
        return (found,)
    return (s.name,) if isinstance(s, (TileAt, TileLoop, RangeLoop)) else ()
