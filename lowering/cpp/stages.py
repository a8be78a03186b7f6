"""Splitting a tile loop's body for software pipelining: what the next tile can start before this one ends."""

from __future__ import annotations

from ...ir.edit import name_bound, names_read
from ...ir.errors import LoweringError
from ...ir.printer import print_statement
from ...ir.program import Gemm, Load, Statement, TileLoop

Body = tuple[Statement, ...]


def split_stages(loop: TileLoop) -> tuple[Body, Body, Body]:
    """(head, middle, tail): up to the first product, between, and the last product.

    The order of execution becomes head(0), then for every tile middle(n), head(n + 1), tail(n). Raises LoweringError
    when the body has fewer than two products, or when that order would change what is computed.
    """
    products = [position for position, statement in enumerate(loop.body) if isinstance(statement, Gemm)]
    if len(products) < 2:
        reason = f"stages on the cpu overlap two products; this loop has {len(products)}"
        raise LoweringError(f"{print_statement(loop)}: {reason}")
    head, rest = _needed_by(loop.body, products[0])
    cut = len(rest) - (len(loop.body) - products[-1])
    middle, tail = rest[:cut], rest[cut:]
    _check(loop, head, middle, tail)
    return head, middle, tail


def _needed_by(body: Body, position: int) -> tuple[Body, Body]:
    """The statements that the product at `position` needs, itself included, and all others."""
    wanted = names_read(body[position])
    chosen = {position}
    for earlier in range(position - 1, -1, -1):
        name = name_bound(body[earlier])
        if name in wanted:
            chosen.add(earlier)
            wanted |= names_read(body[earlier])
    head = tuple(s for p, s in enumerate(body) if p in chosen)
    return head, tuple(s for p, s in enumerate(body) if p not in chosen)


def _check(loop: TileLoop, head: Body, middle: Body, tail: Body) -> None:
    bound_ahead = {name_bound(s) for s in head}
    read_behind = {name for s in tail for name in names_read(s)}
    bound_behind = {name_bound(s) for s in (*middle, *tail)}
    read_ahead = {name for s in head for name in names_read(s)}
    clash = (bound_ahead & read_behind) | (bound_behind & read_ahead)
    if clash or any(not isinstance(s, (Load, Gemm)) for s in head):
        names = ", ".join(sorted(str(name) for name in clash)) or "what comes before its first product"
        reason = f"cannot start the next tile early because of {names}; use stages=1"
        raise LoweringError(f"{print_statement(loop)}: {reason}")
