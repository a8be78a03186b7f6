"""Packing: right operands of matrix products copied once into the layout that the product's inner loop reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..domain.linear import Linear
from ..edit import definitions, edit_program, inlined, resolved
from ..expr import Expr, Op, apply, free_vars, index, substitute, var, walk
from ..program import (
    All,
    Alloc,
    Gemm,
    Grid,
    Index,
    Load,
    Program,
    RangeLoop,
    Ref,
    Statement,
    Store,
    TileAxis,
    TileLoop,
    Tiles,
    statements,
)  # fmt: skip
from ..shapes import Shapes, infer
from ..spec import SIZES


@dataclass(frozen=True, slots=True)
class Packed:
    """One tensor's copy: the grid that makes it, what it reads there, and where a tile of it goes."""

    layout: str
    names: tuple[str, ...]
    extents: tuple[Expr | Tiles, ...]
    source: Ref
    where: Expr | None
    dims: tuple[Expr, ...]
    target: tuple[Index, ...]


def pack_operands(program: Program) -> Program:
    """Copy the right operands of matrix products once, into the layout that the product's inner loop reads.

    rewrite:
                                                for b, g, n in grid(B, Hkv, tiles(N, 64)):
                                                    k_block = load(k[b, g, n, :])
                                                    store(k_pack[b, g, n, :], k_block)
        for n in tiles(N, 64, …):               for n in tiles(N, 64, …):
            k_tile = load(k[b, g, n, :])   ->       k_tile = load(k_pack[b, g, n, :])
            s = gemm(q_tile, k_tile)                s = gemm(q_tile, k_tile)
    Rows at computed places are packed per instance of the grid variables that they depend on, in room for `most=` rows;
    sequences that follow each other, k[start[b] + j, g, :] for j below start[b + 1] - start[b], without such room, in
    tiles numbered start[b] // 64 + b + n.
    What an instance loads once is left to it. A tensor that products read along its rows and its columns is copied
    twice; one tile that they read from either side goes to layout "tiles".
    needs: the row index is a tile variable or computed over one, the other indices are names. A program that it does
    not fit, or that makes copies of its own by these names, is given back as it is.
    """
    shapes = infer(program)
    packed: dict[tuple[str, str], Packed] = {}
    wanted: dict[Load, tuple[str, str]] = {}
    for load, layout in _right_operands(program, shapes):
        found = _plain(load, layout, shapes) or _computed(load, layout, program, shapes)
        key = wanted[load] = load.source.name, layout
        if found is None or packed.setdefault(key, found) != found:
            return program  # one tensor read in two ways: leave it where it is
    if not packed:
        return program
    names = _names_of_copies(packed)
    blocks = {key: name.replace("_pack", "_block", 1) for key, name in names.items()}
    if not {*names.values(), *blocks.values()}.isdisjoint({*shapes.tensors, *shapes.names, *shapes.tiles}):
        return program  # it makes copies of its own
    allocs = [
        Alloc(names[key], shapes.dtype(key[0]), p.dims, "global", p.layout) for key, p in packed.items()
    ]
    grids: dict[tuple[object, ...], list[Statement]] = {}
    for key, p in packed.items():
        copies = grids.setdefault((p.names, p.extents), [])
        copies.append(Load(blocks[key], p.source, where=p.where))
        copies.append(Store(Ref(names[key], p.target), var(blocks[key], shapes.dtype(key[0]).kind), p.where))
    copying = [Grid(axes, extents, tuple(body)) for (axes, extents), body in grids.items()]  # type: ignore[arg-type]

    def edit(statement: Statement) -> Statement:
        if isinstance(statement, Load) and statement in wanted:
            key = wanted[statement]
            return replace(statement, source=Ref(names[key], packed[key].target))
        return statement

    moved = edit_program(program, edit)
    return replace(moved, body=(*allocs, *copying, *moved.body))


def loads_of(loop: TileLoop | RangeLoop) -> list[Load]:
    """The loads of a loop; those of the loops inside it are their own."""
    return [s for s in loop.body if isinstance(s, Load)]


def _names_of_copies(packed: Mapping[tuple[str, str], Packed]) -> dict[tuple[str, str], str]:
    """q_pack; q_pack_rows and q_pack_columns where both are needed."""
    tensors = [tensor for tensor, _ in packed]
    return {
        (tensor, layout): f"{tensor}_pack" + (f"_{layout.partition(':')[0]}" if tensors.count(tensor) > 1 else "")
        for tensor, layout in packed
    }


def _right_operands(program: Program, shapes: Shapes) -> list[tuple[Load, str]]:
    """Loads in loops that feed a product from the right, each with the layout that suits it."""
    inputs = {param.name for param in program.params if not param.is_output}
    inside = [s for loop in statements(program.body) if isinstance(loop, (TileLoop, RangeLoop)) for s in loads_of(loop)]
    every = [load for load in inside if load.source.name in inputs]
    loads = {s.name: s for s in every}
    found = []
    for statement in statements(program.body):
        if not isinstance(statement, Gemm) or not isinstance(statement.right, str) or statement.right not in loads:
            continue
        axes = shapes.ref_axes(loads[statement.right].source)
        order = "rows" if axes[-1] in shapes.gemm(statement).axes else "columns"
        if any(isinstance(s, Gemm) and s.left == statement.right for s in statements(program.body)):
            order = "tiles"
        if axes[0] in shapes.tiles and len(axes) == 2:
            layout = f"{order}:{shapes.tiles[axes[0]].tile}"
            found += [(load, layout) for load in every if load.name == statement.right]
    return found


