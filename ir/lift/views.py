"""Operators that only move elements: how an index of the result becomes an index of the operand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..dtypes import Kind
from ..errors import UnsupportedSpec
from ..expr import Expr, Op, apply, as_expr, const, substitute, var
from ..integers import floordiv, modulo, polynomial, simplify
from .value import Element, Index, Value, as_kind

if TYPE_CHECKING:
    from .tracer import Tracer

Handler = Callable[..., Element]
ZERO = const(0)


def _axis(axis: int, rank: int) -> int:
    return axis + rank if axis < 0 else axis


def _alias(_: Tracer, __: Value, x: Value, *___: Any, **____: Any) -> Element:
    return x.at


def _permute(_: Tracer, out: Value, x: Value, axes: Sequence[int]) -> Element:
    sources = [_axis(a, len(x.shape)) for a in axes]
    return lambda index: x.at(tuple(index[sources.index(axis)] for axis in range(len(index))))


def _transpose(t: Tracer, out: Value, x: Value, a: int = 0, b: int = 1) -> Element:
    order = list(range(len(x.shape)))
    if not order:
        return x.at
    a, b = _axis(a, len(order)), _axis(b, len(order))
    order[a], order[b] = order[b], order[a]
    return _permute(t, out, x, order)


def _unsqueeze(_: Tracer, out: Value, x: Value, axis: int) -> Element:
    axis = _axis(axis, len(out.shape))
    return lambda index: x.at(index[:axis] + index[axis + 1 :])


def _squeeze(t: Tracer, out: Value, x: Value, axes: Any = None) -> Element:
    if axes is None:
        axes = [a for a, size in enumerate(x.shape) if t.size(size) == const(1)]
    dropped = {_axis(a, len(x.shape)) for a in ([axes] if isinstance(axes, int) else axes)}
    if len(x.shape) - len(dropped) != len(out.shape):  # a dim that is not 1 stays
        dropped = {a for a in dropped if t.size(x.shape[a]) is const(1)}

    def element(index: Index) -> Expr:
        left = iter(index)
        return x.at(tuple(ZERO if axis in dropped else next(left) for axis in range(len(x.shape))))

    return element


def _expand(t: Tracer, out: Value, x: Value, *_: Any, **__: Any) -> Element:
    return lambda index: t.read(x, index, out.shape)


def _view(t: Tracer, out: Value, x: Value, *_: Any, **__: Any) -> Element:
    """Row-major order is kept: the index is flattened and split again, group by group where sizes match."""

    def element(index: Index) -> Expr:
        return x.at(tuple(reindex(t, index, [t.size(s) for s in out.shape], [t.size(s) for s in x.shape])))

    return element


def reindex(t: Tracer, index: Sequence[Expr], old: Sequence[Expr], new: Sequence[Expr]) -> list[Expr]:
    """The index into sizes `new` of the element at `index` of sizes `old`, both in row-major order."""
    if len(old) and len(new) and t.same(old[-1], new[-1]):
        return [*reindex(t, index[:-1], old[:-1], new[:-1]), index[-1]]
    if len(old) and old[-1] is const(1):
        return reindex(t, index[:-1], old[:-1], new)
    if len(new) and new[-1] is const(1):
        return [*reindex(t, index, old, new[:-1]), ZERO]
    if not len(new):
        return []
    index, names = _inside(t, index, old)
    return [substitute(e, names) for e in _refolded(t, index, old, new)]


def _inside(t: Tracer, index: Sequence[Expr], sizes: Sequence[Expr]) -> tuple[list[Expr], dict[str, Expr]]:
    """Variables in an index that are known to lie inside a dim only because they index it, under other names."""
    renamed, names = list(index), {}
    for axis, (position, size) in enumerate(zip(index, sizes, strict=True)):
        if position.op is Op.VAR and t.less(position, size).op is not Op.CONST:
            name = f"@in{axis}[{size!r}]"
            t.ranges[name] = size
            names[name], renamed[axis] = position, var(name)
    return renamed, names


def _refolded(t: Tracer, index: Sequence[Expr], old: Sequence[Expr], new: Sequence[Expr]) -> list[Expr]:
    flat: Expr = ZERO
    for position, size in zip(index, old, strict=True):
        flat = flat * size + position
    flat = simplify(flat, t.ranges)
    result = []
    for size in reversed(new[1:]):
        result.append(modulo(flat, size, t.ranges))
        flat = floordiv(flat, size, t.ranges)
    return [flat, *reversed(result)]


def _slice(t: Tracer, out: Value, x: Value, axis: int = 0, *bounds: Any) -> Element:
    axis = _axis(axis, len(x.shape))
    start, step = slice_start(t, x.shape[axis], bounds), slice_step(bounds)

    def element(index: Index) -> Expr:
        position = simplify(start() + index[axis] * t.size(step), t.ranges)
        return x.at((*index[:axis], position, *index[axis + 1 :]))

    return element


def slice_step(bounds: Sequence[Any]) -> Any:
    """The step of (start, end, step), each of which may be missing."""
    return bounds[2] if len(bounds) > 2 else 1


def slice_start(t: Tracer, size: Any, bounds: Sequence[Any]) -> Callable[[], Expr]:
    """The first position of a slice (start, end, step) of a dim, with Python's meaning of negative numbers."""
    start = bounds[0] if bounds else None
    if start is None or (isinstance(start, int) and start == 0):
        return lambda: ZERO
    with t.unrecorded():
        is_negative = bool(start < 0)
        is_below = is_negative and bool(start + size < 0)
        is_above = not is_negative and bool(start > size)
    if is_below:
        return lambda: ZERO
    if is_above:
        return lambda: t.size(size)
    return lambda: t.size(start) + t.size(size) if is_negative else t.size(start)


