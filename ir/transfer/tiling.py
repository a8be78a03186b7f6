"""Passes that change how a program runs, not what it computes: tile sizes, warps, stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..edit import edit_program
from ..errors import ScheduleError
from ..program import Grid, Program, Statement, TileAt, TileLoop, Tiles
from ..shapes import infer


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
            return replace(statement, tiles=replace(statement.tiles, tile=tiles[statement.name]))
        if isinstance(statement, Grid):
            pairs = zip(statement.names, statement.extents, strict=True)
            extents = [replace(e, tile=tiles.get(n, e.tile)) if isinstance(e, Tiles) else e for n, e in pairs]
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
