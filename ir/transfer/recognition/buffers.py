"""Memory between grids: what one grid stored, as another reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...expr import Expr, Op, apply, free_vars, index, substitute, transform, var, walk
from ...integers import expression, polynomial, simplify
from ...printer import Path
from .forms import number, replaced

if TYPE_CHECKING:
    from .walk import Stored, Walker


def read(walker: Walker, name: str, indices: tuple[Expr, ...], path: Path) -> Expr:
    """The element of a buffer at `indices`: what was stored there, in terms of where it is read.

    Stored indices must tell the instance: each a variable of the writing grid, or a head and a row of packed rows,
    g * G + x // R and x % R.
    """
    stores = walker.stores.get(name, [])
    if len(stores) != 1:
        raise walker.refuse(path, f"buffer {name!r} is stored to at {len(stores)} places; one is understood")
    (stored,) = stores
    indices = _carried_over(walker, name, indices)
    values: dict[Expr, Expr] = {}
    later: list[tuple[Expr, Expr]] = []
    for written, wanted in zip(stored.indices, indices, strict=True):
        if written.op in (Op.VAR, Op.INDEX):
            values.setdefault(written, wanted)
        elif number(written) is None or written is not wanted:
            later.append((written, wanted))
    values.update(_packed(later, stored.coords))
    for written, wanted in later:
        _check(walker, written, wanted, values, stored, path)
    missing = [c for c in stored.coords if c not in values and c in set(walk(stored.value))]
    if missing:
        raise walker.refuse(path, f"{name!r} does not say which {missing[0]!r} its elements are of")
    return tidy(replaced(stored.value, values), walker)


def _carried_over(walker: Walker, name: str, indices: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """Indices of a contiguous buffer with whole multiples of a dimension carried to the one before: [0, b * H + h]."""
    found = list(indices)
    for n in range(len(found) - 1, 0, -1):
        dim = walker.shapes.tensors[name].dims[n]  # type: ignore[union-attr]
        if not isinstance(dim, Expr):
            continue
        whole = tidy(apply(Op.FLOORDIV, found[n], dim), walker)
        if whole.op is not Op.FLOORDIV and number(whole) != 0.0:
            found[n - 1] = tidy(found[n - 1] + whole, walker)
            found[n] = tidy(apply(Op.MOD, found[n], dim), walker)
    return tuple(found)


def tidy(e: Expr, walker: Walker) -> Expr:
    """The expression with its integers in normal form, quotients resolved by what indices stay below."""
    ranges = {f"#{b.axis}": b.tiles.extent for b in walker.axes}
    ranges |= walker.ranges
    plain = transform(e, lambda n: var(f"#{n.attr}") if n.op is Op.INDEX else None)
    back = {name: index(name[1:]) for name in free_vars(plain) if name.startswith("#")}
    return substitute(simplify(plain, ranges), back)


def _packed(pairs: list[tuple[Expr, Expr]], coords: tuple[Expr, ...]) -> dict[Expr, Expr]:
    """g and x of the places g * G + x // R and x % R."""
    found: dict[Expr, Expr] = {}
    for row, wanted_row in pairs:
        if row.op is not Op.MOD or row.args[0].op is not Op.INDEX:
            continue
        x, size = row.args
        quotient = apply(Op.FLOORDIV, x, size)
        for head, wanted_head in pairs:
            rest = polynomial(head)
            if rest.pop((quotient,), 0) != 1 or len(rest) != 1:
                continue
            ((monomial, c),) = rest.items()
            for g in coords:
                if g.op is Op.VAR and g in monomial:
                    group = expression({tuple(a for a in monomial if a is not g): c})
                    found[g] = apply(Op.FLOORDIV, wanted_head, group)
                    found[x] = apply(Op.MOD, wanted_head, group) * size + wanted_row
    for head, wanted in pairs:
        found |= _slots(head, wanted, coords)
    return found


def _slots(head: Expr, wanted: Expr, coords: tuple[Expr, ...]) -> dict[Expr, Expr]:
    """g and x of the heads g * G + x, where a tile has the heads of one group."""
    poly = polynomial(head)
    tiles = [
        monomial[0] for monomial, c in poly.items() if len(monomial) == 1 and c == 1 and monomial[0].op is Op.INDEX
    ]
    if len(tiles) != 1 or len(poly) != 2:
        return {}
    rest = {m: c for m, c in poly.items() if m != (tiles[0],)}
    ((monomial, c),) = rest.items()
    for g in coords:
        if g.op is Op.VAR and g in monomial:
            group = expression({tuple(a for a in monomial if a is not g): c})
            return {g: apply(Op.FLOORDIV, wanted, group), tiles[0]: apply(Op.MOD, wanted, group)}
    return {}


def _check(walker: Walker, written: Expr, wanted: Expr, values: dict[Expr, Expr], stored: Stored, path: Path) -> None:
    """A computed place: it must follow from the variables that the others give."""
    open_names = {
        leaf for leaf in walk(written) if leaf.op is Op.INDEX or (leaf.op is Op.VAR and leaf in stored.coords)
    }
    if not open_names <= values.keys():
        raise walker.refuse(path, f"the place {written!r} that was stored to does not tell what is read at {wanted!r}")
