"""C++ text of sums in memory that several instances add to, each in its turn or in any order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...ir.errors import LoweringError
from ...ir.evaluate import evaluate
from ...ir.expr import Expr, Op
from ...ir.printer import print_expr, print_statement
from ...ir.program import All, Alloc, Gemm, Grid, Param, Program, ReduceAdd, TileAxis, statements
from ...ir.shapes import Shapes, infer
from ...ir.spec import Dim
from .expressions import identifier
from .products import write_product

if TYPE_CHECKING:
    from .body import BodyWriter


def turns_of(tensor: str) -> str:
    """The name of the array that counts, per tile, how many have added to a tensor."""
    return f"{identifier(tensor)}_turns"


def reduced(program: Program) -> tuple[str, ...]:
    """Tensors that something is added to, in the order of the text."""
    return tuple(dict.fromkeys(s.target.name for s in statements(program.body) if isinstance(s, ReduceAdd)))


def is_ordered(grid: Grid) -> bool:
    """Whether instances of a grid wait for each other, so that they must start in the order of their numbers."""
    return any(isinstance(s, ReduceAdd) and s.after is not None for s in statements(grid.body))


def turn_dims(program: Program, shapes: Shapes, tensor: str) -> list[tuple[Dim | Expr, int]]:
    """Of each dimension along which a tensor's tiles are numbered: its size, and how much of it a tile is."""
    target = next(s.target for s in statements(program.body) if isinstance(s, ReduceAdd) and s.target.name == tensor)
    found = shapes.tensors[tensor]
    assert isinstance(found, (Alloc, Param))
    tiles = [shapes.tiles[i.name].tile if isinstance(i, TileAxis) else 1 for i in target.indices]
    pairs = zip(found.dims, target.indices, tiles, strict=True)
    return [(dim, tile) for dim, item, tile in pairs if not isinstance(item, All)]


def turn_numbers(program: Program) -> dict[str, list[tuple[str, Dim | Expr, int]]]:
    """Of every tensor that is added to: per dimension along which its tiles are numbered, its name, size and tile."""
    tensors = reduced(program)
    shapes = infer(program) if tensors else None
    found = {}
    for tensor in tensors:
        assert shapes is not None
        found[tensor] = [(print_dim(dim), dim, tile) for dim, tile in turn_dims(program, shapes, tensor)]
    return found


def print_dim(dim: Dim | Expr) -> str:
    """A dimension as text."""
    return print_expr(dim) if isinstance(dim, Expr) else str(dim)


def evaluate_size(dim: Dim | Expr, sizes: Mapping[str, int]) -> int:
    """The number that a dimension is in a run."""
    if isinstance(dim, Expr):
        return int(evaluate(dim, sizes, {}))
    return dim if isinstance(dim, int) else sizes[dim]


def reduce_add(w: BodyWriter, s: ReduceAdd) -> None:
    """target += tile, alone at it: after those of lower ranks, or when nobody else is there."""
    shapes = w.frame.shapes
    if s.value.op is not Op.VAR or len(shapes.ref_axes(s.target)) != 2:
        raise LoweringError(f"{print_statement(s)}: the cpu target adds whole tiles of rows x columns, by their names")
    name = str(s.value.attr)
    rows, columns = shapes.names[name].axes
    items = [item for item in s.target.indices if not isinstance(item, All)]
    at = [identifier(item.name) if isinstance(item, TileAxis) else w.scalar(item) for item in items]
    turn = f"*a.{turns_of(s.target.name)}.at({', '.join(at)})"
    if s.after is None:
        w.add(f"enter({turn});")
    else:
        rank = w.scalar(s.after)
        tensor = s.target.name
        w.add(f'wait_for_turn({turn}, {rank}, a.{turns_of(tensor)}.data, "{tensor}");')
    if name in w.frame.storage.summed:
        made = next(x for x in statements(w.program.body) if isinstance(x, Gemm) and x.name == name)
        write_product(w, made, w.block(s.target), "ADDED")
        w.add(f"leave({turn});" if s.after is None else f"pass_turn({turn});")
        return
    place, steps = _place(w, s, (rows, columns))
    stride = w.frame.storage.stride(name)
    w.add(f"add_tile({place}, {steps}, {identifier(name)}, {stride}, {w.valid(rows)}, {w.valid(columns)});")
    w.add(f"leave({turn});" if s.after is None else f"pass_turn({turn});")


def _place(w: BodyWriter, s: ReduceAdd, axes: tuple[str, str]) -> tuple[str, str]:
    """C++ text of the target's first element, and of its steps along a tile's rows and columns."""
    steps = w.block_steps(s.target)
    if steps is None:
        return w.at(s.target), ", ".join(w.stride(s.target, axis) for axis in axes)
    row = w.frame.shapes.ref_axes(s.target)[0]
    return w.block(s.target), ", ".join(str(steps[0] if axis == row else steps[1]) for axis in axes)