def _select(t: Tracer, out: Value, x: Value, axis: int, position: Any) -> Element:
    axis = _axis(axis, len(x.shape))
    with t.unrecorded():
        is_negative = bool(position < 0)

    def element(index: Index) -> Expr:
        at = t.size(position) + t.size(x.shape[axis]) if is_negative else t.size(position)
        return x.at((*index[:axis], simplify(at, t.ranges), *index[axis:]))

    return element


def _cat(t: Tracer, out: Value, parts: Sequence[Value], axis: int = 0) -> Element:
    parts = [part for part in parts if not (len(part.shape) == 1 and t.size(part.shape[0]) is ZERO)]
    axis = _axis(axis, len(out.shape))

    def element(index: Index) -> Expr:
        position, start = index[axis], ZERO
        pieces: list[tuple[Expr, Expr]] = []
        for part in parts:
            size = t.size(part.shape[axis])
            at = clamp(t, simplify(position - start, t.ranges), size)
            start = simplify(start + size, t.ranges)
            pieces.append((start, as_kind(part.at((*index[:axis], at, *index[axis + 1 :])), out.kind)))
        result = pieces[-1][1]
        for end, piece in reversed(pieces[:-1]):
            result = t.choose(t.less(position, end), piece, result)
        return result

    return element


def clamp(t: Tracer, position: Expr, size: Expr) -> Expr:
    """A position kept inside 0..size - 1, so that a choice not taken never reads outside."""
    if size is const(1):
        return ZERO
    poly = polynomial(position)
    if not t.is_nonnegative(position):
        position = apply(Op.MAX, position, ZERO)
    last = simplify(size - 1, t.ranges)
    is_inside = poly == polynomial(position) and t.is_nonnegative(simplify(last - position, t.ranges))
    return position if is_inside else apply(Op.MIN, position, last)


def _stack(t: Tracer, out: Value, parts: Sequence[Value], axis: int = 0) -> Element:
    axis = _axis(axis, len(out.shape))

    def element(index: Index) -> Expr:
        rest = index[:axis] + index[axis + 1 :]
        result = as_kind(parts[-1].at(rest), out.kind)
        for number in range(len(parts) - 2, -1, -1):
            here = as_kind(parts[number].at(rest), out.kind)
            result = t.choose(t.less(index[axis], const(number + 1)), here, result)
        return result

    return element


