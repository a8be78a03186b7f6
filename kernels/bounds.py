"""No kernel reads outside a captured tensor: the indices a spec computes are checked against the sizes of a
call.

PyTorch raises IndexError for `table[i - j]` out of range; a kernel would read someone else's memory.
Intervals decide most indices at once; what stays open is evaluated exactly, over the difference i - j alone
where that is all it needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..ir.dtypes import Kind
from ..ir.errors import OutOfBounds, ShapeError
from ..ir.evaluate import Array, evaluate
from ..ir.expr import Expr, Op, apply, free_vars, loads, transform, var, walk
from .dtypes import as_array

__all__ = ["Access", "accesses", "check_accesses", "index_sources", "range_of"]

Interval = tuple[float, float]
ANY: Interval = (-math.inf, math.inf)
AXES = {"b": "B", "h": "Hq", "i": "M", "j": "N"}
MAX_GUARDS = 64
CHUNK = 1 << 20  # elements evaluated at a time
DIFFERENCE = var("i - j")


@dataclass(frozen=True, slots=True)
class Access:
    """One index of a load: along `axis` of `tensor`, needed where any of `guards` holds (each a conjunction)."""

    tensor: str
    axis: int
    index: Expr
    guards: tuple[tuple[Expr, ...], ...]


def accesses(roots: Sequence[Expr]) -> list[Access]:
    """Every computed index of the expressions' loads, with the choices under which its value is used."""
    needed: dict[Expr, set[tuple[Expr, ...]]] = {root: {()} for root in roots}
    for root in roots:
        for node in reversed(list(walk(root))):
            for arg, condition in _conditions(node):
                contexts = {(*guard, condition) if condition else guard for guard in needed.get(node, set())}
                known = needed.setdefault(arg, set())
                known |= contexts
                if () in known or len(known) > MAX_GUARDS:
                    needed[arg] = {()}
    found: dict[Expr, None] = dict.fromkeys(load for root in roots for load in loads(root))
    return [
        Access(str(load.attr), axis, index, tuple(needed[load]))
        for load in found
        for axis, index in enumerate(load.args)
    ]


def _conditions(node: Expr) -> Iterator[tuple[Expr, Expr | None]]:
    """A node's arguments, each with the condition under which the node uses it (None: always)."""
    if node.op is Op.SELECT:
        condition, then, otherwise = node.args
        yield from ((condition, None), (then, condition), (otherwise, apply(Op.NOT, condition)))
        return
    yield from ((arg, None) for arg in node.args)


def index_sources(found: Sequence[Access]) -> frozenset[str]:
    """Captured tensors whose values decide where another one is read."""
    return frozenset(str(load.attr) for access in found for load in loads(access.index))


def check_accesses(found: Sequence[Access], tensors: Mapping[str, torch.Tensor], sizes: Mapping[str, int]) -> None:
    """Raise ShapeError for an index that leaves its tensor for some b, h, i, j of these sizes."""
    if not found or 0 in (sizes[size] for size in AXES.values()):
        return
    values = {name: range_of(tensors[name]) for name in index_sources(found)}
    for access in found:
        size = tensors[access.tensor].shape[access.axis]
        low, high = _interval(access.index, sizes, values)
        if low >= 0 and high < size:
            continue
        reached = _exact_range(access, tensors, sizes)
        if reached is not None and not (reached[0] >= 0 and reached[1] < size):
            raise ShapeError(
                f"{access.tensor}: read at {access.index!r} = {reached[0]}..{reached[1]} of dimension {access.axis}, "
                f"which has size {size} (M={sizes['M']}, N={sizes['N']}); pass a larger tensor or shorter sequences"
            )


def range_of(tensor: torch.Tensor) -> Interval:
    """Least and greatest value of an integer tensor."""
    if tensor.dtype is torch.bool or not tensor.numel():
        return 0.0, 1.0
    low, high = tensor.aminmax()
    return float(low), float(high)


# Intervals


def _interval(root: Expr, sizes: Mapping[str, int], values: Mapping[str, Interval]) -> Interval:
    """Bounds of an integer expression over all b, h, i, j; infinite where they are not known."""
    done: dict[Expr, Interval] = {}
    for node in walk(root):
        done[node] = _bounds(node, [done[arg] for arg in node.args], sizes, values)
    return done[root]


def _bounds(node: Expr, args: list[Interval], sizes: Mapping[str, int], values: Mapping[str, Interval]) -> Interval:
    if node.op is Op.CONST and isinstance(node.attr, (int, float)):
        return float(node.attr), float(node.attr)
    if node.op is Op.VAR:
        name = str(node.attr)
        if name in AXES:
            return 0.0, sizes[AXES[name]] - 1.0
        return (float(sizes[name]), float(sizes[name])) if name in sizes else ANY
    if node.op is Op.LOAD:
        return values.get(str(node.attr), ANY)
    rule = RULES.get(node.op)
    if rule is None or node.kind is Kind.FLOAT:
        return ANY
    low, high = rule(*args)
    return (-math.inf if math.isnan(low) else low), (math.inf if math.isnan(high) else high)


