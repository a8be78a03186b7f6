"""Transfer by rules: an expert's forward program and a spec -> the program that computes the spec.

What the expert decided (grid, loops, order, where things live) is kept; what is computed is replaced. The pipeline is
`PASSES`, in order; each is `f(program, spec) -> Program`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from ..dtypes import DType, Kind
from ..edit import edit_program, eliminate_dead, expressions, map_expressions, references, without_factor
from ..errors import ScheduleError
from ..expr import Expr, Op, apply, call, cast, const, loads, select, substitute, transform, var, walk
from ..program import (
    Fill,
    Gemm,
    Let,
    Load,
    Param,
    Program,
    Region,
    RegionParam,
    Statement,
    Store,
    statements,
)
from ..shapes import infer
from ..spec import MASK_PARAMETERS, SCORE_PARAMETERS, AttentionSpec, NormaliserKind
from .unread import drop_unread

LOG2E = math.log2(math.e)
ROLES = ("score", "keep")  # the regions that transfer replaces
LENGTHS = {"M": "rows", "N": "columns"}  # the sizes that sequences may have of their own, and the regions that say so
RESCALES = ("rescale", "rescale_here", "rescale_there")  # factors that only a running maximum needs


def transfer(reference: Program, spec: AttentionSpec) -> Program:
    """The reference's orchestration with the spec's semantics.

    Raises ScheduleError when the reference lacks something that a pass needs, naming it.
    """
    program = reference
    for rewrite in PASSES:
        program = rewrite(program, spec)
    return program


def bind_tensors(program: Program, spec: AttentionSpec) -> Program:
    """Give q, k, v and o the spec's element type, and put its captured tensors behind them; others stay as they are.

    needs: parameters q, k, v; one output named o.
    """
    names = {param.name for param in program.params}
    if not {"q", "k", "v", "o"} <= names:
        raise ScheduleError(f"transfer: {program.name} has parameters {sorted(names)}; q, k, v and o are needed")
    taken = names | {region.name for region in program.regions}
    taken |= {s.name for s in statements(program.body) if isinstance(s, (Let, Fill, Load, Gemm))}
    captured = [Param(t.name, t.dtype, t.dims) for t in spec.captured]
    clash = sorted({param.name for param in captured if param not in program.params} & taken)
    if clash:
        raise ScheduleError(f"transfer: captured {clash} would hide names of {program.name}; rename the captured")
    inputs = [replace(p, dtype=spec.dtype) for p in program.params if p.name in ("q", "k", "v")]
    outputs = [replace(p, dtype=spec.dtype) if p.name == "o" else p for p in program.params if p.is_output]
    others = [p for p in program.params if not p.is_output and p.name not in ("q", "k", "v") and p not in captured]
    sizes = {**program.fixed, "D": spec.head_dim, "Dv": spec.value_dim}
    return replace(program, name=spec.name, params=(*inputs, *captured, *others, *outputs), sizes=tuple(sizes.items()))


def set_regions(program: Program, spec: AttentionSpec) -> Program:
    """Replace the bodies of the score and mask regions.

    rewrite:
        def score(s, b, h, i, j): return s      ->      return 50.0 * tanh(s * 0.0025)
    Where sequences have lengths of their own, regions rows and columns, those stand for the spec's sizes M and N.
    needs: regions score and keep.
    """
    missing = [name for name in ROLES if name not in {region.name for region in program.regions}]
    if missing:
        raise ScheduleError(f"transfer: {program.name} has no region {missing[0]!r} to put the spec's into")
    bodies = {"score": of_sequence(program, spec.score), "keep": of_sequence(program, spec.keep)}
    regions = [replace(r, body=bodies.get(r.name, r.body)) for r in program.regions]
    if spec.normaliser.weight is not None:
        regions.append(region_of("weight", SCORE_PARAMETERS, of_sequence(program, spec.normaliser.weight)))
    if spec.normaliser.after is not None:
        regions.append(region_of("after", MASK_PARAMETERS, of_sequence(program, spec.normaliser.after)))
    return replace(program, regions=tuple(regions))


def of_sequence(program: Program, expr: Expr) -> Expr:
    """The expression with sizes M and N as lengths of sequence b, in a program that has regions for them."""
    known = {region.name for region in program.regions}
    lengths = {size: name for size, name in LENGTHS.items() if name in known}
    return substitute(expr, {size: call(name, (var("b"),), Kind.INT) for size, name in lengths.items()})


def region_of(name: str, params: tuple[str, ...], body: Expr) -> Region:
    """A region of integers, and of the score s."""
    return Region(name, tuple(RegionParam(p, Kind.FLOAT if p == "s" else Kind.INT) for p in params), body)


def add_sink(program: Program, spec: AttentionSpec) -> Program:
    """Start the running maximum and sum from the sink's logit, as if it were one more key with a zero value.

    rewrite:
        peak = full(f32[m], -inf)               peak = full(f32[m], sink * log2(e))
        mass = zeros(f32[m])            ->      mass = full(f32[m], where(sink == -inf, 0.0, 1.0))
    Where the rows of a tile have heads of their own: peak = sink * log2(e), row by row.
    needs: the running maximum starts at -inf and the running sum at 0 in tiles named peak and mass.
    """
    sink = spec.normaliser.sink
    if sink is None:
        return program
    sink = of_sequence(program, sink)
    starts = {
        "peak": sink * LOG2E,
        "mass": select(apply(Op.EQ, sink, const(-math.inf)), 0.0, 1.0),
    }
    found = {s.name for s in statements(program.body) if isinstance(s, Fill)}
    if not set(starts) <= found:
        raise ScheduleError(f"transfer: {program.name} has no tiles peak and mass that a sink could start from")
    shapes = infer(program)

    def edit(statement: Statement) -> Statement:
        if not isinstance(statement, Fill) or statement.name not in starts:
            return statement
        value = starts[statement.name]
        return Let(statement.name, value) if shapes.axes(value) else replace(statement, value=value)

    return edit_program(program, edit)


def set_normaliser(program: Program, spec: AttentionSpec) -> Program:
    """Replace the online softmax by elementwise weights.

    rewrite:
        x = where(keep(…) & (j < N), score(…) * 1.44, -inf)       x = score(…)
        p = exp2(x - base)                                  ->    p = where(keep(…) & (j < N), weight(x, …), 0.0)
        acc = gemm(p, v_tile, into=acc * rescale)                 acc = gemm(p, v_tile, into=acc)
        mass = mass * rescale + total                             mass = mass + total        (row_sum only)
        share = where(mass == 0.0, 0.0, 1.0 / mass)               share = 1.0 / (mass + epsilon), or 1.0
    needs: the scores in a tile that applies `score`, the weights in a tile p = exp2(…), factors named as in RESCALES.
    """
    rule = spec.normaliser
    if rule.kind is NormaliserKind.SOFTMAX:
        return program
    program = edit_program(program, _Reweight())
    for factor in RESCALES:
        program = map_expressions(program, lambda e, name=factor: without_factor(e, name))  # type: ignore[misc]
    program = edit_program(program, lambda s: _set_share(s, rule.kind, rule.epsilon))
    return replace(program, params=tuple(p for p in program.params if p.name != "lse"))


class _Reweight:
    """Rewrites the score and weight statements of each loop, remembering the score's mask and indices."""

    def __init__(self) -> None:
        self.keep: Expr | None = None
        self.indices: tuple[Expr, ...] = ()

    def __call__(self, statement: Statement) -> Statement | tuple[Statement, ...]:
        if isinstance(statement, Store) and statement.target.name == "lse":
            return ()
        if not isinstance(statement, Let):
            return statement
        score = next((e for e in walk(statement.value) if e.op is Op.CALL and e.attr == "score"), None)
        if score is not None:
            value = statement.value
            self.keep = value.args[0] if value.op is Op.SELECT else None
            self.indices = score.args[1:]
            return replace(statement, value=score)
        if statement.name == "p" and statement.value.op is Op.EXP2:
            weight = call("weight", (_first_tile(statement.value), *self.indices), Kind.FLOAT)
            return replace(statement, value=weight if self.keep is None else select(self.keep, weight, 0.0))
        return statement


