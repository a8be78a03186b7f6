"""Transfer of the gradient of a captured tensor: an expert's program that sums over pairs, and one term -> its kernel.

The passes are those of the main backward, over programs that have no dq, dk and dv but `ds`: what a pair adds to the
tensor. The region `slope` is the term's factor. What is added up where is the other half: `captured_places.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..dtypes import Kind
from ..edit import edit_program
from ..errors import ScheduleError
from ..expr import Expr, Op, apply, free_vars, select, transform, var
from ..gradient import Backward, Source, Term, differentiate
from ..program import Grid, Let, Param, Program, Statement, statements
from .backward import (
    FORWARD,
    drop_dead,
    drop_true_predicate,
    renamed_captured,
    scale_weights,
    set_regions,
    set_weights,
)  # fmt: skip

ROWS, COLUMNS, PAIRS, SINK = "captured_rows", "captured_columns", "captured_pairs", "captured_sink"
TYPED = ("q", "k", "v", "o", "d_o")  # parameters of the spec's element type

# Names that placing the sums adds
PLACED = (
    "gradient", "before", "sums", "tables", "chunk", "step", "whole", "line_sums", "line_before", "tile_sum",
    "whole_sum", "table_sum", "table_part", "t", "place", "entry", "entry_sums", "hit", "hit_rows", "hit_sum",
    *(f"{letter}{n}" for letter in "tz" for n in range(8)),
)  # fmt: skip

Pass = Callable[[Program, Backward], Program]


def form_of(term: Term) -> str:
    """The name of the expert program that a term starts from: what it is summed over before it is placed."""
    if term.source is Source.SINK:
        return SINK
    read = frozenset[str]().union(*(free_vars(index) for index in term.indices))
    forms = {(True, True): PAIRS, (False, True): COLUMNS}
    return forms.get(("i" in read, "j" in read), ROWS)


def transfer_captured(reference: Program, backward: Backward, tensor: int, term: int) -> tuple[Program, Backward]:
    """The reference's orchestration with one term of backward.captured[tensor]; and the backward with the names that
    the program's captured tensors have.

    Raises ScheduleError when the reference lacks something that a pass needs, naming it.
    """
    backward = with_names_of_its_own(reference, backward)
    chosen = backward.captured[tensor].terms[term]
    known = replace(backward, slope=chosen.factor)
    if chosen.source is Source.SINK:
        assert backward.sink is not None
        known = replace(known, value=backward.sink, after=None)
    program = reference
    for rewrite in PASSES[chosen.source]:
        program = rewrite(program, known)
    return replace(program, name=f"{backward.spec.name}_d_{backward.captured[tensor].tensor.name}"), backward


def with_names_of_its_own(program: Program, backward: Backward) -> Backward:
    """Backward of the same spec whose captured tensors hide no name of the program, nor of one with its sums placed."""
    taken = {p.name for p in program.params} | {r.name for r in program.regions} | set(PLACED)
    for statement in statements(program.body):
        taken |= set(statement.names) if isinstance(statement, Grid) else {str(getattr(statement, "name", ""))}
    renamed = renamed_captured(backward.spec, taken)
    return backward if renamed is backward.spec else differentiate(renamed)


def bind_tensors(program: Program, backward: Backward) -> Program:
    """Give tensors the spec's element type, and put its captured tensors behind q, k and v.

    needs: the parameters of `TYPED`.
    """
    missing = sorted(set(TYPED) - {param.name for param in program.params})
    if missing:
        raise ScheduleError(f"transfer: {program.name} has no parameter {missing[0]!r}, which a gradient needs")
    spec = backward.spec
    params = [replace(p, dtype=spec.dtype) if p.name in TYPED else p for p in program.params]
    captured = [Param(t.name, t.dtype, t.dims) for t in spec.captured]
    first, others = ([p for p in params if (p.name in FORWARD) is is_first] for is_first in (True, False))
    sizes = {**program.fixed, "D": spec.head_dim, "Dv": spec.value_dim}
    return replace(program, params=(*first, *captured, *others), sizes=tuple(sizes.items()))


def take_weights(program: Program, backward: Backward) -> Program:
    """Multiply by weights where a term is of what they are multiplied by.

    rewrite:
        ds = where(seen, p * (dp - delta_tile) * slope(…), 0.0)
        ->  ds = where(seen, where(p == 0.0, 0.0, p * dp * slope(…)), 0.0)
    needs: gradients of scores in this form, in a tile ds.
    """
    p = var("p", Kind.FLOAT)

    def rewrite(node: Expr) -> Expr | None:
        if node.op is not Op.MUL or node.args[0].op is not Op.MUL or node.args[0].args[0] is not p:
            return None
        gap = node.args[0].args[1]
        return select(apply(Op.EQ, p, 0.0), 0.0, p * gap.args[0] * node.args[1])

    def edit(statement: Statement) -> Statement:
        if not isinstance(statement, Let) or statement.name != "ds":
            return statement
        found = transform(statement.value, rewrite)
        if found is statement.value:
            raise ScheduleError(f"transfer: {program.name} has no ds = … p * (dp - delta_tile) * slope(…)")
        return replace(statement, value=found)

    return edit_program(program, edit)


PASSES: dict[Source, tuple[Pass, ...]] = {
    Source.VALUE: (bind_tensors, set_regions, set_weights, scale_weights, drop_true_predicate, drop_dead),
    Source.AFTER: (bind_tensors, set_regions, take_weights, set_weights, drop_true_predicate, drop_dead),
    Source.SINK: (bind_tensors, set_regions, drop_dead),
}

__all__ = ["PASSES", "form_of", "transfer_captured"]