def _corners(f: Callable[[float, float], float]) -> Callable[[Interval, Interval], Interval]:
    def rule(x: Interval, y: Interval) -> Interval:
        found = [f(a, b) for a in x for b in y]
        return (min(found), max(found)) if not any(math.isnan(value) for value in found) else ANY

    return rule


def _quotient(x: Interval, y: Interval) -> Interval:
    if y[0] != y[1] or y[0] <= 0:
        return ANY
    return tuple(v // y[0] if math.isfinite(v) else v for v in x)  # type: ignore[return-value]


def _remainder(x: Interval, y: Interval) -> Interval:
    return (0.0, y[1] - 1) if y[0] > 0 else ANY


RULES: dict[Op, Callable[..., Interval]] = {
    Op.ADD: lambda x, y: (x[0] + y[0], x[1] + y[1]),
    Op.SUB: lambda x, y: (x[0] - y[1], x[1] - y[0]),
    Op.NEG: lambda x: (-x[1], -x[0]),
    Op.MUL: _corners(lambda a, b: a * b),
    Op.MIN: lambda x, y: (min(x[0], y[0]), min(x[1], y[1])),
    Op.MAX: lambda x, y: (max(x[0], y[0]), max(x[1], y[1])),
    Op.ABS: lambda x: (0.0 if x[0] <= 0 <= x[1] else min(map(abs, x)), max(map(abs, x))),
    Op.FLOORDIV: _quotient,
    Op.MOD: _remainder,
    Op.SELECT: lambda c, x, y: (min(x[0], y[0]), max(x[1], y[1])),
    Op.CAST: lambda x: x,
    **dict.fromkeys((Op.LT, Op.LE, Op.EQ, Op.NE, Op.AND, Op.OR, Op.XOR, Op.NOT), lambda *args: (0.0, 1.0)),
}


# Exact evaluation


def _exact_range(
    access: Access, tensors: Mapping[str, torch.Tensor], sizes: Mapping[str, int]
) -> tuple[int, int] | None:
    """Least and greatest index where it is needed; None where it never is."""
    parts = _over_difference([access.index, *(condition for guard in access.guards for condition in guard)])
    names = sorted({str(node.attr) for part in parts for node in walk(part) if node.op is Op.LOAD})
    arrays = {name: as_array(tensors[name]) for name in names}
    low, high = math.inf, -math.inf
    for env in _points(frozenset().union(*(free_vars(part) for part in parts)), sizes):
        reached = _needed(access, parts, {**sizes, **env}, arrays)
        if reached.size:
            low, high = min(low, int(reached.min())), max(high, int(reached.max()))
    return None if low > high else (int(low), int(high))


def _needed(access: Access, parts: Sequence[Expr], env: Mapping[str, Any], arrays: Mapping[str, Array]) -> Array:
    """The index's values at the points where it is used."""
    try:
        index, *conditions = (evaluate(part, env, arrays) for part in parts)
    except OutOfBounds as error:
        raise ShapeError(f"{access.tensor}: {error}; pass a larger tensor or shorter sequences") from None
    shape = np.broadcast_shapes(index.shape, *(condition.shape for condition in conditions))
    needed = np.zeros(shape, np.bool_)
    rest = iter(conditions)
    for guard in access.guards:
        holds = np.ones(shape, np.bool_)
        for _ in guard:
            holds &= next(rest)
        needed |= holds
    return np.asarray(np.broadcast_to(index, shape)[needed])


def _over_difference(parts: list[Expr]) -> list[Expr]:
    """The expressions in terms of i - j alone, where they have no other use for i and j."""
    forms = {apply(Op.SUB, var("i"), var("j")): DIFFERENCE, apply(Op.SUB, var("j"), var("i")): -DIFFERENCE}
    new = [transform(part, forms.get) for part in parts]
    return parts if any(free_vars(part) & {"i", "j"} for part in new) else new


def _points(names: frozenset[str], sizes: Mapping[str, int]) -> Iterator[dict[str, Array]]:
    """Values of the variables in `names`, in chunks of rows, broadcasting against each other."""
    m, n = sizes["M"], sizes["N"]
    extents = [sizes["B"] if "b" in names else 1, sizes["Hq"] if "h" in names else 1, 1, n if "j" in names else 1]
    whole = {
        "b": np.arange(extents[0]).reshape(-1, 1, 1, 1),
        "h": np.arange(extents[1]).reshape(1, -1, 1, 1),
        "j": np.arange(extents[3]).reshape(1, 1, 1, -1),
        str(DIFFERENCE.attr): np.arange(1 - n, m).reshape(1, 1, 1, -1),
    }
    rows = m if "i" in names else 1
    step = max(1, CHUNK // math.prod(extents))
    for first in range(0, rows, step):
        yield {**whole, "i": np.arange(first, min(first + step, rows)).reshape(1, 1, -1, 1)}
