"""The rewrite driver: tables of rules by operation, applied bottom-up until none matches."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .expr import Expr, Op, rebuild

Rule = Callable[[Expr], Expr | None]
Rules = Mapping[Op, tuple[Rule, ...]]

MOST_STEPS = 100_000


def rewrite(root: Expr, rules: Rules) -> Expr:
    """The expression after every rule that matches anywhere, arguments before users.

    A rule gives a new expression, or None when it does not match. Rules must make progress; a table that
    runs in circles is a bug and stops after MOST_STEPS.
    """
    done: dict[Expr, Expr] = {}
    steps = 0

    def visit(node: Expr) -> Expr:
        nonlocal steps
        found = done.get(node)
        if found is not None:
            return found
        new = rebuild(node, tuple(visit(arg) for arg in node.args))
        changed = apply_first(new, rules)
        if changed is not None:
            steps += 1
            assert steps < MOST_STEPS, f"rules run in circles at {node!r}"
            changed = visit(changed)
        done[node] = new if changed is None else changed
        return done[node]

    return visit(root)


def apply_first(node: Expr, rules: Rules) -> Expr | None:
    """What the first matching rule makes of a node; None when no rule matches."""
    for rule in rules.get(node.op, ()):
        new = rule(node)
        if new is not None and new is not node:
            return new
    return None


def merge(*tables: Rules) -> Rules:
    """One table with the rules of all, in order."""
    merged: dict[Op, tuple[Rule, ...]] = {}
    for table in tables:
        for op, rules in table.items():
            merged[op] = merged.get(op, ()) + rules
    return merged
