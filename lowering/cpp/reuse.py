"""Tiles that take the place of a tile which nobody reads after them, so that less memory goes through the caches."""

from __future__ import annotations

from collections.abc import Iterator

from ...ir.dtypes import DType, Kind
from ...ir.edit import names_read
from ...ir.program import Block, Gemm, Grid, Let, Statement, TileLoop, statements
from .rows import Run, split_body
from .storage import Storage


def in_place(grid: Grid, storage: Storage, buffers: frozenset[str]) -> dict[str, str]:
    """Tile -> the tile whose memory it takes.

    rewrite:
        s = gemm(q_tile, k_tile); p = exp2(s - base)      ->      p is computed where s was
    needs: s is a product that only one run reads, last of all to compute p; both are float32 of the same shape, and the
    run is one sweep in the order of their elements. Loops that overlap tiles keep them apart.
    """
    inside = list(statements(grid.body))
    if any(isinstance(s, TileLoop) and s.stages > 1 for s in inside):
        return {}
    products = {s.name for s in inside if isinstance(s, Gemm) and s.into is None} & buffers
    found: dict[str, str] = {}
    for run in _runs(grid.body, storage):
        if len(run.sweeps) != 1:
            continue
        work = run.sweeps[0].statements
        for old in sorted(products):
            readers = [s for s in work if old in names_read(s)]
            elsewhere = [s for s in inside if old in names_read(s) and s not in work]
            if not readers or elsewhere:
                continue
            new = readers[-1]
            if isinstance(new, Let) and new.name in buffers - found.keys() and _fits(new, old, storage):
                found[new.name] = old
    return found


def _fits(new: Let, old: str, storage: Storage) -> bool:
    """Whether a tile's memory can hold another one element by element."""
    names = storage.shapes.names
    is_float = new.value.kind is Kind.FLOAT and names[new.name].dtype is DType.F32
    is_same = names[new.name].axes == names[old].axes and new.name not in storage.turned
    return is_float and is_same and storage.operand.get(new.name, DType.F32) in storage.floats


def _runs(body: tuple[Statement, ...], storage: Storage) -> Iterator[Run]:
    for item in split_body(body, storage.shapes):
        if isinstance(item, Run):
            yield item
        elif isinstance(item, Block):
            yield from _runs(item.body, storage)