def _first_tile(exponential: Expr) -> Expr:
    """x of exp2(x - base)."""
    inner = exponential.args[0]
    return inner.args[0] if inner.op is Op.SUB else inner


def _set_share(statement: Statement, kind: NormaliserKind, epsilon: float) -> Statement:
    if not isinstance(statement, Let) or statement.name != "share":
        return statement
    mass = var("mass", Kind.FLOAT)
    if kind is NormaliserKind.ELEMENTWISE:
        return replace(statement, value=const(1.0))
    is_empty = apply(Op.EQ, mass, const(0.0))
    divided = 1.0 / (mass + epsilon) if epsilon else select(is_empty, 0.0, 1.0 / mass)
    return replace(statement, value=divided)


def drop_unit_share(program: Program, spec: AttentionSpec) -> Program:
    """Remove the multiplication by a share of one.

    rewrite:
        share = 1.0; store(o[…], acc * share)       ->      store(o[…], acc)
    needs: nothing.
    """
    ones = {s.name for s in statements(program.body) if isinstance(s, Let) and s.value is const(1.0)}
    for name in sorted(ones):
        program = map_expressions(program, lambda e, name=name: without_factor(e, name))  # type: ignore[misc]
    return program


def scale_weights(program: Program, spec: AttentionSpec) -> Program:
    """Multiply the weights by what comes after the normaliser; row sums do not know of it.

    rewrite:
        total = reduce_sum(p, axis=n)               total = reduce_sum(p, axis=n)
        acc = gemm(p, v_tile, …)            ->      kept = p * after(b, h, i, j)
                                                    acc = gemm(kept, v_tile, …)
    needs: weights in a tile named p, beside scores in a tile that applies `score` to indices.
    """
    after = spec.normaliser.after
    if after is None:
        return program
    text = [e for s in statements(program.body) for expr in expressions(s) for e in walk(expr)]
    score = next((e for e in text if e.op is Op.CALL and e.attr == "score"), None)
    if score is None:
        raise ScheduleError(f"transfer: {program.name} has no tile that applies score to indices")
    p = var("p", Kind.FLOAT)
    scaled = p * call("after", score.args[1:], Kind.FLOAT)
    if not (after.op is Op.SELECT and all(arg.op is Op.CONST for arg in after.args[1:])):  # what is left out stays so
        scaled = select(apply(Op.EQ, p, const(0.0)), 0.0, scaled)

    def edit(statement: Statement) -> Statement | tuple[Statement, ...]:
        if not isinstance(statement, Gemm) or statement.left != "p":
            return statement
        return Let("kept", scaled), replace(statement, left="kept")

    return edit_program(program, edit)


