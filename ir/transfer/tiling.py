"""Passes that change how a program runs, not what it computes: tile sizes, stages, packed operands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..edit import edit_program
from ..errors import ScheduleError
from ..expr import Op, var
from ..program import (
    Alloc,
    Gemm,
    Grid,
    Load,
    Program,
    Ref,
    Statement,
    Store,
    TileAt,
    TileAxis,
    TileLoop,
    Tiles,
    statements,
)  # fmt: skip
from ..shapes import Shapes, infer


def retile(program: Program, tiles: Mapping[str, int]) -> Program:
    """Change the tile of tile variables.

    rewrite:
        for n in tiles(N, 64, …):       ->      for n in tiles(N, 128, …):
    needs: every name is a tile variable; no buffer's shape depends on it.
    """
    known = infer(program).tiles
    unknown = sorted(set(tiles) - set(known))
    if unknown:
        raise ScheduleError(f"retile: {unknown[0]!r} is not a tile variable of {program.name}; it has {sorted(known)}")

    def edit(statement: Statement) -> Statement:
        if isinstance(statement, (TileLoop, TileAt)) and statement.name in tiles:
            return replace(statement, tiles=Tiles(statement.tiles.extent, tiles[statement.name]))
        if isinstance(statement, Grid):
            pairs = zip(statement.names, statement.extents, strict=True)
            extents = [Tiles(e.extent, tiles.get(n, e.tile)) if isinstance(e, Tiles) else e for n, e in pairs]
            return replace(statement, extents=tuple(extents))
        return statement

    return edit_program(program, edit)


def set_launch(program: Program, warps: int | None, stages: int) -> Program:
    """Set the warps of every grid and the pipeline stages of every tile loop.

    rewrite:
        for n in tiles(N, 64, …):       ->      for n in tiles(N, 64, …, stages=3):
    needs: nothing.
    """

    def edit(statement: Statement) -> Statement:
        if isinstance(statement, Grid):
            return replace(statement, warps=warps)
        return replace(statement, stages=stages) if isinstance(statement, TileLoop) else statement

    return edit_program(program, edit)


def pack_operands(program: Program) -> Program:
    """Copy the right operands of matrix products once, into the layout that the product's inner loop reads.

    rewrite:
                                                for b, g, n in grid(B, Hkv, tiles(N, 64)):
                                                    k_block = load(k[b, g, n, :])
                                                    store(k_pack[b, g, n, :], k_block)
        for n in tiles(N, 64, …):               for n in tiles(N, 64, …):
            k_tile = load(k[b, g, n, :])   ->       k_tile = load(k_pack[b, g, n, :])
            s = gemm(q_tile, k_tile)                s = gemm(q_tile, k_tile)
    needs: the loads' row index is a tile variable, the other indices are names; one tile size per tensor.
    """
    shapes = infer(program)
    packed: dict[str, tuple[Load, str]] = {}
    for load, layout in _right_operands(program, shapes):
        known = packed.setdefault(load.source.name, (load, layout))
        if known[1] != layout:
            return program  # one tensor read in two ways: leave it where it is
    allocs: list[Statement] = []
    copies: list[Statement] = []
    for tensor, (load, layout) in packed.items():
        dims = tuple(var(dim) for dim in shapes.dims(tensor))
        allocs.append(Alloc(f"{tensor}_pack", shapes.dtype(tensor), dims, "global", layout))
        target = Ref(f"{tensor}_pack", load.source.indices)
        copies += [
            Load(f"{tensor}_block", load.source),
            Store(target, var(f"{tensor}_block", shapes.dtype(tensor).kind)),
        ]
    if not packed:
        return program
    grid = _pack_grid(next(iter(packed.values()))[0], shapes, tuple(copies))

    def edit(statement: Statement) -> Statement:
        if isinstance(statement, Load) and statement.source.name in packed:
            return replace(statement, source=Ref(f"{statement.source.name}_pack", statement.source.indices))
        return statement

    moved = edit_program(program, edit)
    return replace(moved, body=(*allocs, grid, *moved.body))


def _right_operands(program: Program, shapes: Shapes) -> list[tuple[Load, str]]:
    """Loads that feed a product from the right, each with the layout that suits it."""
    loads = {s.name: s for s in statements(program.body) if isinstance(s, Load)}
    found = []
    for statement in statements(program.body):
        if not isinstance(statement, Gemm) or not isinstance(statement.right, str) or statement.right not in loads:
            continue
        load = loads[statement.right]
        axes = shapes.ref_axes(load.source)
        result = shapes.gemm(statement).axes
        order = "rows" if axes[-1] in result else "columns"
        row = load.source.indices[-2]
        if isinstance(row, TileAxis) and all(getattr(i, "op", Op.VAR) is Op.VAR for i in load.source.indices):
            found.append((load, f"{order}:{shapes.tiles[row.name].tile}"))
    return found


def _pack_grid(load: Load, shapes: Shapes, copies: tuple[Statement, ...]) -> Grid:
    """One instance per tile of the packed tensors."""
    names: list[str] = []
    extents = []
    for dim, item in zip(shapes.dims(load.source.name), load.source.indices, strict=True):
        if isinstance(item, TileAxis):
            names.append(item.name)
            extents.append(shapes.tiles[item.name])
        elif getattr(item, "op", None) is Op.VAR:
            names.append(str(item.attr))  # type: ignore[union-attr]
            extents.append(var(dim))  # type: ignore[arg-type]
    return Grid(tuple(names), tuple(extents), copies)
