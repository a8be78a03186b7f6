"""Parts that an expression uses more than once, by name: what keeps the text of hashes and buckets short."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from .expr import Expr, rebuild, var, walk

LEAST_SIZE = 6  # nodes of a part that gets a name
Binding = tuple[str, Expr]


def shared_parts(root: Expr, name: Callable[[], str]) -> tuple[list[Binding], Expr]:
    """(bindings, result): each binding may read those before it, and the result all of them.

    rewrite:
        exp(x * x + 1.0) / (exp(x * x + 1.0) + y)      ->      t1 = exp(x * x + 1.0); t1 / (t1 + y)
    `name` gives a name that nothing else has.
    """
    counts: dict[Expr, int] = {}
    for node in walk(root):
        for arg in node.args:
            counts[arg] = counts.get(arg, 0) + 1
    bindings: list[Binding] = []
    short: dict[Expr, Expr] = {}
    sizes: dict[Expr, int] = {}
    for node in walk(root):
        short[node] = rebuild(node, tuple(short[arg] for arg in node.args))
        sizes[node] = 1 + sum(sizes[arg] for arg in node.args)
        if counts.get(node, 0) > 1 and sizes[node] >= LEAST_SIZE:
            bindings.append((name(), short[node]))
            short[node], sizes[node] = var(bindings[-1][0], node.kind), 1
    return bindings, short[root]


def numbered_names(taken: Iterable[str]) -> Iterator[str]:
    """t1, t2, … without those that are taken."""
    used, number = set(taken), 0
    while True:
        number += 1
        if f"t{number}" not in used:
            yield f"t{number}"