def drop_unmasked_predicate(program: Program, spec: AttentionSpec) -> Program:
    """Where the mask is constant true, leave only the ragged tail's test.

    rewrite:
        where(keep(b, h, i, j) & (j < N), x, -inf)      ->      where(j < N, x, -inf)
    needs: nothing.
    """
    if spec.keep is not const(True):
        return program

    def simplify(node: Expr) -> Expr | None:
        if node.op is Op.AND and node.args[0].op is Op.CALL and node.args[0].attr == "keep":
            return node.args[1]
        return None

    return map_expressions(program, lambda e: transform(e, simplify))


def round_weights(program: Program, spec: AttentionSpec) -> Program:
    """Round the weights to the operands' type before the second product, as tensor and dot-product units need.

    rewrite:
        acc = gemm(p, v_tile, …)        ->      p_low = bf16(p); acc = gemm(p_low, v_tile, …)
    What the reference rounds to its own type is not rounded to that; float32 programs round nothing.
    needs: nothing.
    """
    program = _unrounded(program)
    if spec.dtype in (DType.F32, DType.F64):
        return program
    loaded = {s.name for s in statements(program.body) if isinstance(s, Load)}

    def edit(statement: Statement) -> Statement | tuple[Statement, ...]:
        if not isinstance(statement, Gemm) or not isinstance(statement.left, str) or statement.left in loaded:
            return statement
        low = f"{statement.left}_low"
        rounded = Let(low, cast(var(statement.left, Kind.FLOAT), spec.dtype))
        return rounded, replace(statement, left=low)

    return edit_program(program, edit)


def _unrounded(program: Program) -> Program:
    """Products of the weights themselves, not of `p_low = bf16(p)`."""
    lets = [s for s in statements(program.body) if isinstance(s, Let) and s.value.op is Op.CAST]
    rounded = {s.name: str(s.value.args[0].attr) for s in lets if s.value.args[0].op is Op.VAR}

    def edit(statement: Statement) -> Statement:
        if isinstance(statement, Gemm) and isinstance(statement.left, str) and statement.left in rounded:
            return replace(statement, left=rounded[statement.left])
        return statement

    return eliminate_dead(edit_program(program, edit)) if rounded else program


def drop_dead(program: Program, spec: AttentionSpec) -> Program:
    """`drop_unread`, and inputs that nothing reads: those that the reference's own score or mask read.

    rewrite:
        def reference(q: …, k: …, v: …, bias: …, o: …)      ->      def spec(q: …, k: …, v: …, o: …)
    needs: nothing.
    """
    program = drop_unread(program)
    read = {ref.name for s in statements(program.body) for ref in references(s)}
    asked = [expr for s in statements(program.body) for expr in expressions(s)]
    read |= {str(e.attr) for expr in (*asked, *(r.body for r in program.regions)) for e in loads(expr)}
    read |= {tensor.name for tensor in spec.tensors}
    return replace(program, params=tuple(p for p in program.params if p.is_output or p.name in read))


PASSES: tuple[Callable[[Program, AttentionSpec], Program], ...] = (
    bind_tensors,
    set_regions,
    add_sink,
    set_normaliser,
    drop_unit_share,
    drop_unmasked_predicate,
    scale_weights,
    round_weights,
    drop_dead,
)
