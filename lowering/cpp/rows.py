"""Fusing tile arithmetic: a run of elementwise statements and reductions becomes a few sweeps over the rows.

    run      consecutive statements that only compute tiles (let, reduce_max, reduce_sum)
    sweep    part of a run: "across" (each row in turn, lanes along the last axis) or "down" (W rows at a time,
             one row per lane, for values that have one element per row)

A reduction is gathered per row in an across sweep and finished for W rows together after it, which costs one
operation and two shuffles a row instead of a dependent chain. The whole run is one loop over groups of W rows, so that
values pass from sweep to sweep in registers or a few cache lines.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from ...ir.algebra import simplify
from ...ir.dtypes import Kind
from ...ir.edit import names_read
from ...ir.errors import LoweringError
from ...ir.expr import Expr, Op, apply, const, rebuild, select, substitute, transform, var, walk
from ...ir.printer import print_statement
from ...ir.program import Block, Fill, Let, Load, Program, Reduce, Statement
from ...ir.shapes import Shapes


@dataclass(slots=True)
class Sweep:
    """One sweep: `axis` is the last axis of an across sweep, None for a down sweep."""

    axis: str | None
    statements: list[Let | Reduce] = field(default_factory=list)


@dataclass(slots=True)
class Run:
    """A run over row axis `row`, as sweeps in order."""

    row: str
    sweeps: list[Sweep] = field(default_factory=list)


def split_body(body: tuple[Statement, ...], shapes: Shapes) -> Iterator[Statement | Run]:
    """The statements of a body, with tile arithmetic collected into runs.

    Loads, fills and scalars inside a run do not depend on its tiles and come first.
    """
    pending: list[Let | Reduce] = []
    for statement in body:
        if _is_row_work(statement, shapes):
            assert isinstance(statement, (Let, Reduce))
            pending.append(statement)
        elif isinstance(statement, (Load, Fill, Let)) and not _reads_any(statement, pending):
            yield statement
        else:
            yield from _runs(pending, shapes)
            pending = []
            yield statement
    yield from _runs(pending, shapes)


def _is_row_work(statement: Statement, shapes: Shapes) -> bool:
    return isinstance(statement, (Let, Reduce)) and bool(shapes.names[statement.name].axes)


def _reads_any(statement: Statement, pending: list[Let | Reduce]) -> bool:
    return bool(names_read(statement) & {s.name for s in pending})


def _runs(pending: list[Let | Reduce], shapes: Shapes) -> Iterator[Run]:
    run: Run | None = None
    for statement in pending:
        row = _axes(statement, shapes)[0]
        if run is None or run.row != row:
            if run is not None:
                yield run
            run = Run(row)
        _place(run, statement, shapes)
    if run is not None:
        yield run


def _axes(statement: Let | Reduce, shapes: Shapes) -> tuple[str, ...]:
    """The axes that a statement runs over: those of a reduction's source."""
    name = statement.source if isinstance(statement, Reduce) else statement.name
    axes = shapes.names[name].axes
    if len(axes) > 2 or (isinstance(statement, Reduce) and axes[-1:] != (statement.axis,)):
        raise LoweringError(
            f"{print_statement(statement)}: the cpu target works on tiles of rows x columns and reduces along columns; "
            f"this one has axes {list(axes)}"
        )
    return axes


def _place(run: Run, statement: Let | Reduce, shapes: Shapes) -> None:
    """Put a statement into the earliest sweep of its sort that comes after everything it depends on."""
    axes = _axes(statement, shapes)
    axis = axes[1] if len(axes) == 2 else None
    position = _earliest(run, statement)
    while position < len(run.sweeps) and run.sweeps[position].axis != axis:
        position += 1
    if position == len(run.sweeps):
        run.sweeps.append(Sweep(axis))
    run.sweeps[position].statements.append(statement)


def _earliest(run: Run, statement: Let | Reduce) -> int:
    reads = names_read(statement)
    earliest = 0
    for number, sweep in enumerate(run.sweeps):
        for other in sweep.statements:
            if other.name in reads:
                earliest = max(earliest, number + isinstance(other, Reduce))
            if statement.name in names_read(other) or statement.name == other.name:
                earliest = max(earliest, number)
    return earliest


def unswitched(run: Run, shapes: Shapes) -> tuple[Expr, Run, Run] | None:
    """A scalar condition, the run where it holds, and where it does not; None where no condition has a scalar part.

    rewrite:
        p = where(whole | (j <= i), exp2(x), 0)      ->      if whole: p = exp2(x)
                                                             else:     p = where(j <= i, exp2(x), 0)
    needs: a condition that is `|` or `&` of a truth value and of something that varies; the outermost is taken, which
    decides most.
    """
    values = [s.value for sweep in run.sweeps for s in sweep.statements if isinstance(s, Let)]
    conditions = [e for value in values for e in walk(value) if e.op in (Op.OR, Op.AND) and shapes.axes(e)]
    scalars = [arg for e in conditions for arg in e.args if arg.op is not Op.CONST and not shapes.axes(arg)]
    if not scalars:
        return None
    return scalars[-1], _where_known(run, scalars[-1], True), _where_known(run, scalars[-1], False)


def _where_known(run: Run, condition: Expr, holds: bool) -> Run:
    """The run with a condition known, and what it decides simplified."""

    def decided(value: Expr) -> Expr:
        return simplify(transform(value, lambda e: const(holds) if e is condition else None))

    def known(s: Let | Reduce) -> Let | Reduce:
        return replace(s, value=decided(s.value)) if isinstance(s, Let) else s

    return Run(run.row, [Sweep(sweep.axis, [known(s) for s in sweep.statements]) for sweep in run.sweeps])