def _pad(t: Tracer, out: Value, x: Value, pads: Sequence[Any], value: Any = 0.0) -> Element:
    """Constant padding, innermost dim first."""
    before = {len(x.shape) - 1 - n: (pads[2 * n], pads[2 * n + 1]) for n in range(len(pads) // 2)}

    def element(index: Index) -> Expr:
        source, inside = list(index), const(True)
        for axis, (left, right) in before.items():
            size, shift = t.size(x.shape[axis]), t.size(left)
            moved = simplify(index[axis] - shift, t.ranges)
            if shift is not ZERO:
                inside = t.conjunction(inside, apply(Op.LE, shift, index[axis]))
            if t.size(right) is not ZERO:
                inside = t.conjunction(inside, t.less(moved, size))
            source[axis] = clamp(t, moved, size)
        filling = as_kind(as_expr(0.0 if value is None else value), out.kind)
        return t.choose(inside, x.at(tuple(source)), filling)

    return element


def _repeat(t: Tracer, out: Value, x: Value, times: Any) -> Element:
    def element(index: Index) -> Expr:
        tail = index[len(index) - len(x.shape) :]
        return x.at(tuple(modulo(i, t.size(s), t.ranges) for i, s in zip(tail, x.shape, strict=True)))

    return element


def _flip(t: Tracer, out: Value, x: Value, axes: Sequence[int]) -> Element:
    flipped = {_axis(a, len(x.shape)) for a in axes}

    def element(index: Index) -> Expr:
        return x.at(
            tuple(
                simplify(t.size(size) - 1 - i, t.ranges) if axis in flipped else i
                for axis, (i, size) in enumerate(zip(index, x.shape, strict=True))
            )
        )

    return element


def _roll(t: Tracer, out: Value, x: Value, shifts: Any, axes: Any = ()) -> Element:
    shift_list = shifts if isinstance(shifts, (list, tuple)) else [shifts]
    axis_list = axes if isinstance(axes, (list, tuple)) else [axes]
    if not axis_list:
        raise UnsupportedSpec("torch.roll without dims", hint="name the dims")
    moves = {_axis(a, len(x.shape)): s for a, s in zip(axis_list, shift_list, strict=True)}

    def element(index: Index) -> Expr:
        source = list(index)
        for axis, shift in moves.items():
            source[axis] = modulo(index[axis] - t.size(shift), t.size(x.shape[axis]), t.ranges)
        return x.at(tuple(source))

    return element


def _index(t: Tracer, out: Value, x: Value, indices: Sequence[Value | None]) -> Element:
    """Advanced indexing: the index tensors broadcast together and replace their dims."""
    used = [axis for axis, index in enumerate(indices) if index is not None]
    chosen = [indices[axis] for axis in used]
    rank = max(len(value.shape) for value in chosen if value is not None)
    first = used[0] if used == list(range(used[0], used[-1] + 1)) else 0
    shape = out.shape[first : first + rank]

    def element(index: Index) -> Expr:
        inner = index[first : first + rank]
        others = iter(index[:first] + index[first + rank :])
        source = []
        for axis, size in enumerate(x.shape):
            picker = indices[axis] if axis < len(indices) else None
            source.append(next(others) if picker is None else wrap(t, t.read(picker, inner, shape), t.size(size)))
        return x.at(tuple(source))

    return element


def wrap(t: Tracer, position: Expr, size: Expr) -> Expr:
    """Negative positions count from the end, as in Python; left alone when that cannot be decided."""
    position = simplify(position, t.ranges)
    if position.op is Op.CONST and isinstance(position.attr, int) and position.attr < 0:
        return simplify(position + size, t.ranges)
    if t.is_certainly_negative(position):
        return simplify(position + size, t.ranges)
    return position


def _index_put(
    t: Tracer, out: Value, x: Value, indices: Sequence[Value | None], value: Value, accumulate: bool = False
) -> Element:
    """x[mask] = scalar: the only assignment by index whose places are known element by element."""
    (mask, *others) = [picker for picker in indices if picker is not None]
    if others or mask.kind is not Kind.BOOL or accumulate or value.shape not in ((), (1,)):
        raise UnsupportedSpec(
            "an assignment at computed positions",
            hint="write it with torch.where, or assign a number at a boolean mask",
        )
    first = next(axis for axis, picker in enumerate(indices) if picker is not None)

    def element(index: Index) -> Expr:
        inside = mask.at(index[first : first + len(mask.shape)])
        return t.choose(inside, as_kind(value.at(tuple(ZERO for _ in value.shape)), x.kind), x.at(index))

    return element


def _index_select(t: Tracer, out: Value, x: Value, axis: int, picker: Value) -> Element:
    axis = _axis(axis, len(x.shape))

    def element(index: Index) -> Expr:
        position = picker.at((index[axis],) if picker.shape else ())
        return x.at((*index[:axis], wrap(t, position, t.size(x.shape[axis])), *index[axis + 1 :]))

    return element


def _embedding(t: Tracer, out: Value, table: Value, picker: Value, *_: Any, **__: Any) -> Element:
    return lambda index: table.at((simplify(picker.at(index[:-1]), t.ranges), index[-1]))


def _gather(t: Tracer, out: Value, x: Value, axis: int, picker: Value, *_: Any, **__: Any) -> Element:
    axis = _axis(axis, len(x.shape))
    return lambda index: x.at((*index[:axis], simplify(picker.at(index), t.ranges), *index[axis + 1 :]))


def _diagonal_keep(is_lower: bool) -> Handler:
    def handler(t: Tracer, out: Value, x: Value, diagonal: Any = 0) -> Element:
        def element(index: Index) -> Expr:
            row, column = simplify(index[-2] + t.size(diagonal), t.ranges), index[-1]
            inside = apply(Op.LE, column, row) if is_lower else apply(Op.LE, row, column)
            value = x.at(index)
            return t.choose(inside, value, as_kind(ZERO, value.kind))

        return element

    return handler


def _unfold(t: Tracer, out: Value, x: Value, axis: int, size: int, step: int) -> Element:
    axis = _axis(axis, len(x.shape))

    def element(index: Index) -> Expr:
        position = simplify(index[axis] * t.size(step) + index[-1], t.ranges)
        return x.at((*index[:axis], position, *index[axis + 1 : -1]))

    return element


def _diagonal(t: Tracer, out: Value, x: Value, offset: int = 0, a: int = 0, b: int = 1) -> Element:
    a, b = _axis(a, len(x.shape)), _axis(b, len(x.shape))

    def element(index: Index) -> Expr:
        others = iter(index[:-1])
        at = {a: index[-1] - min(offset, 0), b: index[-1] + max(offset, 0)}
        return x.at(
            tuple(simplify(at[n], t.ranges) if n in at else next(others) for n in range(len(x.shape)))
        )

    return element


View = tuple[str, tuple[Any, ...]]


def _split(outs: Sequence[Value], _: Any, axis: int = 0) -> list[View]:
    """Parts of given sizes, in order, as slices."""
    parts: list[View] = []
    start: Any = 0
    for out in outs:
        end = start + out.shape[axis]
        parts.append(("slice", (axis, start, end)))
        start = end
    return parts


def _unbind(outs: Sequence[Value], axis: int = 0) -> list[View]:
    """All positions along a dim, in order."""
    return [("select", (axis, number)) for number in range(len(outs))]


VIEWS: dict[str, Handler] = {
    "alias": _alias, "detach": _alias, "lift_fresh": _alias, "lift_fresh_copy": _alias, "lift": _alias,
    "permute": _permute, "transpose": _transpose, "t": _transpose, "numpy_T": _transpose,
    "unsqueeze": _unsqueeze, "squeeze": _squeeze, "expand": _expand, "view": _view, "_unsafe_view": _view,
    "reshape": _view, "_reshape_alias": _view, "slice": _slice, "select": _select, "unfold": _unfold,
    "diagonal": _diagonal,
}  # fmt: skip
"""Results that share memory with their first operand."""

SPLITS: dict[str, Callable[..., list[View]]] = {"split": _split, "split_with_sizes": _split, "unbind": _unbind}
"""Several results, each one of VIEWS (by name, with its settings) of the first operand."""

MOVES: dict[str, Handler] = {
    "cat": _cat, "stack": _stack, "constant_pad_nd": _pad, "repeat": _repeat, "flip": _flip, "roll": _roll,
    "index": _index, "_unsafe_index": _index, "index_select": _index_select, "embedding": _embedding,
    "index_put": _index_put, "_index_put_impl": _index_put, "gather": _gather, "take_along_dim": _gather,
    "tril": _diagonal_keep(True), "triu": _diagonal_keep(False),
}  # fmt: skip
"""Results with memory of their own."""
