"""References as Triton pointers and masks: which addresses a tile covers, and which of them exist.

An address is the tensor's base, then scalar offsets in 64 bits (batch, head, first row of the tile), then offsets
inside the tile in 32 bits. Elements gathered by computed indices have 32 bits in all; the launcher checks that this is
enough for their tensor. Rows past the end of a dimension and the padding of an axis whose size is no power of
two are masked out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...ir.expr import Expr, Op
from ...ir.printer import ATOM, TERM, Path
from ...ir.program import All, Ref, TileAxis
from .context import padded_size
from .expressions import widening
from .layout import call_lines

if TYPE_CHECKING:
    from .kernel import KernelWriter


@dataclass(frozen=True, slots=True)
class Place:
    """Addresses of a tile: terms to add up, conditions that must all hold, axes in order."""

    terms: tuple[str, ...]
    conditions: tuple[str, ...]
    axes: tuple[str, ...]


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
    scalars: list[str] = []
    tiles: list[str] = []
    conditions: list[str] = []
    for position, (index, dim) in enumerate(zip(node.args, writer.shapes.dims(tensor), strict=True)):
        own = writer.expressions.axes(index)
        tile = writer.tile_of(index)
        wide = widening(axes, own)
        if not own:
            scalars += scalar_offset(writer, index, strides[position], path)
        elif tile is not None:
            scalars.append(f"{writer.start(tile)} * {strides[position]}")
            tiles.append(f"{widened(writer.span(tile), wide)} * {strides[position]}")
            if writer.is_ragged(tile, dim):
                conditions.append(widened(f"{writer.index(tile)} < {writer.use_size(dim)}", wide))
        else:
            text = _index_text(writer, node, position, tuple(axis for axis in axes if axis in own))
            writer.context.gathered.add(tensor)
            tiles.append(f"{widened(text, wide)} * {strides[position]}")
            limits = (f"{text} >= 0", f"{text} < {writer.use_size(dim)}")
            conditions += [widened(limit, wide) for limit in limits]
    if len(axes) > 1:
        writer.note_wide_load(tensor, writer.tile_of(node.args[-1]) is not None)
    return Place((writer.context.names(tensor), *scalars, *tiles), tuple(conditions), axes)


def _index_text(writer: KernelWriter, node: Expr, position: int, order: tuple[str, ...]) -> str:
    """An index as a name: its own, or one for a line written here."""
    index = node.args[position]
    text = writer.expressions.text(index, order, ATOM)
    if index.op in (Op.VAR, Op.INDEX):
        return text
    name = writer.given(("index", node, position), f"{writer.context.names(str(node.attr))}_at_{position}")
    writer.line(f"{name} = {writer.expressions.text(index, order)}")
    return name


def widened(text: str, wide: str) -> str:
    if "None" not in wide:
        return text
    is_atom = all(char.isalnum() or char in "_." for char in text)
    return f"{text}[{wide}]" if is_atom else f"({text})[{wide}]"


def load_lines(name: str, place: Place) -> list[str]:
    """`name = tl.load(…)`."""
    return call_lines(f"{name} = tl.load", place.terms, (*_mask(place), *(["other=0"] if place.conditions else [])))


def store_lines(place: Place, value: str) -> list[str]:
    """`tl.store(…)`."""
    return call_lines("tl.store", place.terms, (value, *_mask(place)))


def atomic_add_lines(place: Place, value: str) -> list[str]:
    """`tl.atomic_add(…)`."""
    return call_lines("tl.atomic_add", place.terms, (value, *_mask(place)))


def _mask(place: Place) -> list[str]:
    conditions = place.conditions
    if len(conditions) < 2:
        return [f"mask={text}" for text in conditions]
    return ["mask=" + " & ".join(text if text.endswith("]") else f"({text})" for text in conditions)]
