"""Scores of a changed q and k: which factor of a contraction belongs to the rows, and which to the columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...algebra import simplify
from ...dtypes import Kind
from ...expr import Expr, Op, apply, const, load, substitute, transform, var, walk
from ...spec import BATCH, COLUMN, HEAD, ROW
from ..factor import Factors
from ..reduce import SCORES

if TYPE_CHECKING:
    from ..tracer import Tracer

GROUP = var("@g")  # a key head
ROWS = frozenset(str(e.attr) for e in (BATCH, HEAD, ROW))
HEADS = frozenset(str(e.attr) for e in (BATCH, HEAD))


@dataclass(frozen=True, slots=True)
class Product:
    """sum over depth of left[b, h, i, depth] * right[b, g, j, depth]; scores read it as a tensor called `name`."""

    name: str
    left: Expr
    right: Expr
    depth: Expr
    size: int
    columns: Expr


@dataclass(slots=True)
class Products:
    """The products of one trace. group: query heads per key head."""

    group: int
    found: dict[tuple[Expr, Expr], Product] = field(default_factory=dict)

    def of(
        self, t: Tracer, inside: Factors, outside: Factors, summed: tuple[Expr, Expr]
    ) -> tuple[Expr | None, Factors]:
        """A sum over summed (variable, length) as a load of scores, and the factors that stay outside.

        None where the factors inside are not one of rows and one of columns. What a norm of q or k divides by goes
        with it, from the factors outside.
        """
        bound, length = summed
        size = length.attr
        column = self._column(t, inside, bound)
        if column is None or not isinstance(size, int):
            return None, outside
        depth = str(bound.attr)
        left, right = inside.split(lambda e: indices(t, e) <= ROWS | {depth})
        if not (left.over or left.under) or any(indices(t, e) - HEADS - {depth, column} for e in parts(right)):
            return None, outside
        if not (reads(t, left.product(), "q") and reads(t, right.product(), "k")):
            return None, outside
        of_rows, outside = outside.split(lambda e: indices(t, e) <= ROWS and reads(t, e, "q", "k"))
        of_columns, outside = outside.split(lambda e: indices(t, e) <= HEADS | {column} and reads(t, e, "q", "k"))
        left, right = left * of_rows, right * of_columns
        return self._scores(t, left.product(), right.product(), (bound, size, column)), outside

    def _column(self, t: Tracer, inside: Factors, bound: Expr) -> str | None:
        """The one index that is not of the rows."""
        names = set[str]().union(*(indices(t, e) for e in parts(inside))) - ROWS - {str(bound.attr)}
        return names.pop() if len(names) == 1 else None

    def are_keys(self, t: Tracer, bodies: Sequence[Expr]) -> bool:
        """Whether columns that were added to those of k have scores of their own, as learned keys do."""
        return any(self._is_score(t, node) for body in bodies for node in walk(simplify(t.decided(body))))

    def _is_score(self, t: Tracer, node: Expr) -> bool:
        if node.op is Op.LOAD:
            return node.attr == "q" or node.attr in {product.name for product in self.found.values()}
        reduction = t.reductions.get(node)
        return reduction is not None and reduction.length.op is Op.CONST and reads(t, node, "q")

    def mixed(self, t: Tracer, inside: Factors) -> Expr | None:
        """A sum of something of q and something of k among the factors, such as q - k or k + bias[i - j]."""
        sums = [e for e in inside.over if e.op in (Op.ADD, Op.SUB)]
        return next((e for e in sums if str(ROW.attr) in t.free(e) and reads(t, e, "k")), None)

    def _scores(self, t: Tracer, left: Expr, right: Expr, place: tuple[Expr, int, str]) -> Expr:
        bound, size, column = place
        depth = var(f"@d{size}")
        t.ranges[str(depth.attr)] = const(size)
        columns = t.ranges[column]
        names = {str(bound.attr): depth, column: COLUMN}
        left, right = renamed(t, left, names), by_key_head(renamed(t, right, names), self.group)
        product = self.found.get((left, right)) or self._new(left, right, depth, size, columns)
        return self.read(t, product, var(column))

    def read(self, t: Tracer, product: Product, column: Expr) -> Expr:
        """The scores of a product at a column."""
        head = t.simplified(apply(Op.FLOORDIV, HEAD, const(self.group)))
        return load(product.name, (BATCH, HEAD, ROW, BATCH, head, column), Kind.FLOAT)

    def _new(self, left: Expr, right: Expr, depth: Expr, size: int, columns: Expr) -> Product:
        product = Product(f"{SCORES}{len(self.found)}", left, right, depth, size, columns)
        self.found[left, right] = product
        return product

    def add(self, left: Expr, right: Expr, like: Product) -> Product:
        """A product of other factors over the same depth and columns."""
        right = by_key_head(right, self.group)
        return self.found.get((left, right)) or self._new(left, right, like.depth, like.size, like.columns)


def indices(t: Tracer, e: Expr) -> frozenset[str]:
    """Names of the index variables that an expression depends on, sizes left out."""
    return t.free(e) & t.ranges.keys()


def by_key_head(e: Expr, group: int) -> Expr:
    """h // group as a variable of its own; what is left of h then needs keys for every query head."""
    if group == 1:
        return substitute(e, {str(HEAD.attr): GROUP})
    quotient = apply(Op.FLOORDIV, HEAD, const(group))
    return transform(e, lambda node: GROUP if node is quotient else None)


def by_query_head(e: Expr, group: int) -> Expr:
    """The reverse."""
    return substitute(e, {str(GROUP.attr): HEAD if group == 1 else apply(Op.FLOORDIV, HEAD, const(group))})


def renamed(t: Tracer, e: Expr, names: dict[str, Expr]) -> Expr:
    """The expression with other variables, inside its reductions as well."""

    def change(node: Expr) -> Expr | None:
        reduction = t.reductions.get(node)
        if reduction is not None:
            if not t.free(node) & names.keys():
                return None
            inner = {name: new for name, new in names.items() if name != reduction.bound.attr}
            return t.atom(reduction.op, renamed(t, reduction.body, inner), reduction.bound, reduction.length)
        return names.get(str(node.attr)) if node.op is Op.VAR else None

    return transform(e, change)


def parts(product: Factors) -> Iterator[Expr]:
    """All factors."""
    yield from product.over
    yield from product.under


def reads(t: Tracer, e: Expr, *tensors: str) -> bool:
    """Whether one of the tensors is read, also inside reductions."""
    return any(node.attr in tensors for node in deep_loads(t, e))


def deep_loads(t: Tracer, e: Expr) -> Iterator[Expr]:
    """Loads in an expression and inside its reductions."""
    for node in walk(e):
        if node.op is Op.LOAD:
            yield node
        elif node in t.reductions:
            yield from deep_loads(t, t.reductions[node].body)
