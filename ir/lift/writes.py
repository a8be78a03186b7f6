"""Writes through views: which element of a view, if any, an element of the viewed tensor is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..expr import Expr, Op, apply, const
from ..integers import floordiv, modulo, simplify
from .value import Index, Value
from .views import reindex, slice_start, slice_step

if TYPE_CHECKING:
    from .tracer import Tracer

Back = Callable[[Index], tuple[Expr, Index]]
ALWAYS = const(True)


def _alias(_: Tracer, new: Value, old: Value, *__: Any) -> Back:
    return lambda index: (ALWAYS, index)


def _permute(_: Tracer, new: Value, old: Value, axes: Sequence[int]) -> Back:
    return lambda index: (ALWAYS, tuple(index[axis] for axis in axes))


def _transpose(_: Tracer, new: Value, old: Value, a: int = 0, b: int = 1) -> Back:
    def back(index: Index) -> tuple[Expr, Index]:
        moved = list(index)
        if moved:
            moved[a], moved[b] = index[b], index[a]
        return ALWAYS, tuple(moved)

    return back


def _slice(t: Tracer, new: Value, old: Value, axis: int = 0, *bounds: Any) -> Back:
    first, step = slice_start(t, old.shape[axis], bounds), slice_step(bounds)

    def back(index: Index) -> tuple[Expr, Index]:
        at = axis % len(index)
        position = simplify(index[at] - first(), t.ranges)
        inside = ALWAYS
        if not t.is_nonnegative(position):
            inside = apply(Op.LE, first(), index[at])
        if step != 1:
            multiple = apply(Op.EQ, modulo(position, const(step), t.ranges), const(0))
            inside = t.conjunction(inside, multiple)
            position = floordiv(position, const(step), t.ranges)
        inside = t.conjunction(inside, t.less(position, t.size(new.shape[axis])))
        return inside, (*index[:at], position, *index[at + 1 :])

    return back


def _select(t: Tracer, new: Value, old: Value, axis: int, position: Any) -> Back:
    with t.unrecorded():
        is_negative = bool(position < 0)

    def back(index: Index) -> tuple[Expr, Index]:
        at = axis % len(index)
        wanted = t.size(position) + t.size(old.shape[at]) if is_negative else t.size(position)
        return apply(Op.EQ, index[at], simplify(wanted, t.ranges)), index[:at] + index[at + 1 :]

    return back


def _unsqueeze(_: Tracer, new: Value, old: Value, axis: int) -> Back:
    axis = axis % len(new.shape)
    return lambda index: (ALWAYS, (*index[:axis], const(0), *index[axis:]))


def _view(t: Tracer, new: Value, old: Value, *_: Any) -> Back:
    def back(index: Index) -> tuple[Expr, Index]:
        sizes = [[t.size(size) for size in value.shape] for value in (old, new)]
        return ALWAYS, tuple(reindex(t, index, *sizes))

    return back


WRITE_BACK: dict[str, Callable[..., Back]] = {
    "alias": _alias, "detach": _alias, "permute": _permute, "transpose": _transpose, "t": _transpose,
    "slice": _slice, "select": _select, "unsqueeze": _unsqueeze, "squeeze": _view, "view": _view,
}  # fmt: skip
"""By the view's operator: (new value of the view, old value of the viewed) -> (is it in the view, where)."""