def _plain(load: Load, layout: str, shapes: Shapes) -> Packed | None:
    """A tensor read by tiles of its rows at named places: as many tiles of the copy, at the same places."""
    indices, dims = load.source.indices, shapes.dims(load.source.name)
    is_named = all(getattr(item, "op", Op.VAR) is Op.VAR for item in indices)
    if not isinstance(indices[-2], TileAxis) or not is_named or shapes.rows_axis(load.source) or load.where is not None:
        return None
    names: list[str] = []
    extents: list[Expr | Tiles] = []
    for dim, item in zip(dims, indices, strict=True):
        if isinstance(item, TileAxis):
            names.append(item.name)
            extents.append(shapes.tiles[item.name])
        elif isinstance(item, Expr):
            names.append(str(item.attr))
            extents.append(var(dim))
    if len(set(names)) != len(names):
        return None
    sizes = tuple(var(dim) for dim in dims)
    return Packed(layout, tuple(names), tuple(extents), load.source, None, sizes, indices)


def _computed(load: Load, layout: str, program: Program, shapes: Shapes) -> Packed | None:
    """A tensor whose rows are gathered."""
    rows, ref = shapes.rows_axis(load.source), load.source
    loop = next((s for s in statements(program.body) if isinstance(s, TileLoop) and s.name == rows), None)
    if rows is None or loop is None or loop.tiles.most is None or not isinstance(ref.indices[-1], All):
        return None
    known, grid, dims = definitions(program), _grid_variables(program), shapes.dims(ref.name)
    places = tuple(_resolved(item, known) for item in ref.indices)
    plain = {name: dim for item, dim in zip(places, dims, strict=True) if (name := _name(item)) is not None}
    where = None if load.where is None else resolved(load.where, known)
    values = [p for p in (*places, where, loop.tiles.extent) if isinstance(p, Expr)]
    outer = {name for value in values for name in free_vars(value)}
    if not outer <= {*grid, *plain, *_sizes(program)}:
        return None
    leading = {name: grid[name] for name in grid if name in outer and name not in plain}
    leading |= {name: var(dim) for name, dim in plain.items()}
    cuts: tuple[Expr | Tiles, ...] = (*leading.values(), loop.tiles)
    found = Packed(
        layout, (*leading, rows), cuts, Ref(ref.name, places), where,
        dims=(*leading.values(), loop.tiles.most, var(dims[-1])), target=(*map(var, leading), TileAxis(rows), All()),
    )  # fmt: skip
    start = _in_sequence(places, rows, loop.tiles, grid, program)
    return found if start is None else _closed_up(found, plain, start, dims)


def _closed_up(found: Packed, plain: Mapping[str, str], start: tuple[str, Expr], dims: tuple[str, ...]) -> Packed:
    """Sequences that follow each other, packed behind each other: from start(b) // T + b tiles on there is room."""
    (b, first), tiles = start, found.extents[-1]
    position = next(p for p, item in enumerate(found.source.indices) if isinstance(item, Expr) and _varies(item))
    assert isinstance(tiles, Tiles)
    count = found.extents[found.names.index(b)]
    assert isinstance(count, Expr)
    height = var(dims[position]) + count * tiles.tile
    row = (apply(Op.FLOORDIV, first, tiles.tile) + var(b)) * tiles.tile + index(found.names[-1])
    sizes = (*map(var, plain.values()), height, var(dims[-1]))
    return replace(found, dims=sizes, target=(*map(var, plain), row, All()))


def _sizes(program: Program) -> set[str]:
    dims = {dim for p in program.params for dim in p.dims if isinstance(dim, str)}
    return {*dims, *program.fixed, *program.free_sizes, *SIZES}


def _name(item: Index) -> str | None:
    """The name that a bare index is."""
    return str(item.attr) if isinstance(item, Expr) and item.op is Op.VAR else None


def _resolved(item: Index, known: Mapping[str, Expr]) -> Index:
    """An index with names replaced by what they stand for; a bare name stays one."""
    if not isinstance(item, Expr) or (item.op is Op.VAR and not _varies(resolved(item, known))):
        return item
    return resolved(item, known)


def _varies(expr: Expr) -> bool:
    return any(node.op is Op.INDEX for node in walk(expr))


def _grid_variables(program: Program) -> dict[str, Expr]:
    """Extents of the variables of grids that are no tiles."""
    grids = [s for s in program.body if isinstance(s, Grid)]
    return {n: e for s in grids for n, e in zip(s.names, s.extents, strict=True) if isinstance(e, Expr)}


def _in_sequence(
    places: tuple[Index, ...], rows: str, tiles: Tiles, grid: Mapping[str, Expr], program: Program
) -> tuple[str, Expr] | None:
    """(b, start) of rows start(b) + index(rows) of which there are start(b + 1) - start(b); else None.

    Such sequences follow each other, so that none of them shares a row with another.
    """
    varying = [item for item in places if isinstance(item, Expr) and _varies(item)]
    if len(varying) != 1:
        return None
    form = Linear.of(varying[0])
    start = form.without(index(rows)).expr()
    over = sorted(free_vars(start) & set(grid))
    if form.coefficient(index(rows)) != 1 or _varies(start) or len(over) != 1:
        return None
    after = substitute(start, {over[0]: var(over[0]) + 1})
    gap = Linear.of(after) - Linear.of(start) - Linear.of(inlined(tiles.extent, program))
    return None if gap.terms or gap.constant else (over[0], start)


__all__ = ["Packed", "pack_operands"]
