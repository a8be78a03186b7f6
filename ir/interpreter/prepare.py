"""Expressions made ready to run: regions inlined, loads and tile indices named, rounding dropped if asked."""

from __future__ import annotations

from dataclasses import dataclass

from ..dtypes import DType, Kind
from ..edit import inlined
from ..expr import Expr, Op, cast, free_vars, transform, var
from ..program import Program


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """`value` over plain variables: the program's `names`, `indices` (variable -> tile variable), `loads`.

    `loads` are to be done in order; each names its result, which later ones and `value` may use.
    """

    value: Expr
    loads: tuple[tuple[str, Expr], ...]
    names: tuple[str, ...]
    indices: tuple[tuple[str, str], ...]


def prepare(expr: Expr, program: Program, is_exact: bool) -> Prepared:
    """Make an expression ready. Exact arithmetic drops casts between floats."""
    loads: list[tuple[str, Expr]] = []
    indices: dict[str, str] = {}

    def replace(node: Expr) -> Expr | None:
        if node.op is Op.LOAD:
            loads.append((f"load {len(loads)}", node))
            return var(loads[-1][0], node.kind)
        if node.op is Op.INDEX:
            indices[f"index({node.attr})"] = str(node.attr)
            return var(f"index({node.attr})")
        if is_exact and node.op is Op.CAST and node.kind is Kind.FLOAT:
            return cast(node.args[0], DType.F64)
        return None

    value = transform(inlined(expr, program), replace)
    used = set(free_vars(value)).union(*(free_vars(node) for _, node in loads))
    own = {name for name, _ in loads} | set(indices)
    return Prepared(value, tuple(loads), tuple(sorted(used - own)), tuple(indices.items()))
