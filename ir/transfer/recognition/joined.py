"""Scores that add up several products of queries and keys: one product of heads that are laid side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...expr import Expr, Op, const, var, walk
from ...printer import Path, print_expr
from .coordinates import Places, product_of
from .forms import Forms, replaced
from .walk import Walker

SHIFT = var("@shift", const(0.0).kind)


@dataclass(frozen=True, slots=True)
class Piece:
    """A further product: queries and keys, how many features, whether all heads share its keys, roles of dimensions."""

    q: str
    k: str
    features: int
    is_shared: bool
    roles: tuple[tuple[str, ...], tuple[str, ...]]


def main_product(walker: Walker, found: Sequence[Expr], element: Expr, value: Expr | None, path: Path) -> Expr:
    """The product whose keys have the heads of the values."""
    for dot in found:
        _, k = product_of(dot, element, walker, path)
        if value is None or _plain(walker, k) == _plain(walker, value):
            return dot
    raise walker.refuse(path, f"{len(found)} products of q and k, and none has the heads and rows of v")


def as_one(forms: Forms, weight: Expr, dot: Expr, others: Sequence[Expr]) -> Expr | None:
    """The weight over the sum of the products, in place of the main one; None where it is of something else."""
    for other in others:
        moved = forms.expr(forms.of(replaced(weight, {dot: dot - SHIFT, other: SHIFT})))
        if any(node is SHIFT or node is other for node in walk(moved)):
            return None
        weight = moved
    return weight


def pieces(walker: Walker, others: Sequence[Expr], places: Places, element: Expr, path: Path) -> tuple[Piece, ...]:
    """The further products. Raises ScheduleError for rows that are not those of the main one."""
    found = []
    for dot in others:
        q, k = product_of(dot, element, walker, path)
        roles = _roles(walker, q, places, element), _roles(walker, k, places, element)
        own = [role for role in places.dims[places.q] if role != "feature"]
        is_query = [role for role in roles[0] if role != "feature"] == own
        keys = [role for role in places.dims[places.k] if role not in ("feature", "head")]
        if not is_query or [role for role in roles[1] if role not in ("feature", "head", "shared")] != keys:
            reason = f"a second product reads {print_expr(q)} and {print_expr(k)}: other rows than the first"
            raise walker.refuse(path, reason)
        size = walker.program.fixed[str(dot.attr).removeprefix("@sum:")]
        found.append(Piece(str(q.attr), str(k.attr), size, "head" not in roles[1], roles))
    return tuple(found)


def _roles(walker: Walker, row: Expr, places: Places, element: Expr) -> tuple[str, ...]:
    """Roles of the dimensions of a row of queries or keys; "shared" for one element that all heads read."""
    keyed = places.dims[places.k]
    found = []
    for e in row.args:
        if e.op is Op.INDEX and str(e.attr) in walker.program.fixed:
            found.append("feature")
        elif element in set(walk(e)):
            found.append("place" if "place" in keyed else "row")
        elif e is places.batch:
            found.append("batch")
        elif e is places.row:
            found.append("row")
        elif e is places.head or e is places.key_head:
            found.append("head")
        else:
            found.append("shared" if e is const(0) else "place")
    return tuple(found)


def _plain(walker: Walker, row: Expr) -> list[Expr]:
    return [e for e in row.args if not (e.op is Op.INDEX and str(e.attr) in walker.program.fixed)]


def tensor_notes(walker: Walker, places: Places) -> list[str]:
    """What a spec, which has one element type and one q and k, does not say of the kernel's tensors."""
    params = {p.name: p.dtype for p in walker.program.params}
    found = [
        f"{name} is {params[name].value} in the kernel; in the spec it has the type of {places.q}"
        for name in dict.fromkeys((places.k, places.v)) if params[name] is not params[places.q]
    ]  # fmt: skip
    return found + [f"{p.q} and {p.k} are the last {p.features} features of q and k" for p in places.more]