def recompute_cheap(run: Run, *, has_whole_tiles: bool = True) -> None:
    """Compute again in later sweeps what costs less than keeping it, and what is rounded less often then.

    rewrite:
        x = s * 0.18  (sweep 1) … p = exp2(x - base)  (sweep 3)      ->      p = exp2(s * 0.18 - base)
        x = where(c, s * 0.18, -inf) … p = exp2(x - base)
        ->  p = exp2(where(x == -inf, -inf - base, s * 0.18 - base))
    needs: x is one product or sum of a constant and a tile that this run does not bind. The second rewrite saves
    nothing: product and difference become one operation in a tile without a mask, so they must in one with a mask,
    where a grid has tiles of both kinds.
    """
    bound = {s.name for sweep in run.sweeps for s in sweep.statements}
    cheap: dict[str, Expr] = {}
    masked: dict[str, Expr] = {}
    for sweep in run.sweeps:
        earlier, chosen = dict(cheap), dict(masked)
        for position, statement in enumerate(sweep.statements):
            if not isinstance(statement, Let):
                continue
            value = statement.value
            if sweep.axis is not None and _is_cheap(value, bound):
                cheap[statement.name] = value
            if has_whole_tiles and sweep.axis is not None and _is_masked(value, bound):
                masked[statement.name] = value
            again = transform(value, partial(_under_the_mask, masked=chosen))
            sweep.statements[position] = replace(statement, value=substitute(again, earlier))


def _is_masked(value: Expr, bound: set[str]) -> bool:
    """Whether a value is where(c, s * 0.18, -inf)."""
    if value.op is not Op.SELECT or value.args[2] is not const(-math.inf):
        return False
    return value.args[1].op is Op.MUL and _is_cheap(value.args[1], bound)


def _under_the_mask(e: Expr, masked: Mapping[str, Expr]) -> Expr | None:
    """x - base -> where(x == -inf, -inf - base, s * 0.18 - base), of the first operand that is masked."""
    if e.op not in (Op.ADD, Op.SUB):
        return None
    x = next((arg for arg in e.args if arg.op is Op.VAR and str(arg.attr) in masked), None)
    if x is None:
        return None
    _, product, nothing = masked[str(x.attr)].args
    without, fused = (rebuild(e, tuple(v if arg is x else arg for arg in e.args)) for v in (nothing, product))
    return select(apply(Op.EQ, x, nothing), without, fused)


def scale_after_maximum(run: Run) -> None:
    """Multiply the maximum of a row instead of every element; rounding keeps order, so the bits are the same.

    rewrite:
        x = s * 0.18; top = reduce_max(x)      ->      raw = reduce_max(s); top = raw * 0.18
    needs: a positive constant, and a later down sweep to multiply in.
    """
    scaled = {
        s.name: s.value
        for sweep in run.sweeps
        for s in sweep.statements
        if isinstance(s, Let) and s.value.op is Op.MUL and any(_is_positive(arg) for arg in s.value.args)
    }
    for sweep, after in zip(run.sweeps, run.sweeps[1:], strict=False):
        for position, statement in enumerate(sweep.statements):
            if not isinstance(statement, Reduce) or statement.op != "max" or after.axis is not None:
                continue
            value = scaled.get(statement.source)
            if value is None or not _is_cheap(value, set()):
                continue
            tiles = [arg for arg in value.args if arg.op is Op.VAR]
            raw = f"{statement.name}_raw"
            sweep.statements[position] = replace(statement, name=raw, source=str(tiles[0].attr))
            times = substitute(value, {str(tiles[0].attr): var(raw, Kind.FLOAT)})
            after.statements.insert(0, Let(statement.name, times))


def _is_positive(value: Expr) -> bool:
    return value.op is Op.CONST and isinstance(value.attr, float) and value.attr > 0


def drop_unread(run: Run, buffers: frozenset[str]) -> None:
    """Drop tiles of a run that nobody reads any more."""
    kept = {name for sweep in run.sweeps for s in sweep.statements for name in names_read(s)} | buffers
    for sweep in run.sweeps:
        sweep.statements[:] = [s for s in sweep.statements if s.name in kept or isinstance(s, Reduce)]


def _is_cheap(value: Expr, bound: set[str]) -> bool:
    if value.op not in (Op.MUL, Op.ADD, Op.SUB):
        return False
    names = [arg for arg in value.args if arg.op is Op.VAR]
    constants = [arg for arg in value.args if arg.op is Op.CONST]
    return len(names) == len(constants) == 1 and str(names[0].attr) not in bound


def escaping(program: Program, shapes: Shapes) -> set[str]:
    """Tiles that need memory of their own: some read of them is not preceded by a binding in the same run."""
    found: set[str] = set()
    _escaping(program.body, shapes, found)
    return found


def _escaping(body: tuple[Statement, ...], shapes: Shapes, found: set[str]) -> None:
    for item in split_body(body, shapes):
        if isinstance(item, Run):
            bound: set[str] = set()
            for sweep in item.sweeps:
                for statement in sweep.statements:
                    found |= names_read(statement) - bound
                    bound.add(statement.name)
            continue
        found |= names_read(item)
        if isinstance(item, Block):
            _escaping(item.body, shapes, found)
