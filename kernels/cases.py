"""The cases a kernel is verified on: sizes around its tiles, layouts, and contents that go wrong first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ..ir.expr import Expr, Op, var
from ..ir.program import Grid, Program, TileAt, TileLoop, Tiles, statements

__all__ = ["Case", "adapted", "cases_for", "small_cases", "tile_sizes"]

DEFAULT_TILES = (64, 64)


@dataclass(frozen=True, slots=True)
class Case:
    """Sizes, how the tensors lie in memory, and what is in them (see tensors.py for both lists)."""

    batch: int
    kv_heads: int
    rows: int
    columns: int
    layout: str = "contiguous"
    content: str = "normal"

    @property
    def name(self) -> str:
        """An id such as B2-Hkv1-M65-N64-sliced."""
        parts = [f"B{self.batch}", f"Hkv{self.kv_heads}", f"M{self.rows}", f"N{self.columns}"]
        parts += [part for part in (self.layout, self.content) if part not in ("contiguous", "normal")]
        return "-".join(parts)


def tile_sizes(program: Program) -> tuple[int, int]:
    """The largest tiles along M and along N that a program uses."""
    found = {"M": 0, "N": 0}
    for tiles in _tiles(program):
        if tiles.extent.op is Op.VAR and tiles.extent.attr in found:
            found[str(tiles.extent.attr)] = max(found[str(tiles.extent.attr)], tiles.tile)
    return found["M"] or DEFAULT_TILES[0], found["N"] or DEFAULT_TILES[1]


def split_length(program: Program) -> int | None:
    """How many keys one instance of a split program sees: d of a grid over (N + d - 1) // d; None without splits."""
    for statement in statements(program.body):
        for extent in statement.extents if isinstance(statement, Grid) else ():
            if isinstance(extent, Expr) and extent.op is Op.FLOORDIV and var("N") in extent.args[0].args:
                return int(extent.args[1].attr)  # type: ignore[call-overload, no-any-return]
    return None


def _tiles(program: Program) -> Iterator[Tiles]:
    for statement in statements(program.body):
        if isinstance(statement, (TileLoop, TileAt)):
            yield statement.tiles
        elif isinstance(statement, Grid):
            yield from (extent for extent in statement.extents if isinstance(extent, Tiles))


def cases_for(program: Program, *, thorough: bool = False) -> tuple[Case, ...]:
    """The case list of a program; `thorough` adds every combination of sizes around both tiles."""
    m, n = tile_sizes(program)
    length = split_length(program)
    sizes = _sizes(m, n) if length is None else _few_rows(n, length)
    cases = [*sizes, *_layouts(m, n), *_contents(m, n)]
    if thorough:
        around = sorted({1, 17, m - 1, m, m + 1, n - 1, n, n + 1, 2 * n + 1, 3 * max(m, n) + 5})
        cases += [Case(2, 2, rows, columns) for rows in around for columns in around]
    return tuple(dict.fromkeys(cases))


def small_cases(program: Program) -> tuple[Case, ...]:
    """A short list for the interpreter, which is slow: every kind of tile, one layout."""
    m, n = tile_sizes(program)
    return (
        Case(1, 1, 1, 1),
        Case(1, 1, 17, n + 1),
        Case(1, 2, m + 1, 2 * n + 1),
        Case(2, 1, n + 1, n + 1),
        Case(1, 1, 2 * n + 3, 2 * n + 3, content="masked_rows"),
        Case(1, 1, n + 1, n + 1, content="large"),
        Case(1, 1, 17, 0),
    )


def adapted(case: Case, own: Case, is_allowed: Callable[[Case], bool]) -> Case | None:
    """The case, or the nearest one with sizes that the spec allows: M = N, or sizes of the example (`own`)."""
    heads, square = {"kv_heads": own.kv_heads}, {"columns": case.rows}
    lengths = {"rows": own.rows, "columns": own.columns}
    changes: tuple[dict[str, Any], ...] = ({}, square, heads, heads | square, lengths, heads | lengths)
    candidates = [replace(case, **change) for change in changes]
    candidates.append(replace(candidates[-1], batch=own.batch))
    return next((candidate for candidate in candidates if is_allowed(candidate)), None)


def _sizes(m: int, n: int) -> list[Case]:
    """Odd sizes, tile ± 1 in both directions, M = N for functions that need it, and M != N."""
    longest = 2 * max(m, n) + 3
    square = [1, 17, m - 1, m + 1, n - 1, n, n + 1, longest]
    return [
        *(Case(1, 2 if size < 100 else 1, size, size) for size in square),
        Case(2, 1, 1, n + 1),
        Case(1, 2, 17, 2 * n),
        Case(1, 1, m, 2 * n + 1),
        Case(1, 1, longest, 17),
        Case(3, 3, 5, longest),
    ]


def _few_rows(n: int, length: int) -> list[Case]:
    """Few queries, around a tile and around a split of keys, over several splits; more of them than a tile has."""
    return [
        Case(1, 2, 1, 1),
        Case(2, 1, 1, 17),
        Case(1, 1, 1, n - 1),
        Case(2, 2, 2, n + 1),
        Case(1, 1, 1, length),
        Case(1, 1, 3, length + 1),
        Case(2, 1, 1, 2 * length + n + 3),
        Case(1, 1, 16, n + 5),
        Case(3, 3, 5, 2 * n + 3),
        Case(1, 1, n + 3, n + 3),
    ]


def _layouts(m: int, n: int) -> list[Case]:
    return [
        Case(2, 2, m + 1, m + 1, layout="transposed"),
        Case(2, 1, 17, n + 1, layout="sliced"),
        Case(2, 2, n + 1, n + 1, layout="strided"),
        Case(3, 1, 17, 17, layout="expanded"),
    ]


def _contents(m: int, n: int) -> list[Case]:
    size = n + 2
    return [
        Case(1, 1, size, size, content="large"),
        Case(1, 1, 17, size, content="large"),
        Case(1, 2, size, size, content="masked_rows"),
        Case(1, 1, m + 3, 2 * n + 1, content="masked_rows"),
        Case(1, 1, size, size, content="nan_row"),
        Case(1, 1, 0, 17),
        Case(1, 1, 17, 0),
    ]
