"""References as Triton pointers and masks: which addresses a tile covers, and which of them exist.

An address is the tensor's base, then scalar offsets in 64 bits (batch, head, first row of the tile), then offsets
inside the tile in 32 bits. Rows past the end of a dimension and the padding of an axis whose size is no power of
two are masked out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...ir.expr import Expr, Op
from ...ir.printer import ATOM, COMPARE, TERM, Path
from ...ir.program import All, Ref, TileAxis
from .context import padded_size
from .expressions import widening

if TYPE_CHECKING:
    from .kernel import KernelWriter

MAX_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Place:
    """Addresses of a tile: terms to add up, conditions that must all hold, axes in order."""

    terms: tuple[str, ...]
    conditions: tuple[str, ...]
    axes: tuple[str, ...]

    def pointer(self) -> str:
        """The terms' sum."""
        return " + ".join(self.terms)


def tile_place(writer: KernelWriter, ref: Ref, path: Path) -> Place:
    """The addresses of a reference. Raises LoweringError for an index that is itself a tile."""
    axes = writer.shapes.ref_axes(ref)
    dims = writer.shapes.dims(ref.name)
    strides = writer.use_tensor(ref.name)
    scalars: list[str] = []
    tiles: list[str] = []
    conditions: list[str] = []
    for item, dim, stride in zip(ref.indices, dims, strides, strict=True):
        if isinstance(item, TileAxis):
            wide = widening(axes, (item.name,))
            scalars.append(f"{writer.start(item.name)} * {stride}")
            tiles.append(f"{widened(writer.span(item.name), wide)} * {stride}")
            if writer.is_ragged(item.name, dim):
                conditions.append(widened(f"{writer.index(item.name)} < {writer.use_size(dim)}", wide))
        elif isinstance(item, All):
            wide = widening(axes, (dim,))
            tiles.append(f"{widened(writer.span(dim), wide)} * {stride}")
            if padded_size(writer.shapes.sizes[dim]) != writer.shapes.sizes[dim]:
                conditions.append(widened(f"{writer.span(dim)} < {writer.use_size(dim)}", wide))
        else:
            scalars += scalar_offset(writer, writer.prepare(item, path), stride, path)
    return Place((writer.context.names(ref.name), *scalars, *tiles), tuple(conditions), axes)


def scalar_offset(writer: KernelWriter, index: Expr, stride: str, path: Path) -> list[str]:
    """The term of a scalar index, in 64 bits; none for index 0."""
    if writer.expressions.axes(index):
        reason = "an index of a reference that is itself a tile (a gather of rows)"
        raise writer.context.refuse(path, reason, "loop over the rows, or load element by element in an expression")
    if index.op is Op.CONST:
        return [] if index.attr == 0 else [f"{index.attr} * {stride}"]
    if writer.is_wide(index):
        return [f"{writer.expressions.text(index, (), TERM)} * {stride}"]
    return [f"tl.cast({writer.expressions.text(index, ())}, tl.int64) * {stride}"]


def element_place(writer: KernelWriter, node: Expr, path: Path) -> Place:
    """The addresses of a LOAD in an expression: one element for each element of its indices."""
    tensor = str(node.attr)
    axes = writer.expressions.axes(node)
    strides = writer.use_tensor(tensor)
    terms = [writer.context.names(tensor)]
    conditions: list[str] = []
    for index, dim, stride in zip(node.args, writer.shapes.dims(tensor), strides, strict=True):
        own = writer.expressions.axes(index)
        if not own:
            terms += scalar_offset(writer, index, stride, path)
            continue
        order = tuple(axis for axis in axes if axis in own)
        wide = widening(axes, own)
        terms.append(f"{widened(f'{writer.expressions.text(index, order, ATOM)}.to(tl.int64)', wide)} * {stride}")
        conditions += [widened(text, wide) for text in _element_conditions(writer, index, order, dim)]
    return Place(tuple(terms), tuple(conditions), axes)


def _element_conditions(writer: KernelWriter, index: Expr, order: tuple[str, ...], dim: str) -> list[str]:
    tile = writer.tile_of(index)
    text = writer.expressions.text(index, order, COMPARE + 1)
    if tile is not None:
        return [f"{text} < {writer.use_size(dim)}"] if writer.is_ragged(tile, dim) else []
    return [f"{text} >= 0", f"{text} < {writer.use_size(dim)}"]


def widened(text: str, wide: str) -> str:
    if wide == ":":
        return text
    is_atom = all(char.isalnum() or char in "_." for char in text.removesuffix(".to(tl.int64)"))
    return f"{text}[{wide}]" if is_atom else f"({text})[{wide}]"


def load_lines(name: str, place: Place) -> list[str]:
    """`name = tl.load(…)`."""
    return _call_lines(f"{name} = tl.load(", place, (), "other=0")


def store_lines(place: Place, value: str) -> list[str]:
    """`tl.store(…)`."""
    return _call_lines("tl.store(", place, (value,))


def atomic_add_lines(place: Place, value: str) -> list[str]:
    """`tl.atomic_add(…)`."""
    return _call_lines("tl.atomic_add(", place, (value,))


def _call_lines(head: str, place: Place, values: Sequence[str], when_masked: str | None = None) -> list[str]:
    arguments = list(values)
    if place.conditions:
        arguments.append(f"mask={_all(place.conditions)}")
        if when_masked:
            arguments.append(when_masked)
    single = f"{head}{', '.join([place.pointer(), *arguments])})"
    if len(single) <= MAX_WIDTH:
        return [single]
    body = [*(f"    {line}" for line in pointer_lines(place)), *(f"    {argument}," for argument in arguments)]
    return [head, *body, ")"]


def _all(conditions: tuple[str, ...]) -> str:
    if len(conditions) == 1:
        return conditions[0]
    return " & ".join(text if text.endswith("]") else f"({text})" for text in conditions)


def pointer_lines(place: Place) -> list[str]:
    """The pointer over as many lines as it needs, each beginning with `+`."""
    lines = [place.terms[0]]
    for term in place.terms[1:]:
        if len(lines[-1]) + len(term) + 3 <= MAX_WIDTH - 12:
            lines[-1] += f" + {term}"
        else:
            lines.append(f"+ {term}")
    lines[-1] += ","
    return lines


def wrapped(items: list[str]) -> list[str]:
    """Items with commas, over as many lines as they need."""
    lines: list[str] = []
    for item in items:
        if lines and len(lines[-1]) + len(item) + 2 <= MAX_WIDTH - 4:
            lines[-1] += f" {item},"
        else:
            lines.append(f"{item},")
    return lines
