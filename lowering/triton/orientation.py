"""In which order of axes a kernel holds its tiles, decided once for each grid from the products that read them.

A program's tiles have named axes and no order; a processor's have one, and turning a tile that was computed costs a way
through shared memory. So a product's operand that was computed has the order in which most products take it: the
contracted axis last if it stands on the left, first if on the right. All tiles over the same axes have the same order.
What nothing decides keeps the text's order.
"""

from __future__ import annotations

from collections import Counter

from ...ir.program import Fill, Gemm, Grid, Let, Load, Reduce, statements
from ...ir.shapes import Shapes

Axes = tuple[str, ...]


def orders_of(shapes: Shapes, grid: Grid) -> dict[frozenset[str], Axes]:
    """The order of axes of every pair of axes that a product of the grid has, or that an operand has."""
    inside = list(statements(grid.body))
    products = [s for s in inside if isinstance(s, Gemm)]
    orders: dict[frozenset[str], Axes] = {}
    votes: Counter[Axes] = Counter()
    computed = {s.name for s in inside if isinstance(s, (Let, Gemm, Fill, Reduce))}
    computed -= {s.name for s in inside if isinstance(s, Load)}
    for product in products:
        axes = shapes.gemm(product).axes
        result = orders.setdefault(frozenset(axes), axes)
        for operand in (product.left, product.right):
            if operand in computed:
                votes[_wanted(shapes.operand(operand).axes, result)] += 1
    for axes, _ in reversed(votes.most_common()):  # the first of equals wins
        orders[frozenset(axes)] = axes
    return orders


def _wanted(axes: Axes, result: Axes) -> Axes:
    """The order of an operand's axes in which the product with this result takes it as it is."""
    kept = next((axis for axis in axes if axis in result), axes[0])
    contracted = next((axis for axis in axes if axis != kept), kept)
    return (kept, contracted) if result[:1] == (kept,) else (contracted, kept)
