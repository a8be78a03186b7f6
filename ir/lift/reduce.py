"""Operators that combine elements along a dim: sums, maxima, products of matrices, softmax.

A reduction becomes a variable `@sum0`, `@max1`, … whose meaning the tracer keeps; factors that do not depend on the
summed index come out of a sum, and the sum over d of q[b, h, i, d] * k[b, g, j, d] becomes the load
`@s[b, h, i, b', g, j]`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..algebra import simplify
from ..dtypes import Kind
from ..errors import UnsupportedSpec
from ..expr import Expr, Op, apply, const, load, walk
from ..integers import polynomial
from .factor import Factors, factors
from .value import Element, Index, Value, as_kind

if TYPE_CHECKING:
    from .tracer import Tracer

SCORES = "@s"
MOST_SINGLES = 8
ARGUMENTS = ("q", "k", "v")


@dataclass(frozen=True, slots=True)
class Reduction:
    """What a reduction variable stands for: `op` over bound = 0..length - 1 of body."""

    op: str  # sum, max, min or any
    body: Expr
    bound: Expr
    length: Expr


Body = Callable[[Expr], Expr]


def reduce_over(t: Tracer, op: str, length: Expr, body_at: Body, index: Index) -> Expr:
    """The reduction of body_at(r), r = 0..length - 1, as an expression; `index` is what the body may use else."""
    bound = t.bound(length, index)
    body = body_at(bound)
    pieces = _few(t, body, length) or _pieces(t, body, bound, length)
    if pieces is None or (
        t.products is not None and t.products.are_keys(t, [body_at(p) for p, n in pieces if n is const(1)])
    ):
        return _whole(t, op, body, bound, length)
    terms = []
    for start, size in pieces:
        if size is const(1):
            terms.append(body_at(start))
        else:
            inner = t.bound(size, index)
            terms.append(_whole(t, op, body_at(t.simplified(start + inner)), inner, size))
    return _combined(op, terms)


def _combined(op: str, terms: Sequence[Expr]) -> Expr:
    total = terms[0]
    for term in terms[1:]:
        total = apply(COMBINE[op], total, term)
    return total


def _few(t: Tracer, body: Expr, length: Expr) -> list[tuple[Expr, Expr]] | None:
    """A short sum or maximum of numbers that do not come from q, k or v is written out."""
    if not _is_small(length) or any(node in t.reductions for node in walk(body)):
        return None
    if any(node.op is Op.LOAD and (node.attr in ARGUMENTS or str(node.attr).startswith(SCORES)) for node in walk(body)):
        return None
    return [(const(n), const(1)) for n in range(int(str(length.attr)))]


def _pieces(t: Tracer, body: Expr, bound: Expr, length: Expr) -> list[tuple[Expr, Expr]] | None:
    """(start, size) of the runs that a length like N + 1 falls into where the body compares with N."""
    if length.op in (Op.VAR, Op.CONST):
        return None
    cuts: set[Expr] = set()
    for node in walk(body):
        if node.op in (Op.LT, Op.LE) and bound in walk(node):
            cut = _cut(t, node, bound)
            if cut is not None:
                cuts.add(cut)
    for cut in sorted(cuts, key=repr):
        tail = t.simplified(length - cut)
        if _is_small(tail):
            singles = [(t.simplified(cut + n), const(1)) for n in range(int(str(tail.attr)))]
            return [(const(0), cut), *singles]
        if _is_small(cut):
            return [*((const(n), const(1)) for n in range(int(str(cut.attr)))), (cut, tail)]
    return None


def _is_small(size: Expr) -> bool:
    return size.op is Op.CONST and isinstance(size.attr, int) and 1 <= size.attr <= MOST_SINGLES


def _cut(t: Tracer, node: Expr, bound: Expr) -> Expr | None:
    """The c of a comparison that means bound < c or bound >= c; None when it is another one."""
    if any(arg.kind is not Kind.INT for arg in node.args):
        return None
    left, right = (polynomial(arg) for arg in node.args)
    is_left = left.get((bound,)) == 1 and (bound,) not in right
    is_right = right.get((bound,)) == 1 and (bound,) not in left
    if is_left == is_right:
        return None
    cut = t.simplified(node.args[1] - node.args[0] + bound if is_left else node.args[0] - node.args[1] + bound)
    if (node.op is Op.LE) == is_left:
        cut = t.simplified(cut + 1)
    return cut if not (t.free(cut) & t.ranges.keys()) else None


def _whole(t: Tracer, op: str, body: Expr, bound: Expr, length: Expr) -> Expr:
    if not t.depends(body, bound):
        if op == "sum":
            return body * as_kind(length, body.kind)
        return body
    if op == "sum" and body.kind is Kind.FLOAT:
        return _sum(t, body, bound, length)
    return t.atom(op, body, bound, length)


def _sum(t: Tracer, body: Expr, bound: Expr, length: Expr) -> Expr:
    body = simplify(body) if body.op in (Op.ADD, Op.SUB) else body  # q * k + 0
    inside, outside = factors(body).split(lambda e: t.depends(e, bound))
    scores = _scores(t, inside, bound)
    if t.products is not None:
        scores, outside = t.products.of(t, inside, outside, (bound, length))
        mixed = t.products.mixed(t, inside) if scores is None else None
        if mixed is not None:
            rest = Factors(
                [e for e in inside.over if e is not mixed] + [mixed] * (inside.over.count(mixed) - 1), inside.under
            )
            terms = [_sum(t, (factors(arg) * rest).product(), bound, length) for arg in mixed.args]
            return Factors([apply(mixed.op, *terms), *outside.over], outside.under).product()
    core = scores or t.atom("sum", inside.product(), bound, length)
    return Factors([core, *outside.over], outside.under).product()


def _scores(t: Tracer, inside: Factors, bound: Expr) -> Expr | None:
    """The sum over d of q[…, d] * k[…, d]."""
    if inside.under or len(inside.over) != 2 or any(e.op is not Op.LOAD for e in inside.over):
        return None
    by_name = {str(e.attr): e for e in inside.over}
    if by_name.keys() != {"q", "k"}:
        return None
    q, k = by_name["q"], by_name["k"]
    is_whole = q.args[-1] is bound and k.args[-1] is bound
    if not is_whole or any(t.depends(i, bound) for i in (*q.args[:-1], *k.args[:-1])):
        return None
    return load(SCORES, (*q.args[:-1], *k.args[:-1]), Kind.FLOAT)


# Operators along given dims


def axes_of(x: Value, dims: Any) -> list[int]:
    """The dims that an operator reduces, all where it names none."""
    if dims is None or dims == []:
        return list(range(len(x.shape)))
    listed = dims if isinstance(dims, (list, tuple)) else [dims]
    return sorted(axis % max(len(x.shape), 1) for axis in listed)


def along(
    t: Tracer, op: str, x: Value, dims: Any, keepdim: bool, convert: Callable[[Expr], Expr] = lambda e: e
) -> Element:
    """The element of a reduction over dims."""
    axes = axes_of(x, dims)

    def element(index: Index) -> Expr:
        kept = iter(i for axis, i in enumerate(index) if not (keepdim and axis in axes))
        full: list[Expr | None] = [None if axis in axes else next(kept) for axis in range(len(x.shape))]
        return inner(full)

    def inner(full: list[Expr | None]) -> Expr:
        if None not in full:
            return convert(x.at(tuple(e for e in full if e is not None)))
        axis = len(full) - 1 - full[::-1].index(None)
        known = tuple(e for e in full if e is not None)
        return reduce_over(t, op, t.size(x.shape[axis]), lambda r: inner([*full[:axis], r, *full[axis + 1 :]]), known)

    return element


def _sum_operator(t: Tracer, out: Value, x: Value, dims: Any = None, keepdim: bool = False, **_: Any) -> Element:
    return along(t, "sum", x, dims, keepdim, lambda e: as_kind(e, out.kind))


def mean(t: Tracer, out: Value, x: Value, dims: Any = None, keepdim: bool = False, **_: Any) -> Element:
    """The sum over dims divided by how many elements there are."""
    total = _sum_operator(t, out, x, dims, keepdim)

    def element(index: Index) -> Expr:
        count = const(1.0)
        for axis in axes_of(x, dims):
            count = count * as_kind(t.size(x.shape[axis]), Kind.FLOAT)
        return apply(Op.DIV, total(index), count)

    return element


def _extreme(op: str) -> Callable[..., Element]:
    def handler(t: Tracer, out: Value, x: Value, dims: Any = None, keepdim: bool = False) -> Element:
        return along(t, op, x, dims, keepdim)

    return handler


def _extreme_with_place(op: str) -> Callable[..., Any]:
    """max(dim) and min(dim) also give positions, which nothing here can use."""

    def handler(t: Tracer, out: Value, x: Value, dims: Any = None, keepdim: bool = False) -> Any:
        values = along(t, op, x, dims, keepdim)
        if dims is None:
            return values
        return [values, no_place]

    return handler


def no_place(index: Index) -> Expr:
    """A second result that nothing here can use."""
    raise UnsupportedSpec("the position of a maximum is used; attention kernels only keep the maximum itself")


def _any(t: Tracer, out: Value, x: Value, dims: Any = None, keepdim: bool = False) -> Element:
    return along(t, "any", x, dims, keepdim, lambda e: as_kind(e, Kind.BOOL))


def _all(t: Tracer, out: Value, x: Value, dims: Any = None, keepdim: bool = False) -> Element:
    some = along(t, "any", x, dims, keepdim, lambda e: apply(Op.NOT, as_kind(e, Kind.BOOL)))
    return lambda index: apply(Op.NOT, some(index))


def _log_sum(t: Tracer, out: Value, x: Value, dims: Any, keepdim: bool = False) -> Element:
    total = along(t, "sum", x, dims, keepdim, lambda e: apply(Op.EXP, as_kind(e, Kind.FLOAT)))
    return lambda index: apply(Op.LOG, total(index))


def _softmax(t: Tracer, out: Value, x: Value, dim: int, *_: Any, **__: Any) -> Element:
    """exp(x) / sum(exp(x)): the subtracted maximum changes rounding only."""
    total = along(t, "sum", x, dim, True, lambda e: apply(Op.EXP, as_kind(e, Kind.FLOAT)))
    return lambda index: apply(Op.DIV, apply(Op.EXP, as_kind(x.at(index), Kind.FLOAT)), total(index))


def _log_softmax(t: Tracer, out: Value, x: Value, dim: int, *_: Any, **__: Any) -> Element:
    total = _log_sum(t, out, x, dim, True)
    return lambda index: as_kind(x.at(index), Kind.FLOAT) - total(index)


# Products of matrices


def _product(t: Tracer, a: Value, b: Value, batch: int, is_vector: bool = False) -> Element:
    """sum over r of a[batch, i, r] * b[batch, r, j]."""

    def element(index: Index) -> Expr:
        head, rest = index[:batch], index[batch:]
        row = rest[: len(a.shape) - batch - 1]
        column = rest[len(row) :]

        def body(r: Expr) -> Expr:
            x, y = as_kind(a.at((*head, *row, r)), Kind.FLOAT), as_kind(b.at((*head, r, *column)), Kind.FLOAT)
            return x * y

        return reduce_over(t, "sum", t.size(a.shape[-1]), body, index)

    return element


def _bmm(t: Tracer, out: Value, a: Value, b: Value) -> Element:
    return _product(t, a, b, batch=1)


def _mm(t: Tracer, out: Value, a: Value, b: Value) -> Element:
    return _product(t, a, b, batch=0)


def _added(t: Tracer, out: Value, x: Value, a: Value, b: Value, **scales: Any) -> Element:
    """beta * x + alpha * (a @ b)."""
    product = _product(t, a, b, batch=len(a.shape) - 2)

    def element(index: Index) -> Expr:
        result = product(index)
        scale, shift = (as_kind(t.size(scales.get(name, 1)), Kind.FLOAT) for name in ("alpha", "beta"))
        result = result if scale is const(1.0) else result * scale
        if shift is const(0.0):
            return result
        addend = as_kind(t.read(x, index, out.shape), Kind.FLOAT)
        return (addend if shift is const(1.0) else addend * shift) + result

    return element


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "sum": _sum_operator, "nansum": _sum_operator, "mean": mean, "amax": _extreme("max"), "amin": _extreme("min"),
    "max": _extreme_with_place("max"), "min": _extreme_with_place("min"), "any": _any, "all": _all,
    "logsumexp": _log_sum, "_softmax": _softmax, "softmax": _softmax, "_safe_softmax": _softmax,
    "_log_softmax": _log_softmax, "log_softmax": _log_softmax,
}  # fmt: skip

CONTRACTIONS: dict[str, Callable[..., Any]] = {
    "bmm": _bmm, "mm": _mm, "mv": _mm, "dot": _mm, "baddbmm": _added, "addmm": _added,
}  # fmt: skip

COMBINE = {"sum": Op.ADD, "max": Op.MAX, "min": Op.MIN, "any": Op.OR}
