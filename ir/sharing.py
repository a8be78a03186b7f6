"""Parts that an expression uses more than once, by name: what keeps the text of hashes and buckets short."""

from __future__ import annotations

from collections.abc import Iterable

from .expr import Expr, rebuild, var, walk

LEAST_SIZE = 6  # nodes of a part that gets a name
Binding = tuple[str, Expr]


def shared_parts(root: Expr, taken: Iterable[str] = (), least: int = LEAST_SIZE) -> tuple[list[Binding], Expr]:
    """(bindings, result): each binding may read those before it, and the result all of them.

    rewrite:
        exp(x * x + 1.0) / (exp(x * x + 1.0) + y)      ->      t1 = exp(x * x + 1.0); t1 / (t1 + y)
    Names are t1, t2, … except those taken.
    """
    used = set(taken)
    counts: dict[Expr, int] = {}
    for node in walk(root):
        for arg in node.args:
            counts[arg] = counts.get(arg, 0) + 1
    bindings: list[Binding] = []
    short: dict[Expr, Expr] = {}
    sizes: dict[Expr, int] = {}
    number = 0
    for node in walk(root):
        short[node] = rebuild(node, tuple(short[arg] for arg in node.args))
        sizes[node] = 1 + sum(sizes[arg] for arg in node.args)
        if counts.get(node, 0) < 2 or sizes[node] < least:
            continue
        while (name := f"t{(number := number + 1)}") in used:
            pass
        bindings.append((name, short[node]))
        short[node], sizes[node] = var(name, node.kind), 1
    return bindings, short[root]
