"""Passes that change how a program runs, not what it computes: tile sizes, warps, stages, the order of tiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..algebra import simplify
from ..domain import known_in_whole_tiles
from ..edit import edit_body, edit_program, map_expressions
from ..errors import ScheduleError
from ..expr import const, transform
from ..program import Block, Grid, Program, Statement, TileAt, TileLoop, Tiles
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


def join_parts(program: Program) -> Program:
    """Visit whole and masked tiles in one order, so that which of them are whole does not decide the order of sums.

    rewrite:
        for n in tiles(N, 64, where=keep(b, h, m, n), part="full"):
            x = score(s, b, h, i, j)
        for n in tiles(N, 64, where=keep(b, h, m, n), part="partial"):              ->
            x = where(keep(b, h, i, j) & (j < N), score(s, b, h, i, j), -inf)

        for n in tiles(N, 64, where=keep(b, h, m, n)):
            x = where(keep(b, h, i, j) & (j < N), score(s, b, h, i, j), -inf)
    Targets that leave out what is known in whole tiles (`known_in_whole_tiles`) lose nothing by it.
    needs: nothing; loops stay two that differ in more than their part and in what is known in whole tiles.
    """

    def edit(statement: Statement) -> Statement:
        return replace(statement, body=_joined(statement.body, program)) if isinstance(statement, Block) else statement

    return replace(program, body=_joined(edit_body(program.body, edit), program))


def _joined(body: tuple[Statement, ...], program: Program) -> tuple[Statement, ...]:
    out: list[Statement] = []
    for statement in body:
        both = _both(out[-1], statement, program) if out else None
        out[-1 if both is not None else len(out) :] = [both or statement]
    return tuple(out)


def _both(one: Statement, other: Statement, program: Program) -> TileLoop | None:
    """The loop over the tiles of two loops, or None."""
    if not isinstance(one, TileLoop) or not isinstance(other, TileLoop):
        return None
    full, masked = (one, other) if one.part == "full" else (other, one)
    if (full.part, masked.part) != ("full", "partial") or replace(full, body=(), part="partial") != replace(
        masked, body=()
    ):
        return None
    is_known = known_in_whole_tiles(masked, program)
    assumed = map_expressions(
        replace(program, body=masked.body), lambda e: transform(e, lambda c: const(True) if is_known(c) else None)
    )
    plain = replace(program, body=full.body)
    is_same = map_expressions(assumed, simplify).body == map_expressions(plain, simplify).body
    return replace(masked, part="any") if is_same else None
