"""Transfer of an expert's backward program to a spec: the same passes of the mind as forward, over other names.

A backward program recomputes scores `s` and weights `p` of a tile, has the gradient of the weights in `dp` and that of
the scores in `ds`, and calls the regions `value` (a score, or a weight before it is divided), `slope` (its derivative
by s) and `keep`. Per row it reads `base` (what a weight is made with: lse in base 2, or the row's share) and `delta`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..dtypes import DType, Kind
from ..edit import edit_program, expressions, map_expressions, references
from ..errors import ScheduleError
from ..expr import Expr, Op, apply, call, cast, const, index, load, select, substitute, transform, var, walk
from ..gradient import Backward, differentiate
from ..program import (
    All,
    Alloc,
    Fill,
    Gemm,
    Grid,
    Let,
    Load,
    Param,
    Program,
    Reduce,
    ReduceAdd,
    Ref,
    Statement,
    Store,
    TileAxis,
    TileLoop,
    Tiles,
    statements,
)  # fmt: skip
from ..shapes import infer
from ..spec import MASK_PARAMETERS, AttentionSpec, NormaliserKind
from .rules import drop_unmasked_predicate, region_of
from .unread import drop_unread

TYPED = ("q", "k", "v", "o", "d_o", "dq", "dk", "dv")  # parameters of the spec's element type
FORWARD = ("q", "k", "v")
ROLES = ("value", "slope", "keep")


def transfer_backward(reference: Program, backward: Backward, *, is_ordered: bool = True) -> Program:
    """The reference's orchestration with the spec's gradients.

    is_ordered: sums of several instances are added in the order of their ranks; else in any order.
    Raises ScheduleError when the reference lacks something that a pass needs, naming it.
    """
    backward = with_names_of_its_own(reference, backward)
    program = reference if is_ordered else in_any_order(reference)
    for rewrite in PASSES:
        program = rewrite(program, backward)
    return program


def with_names_of_its_own(program: Program, backward: Backward) -> Backward:
    """Backward of the same spec whose captured tensors hide no name of the program."""
    taken = {p.name for p in program.params} | {r.name for r in program.regions}
    taken |= {s.name for s in statements(program.body) if isinstance(getattr(s, "name", None), str)}  # type: ignore[union-attr]
    renamed = renamed_captured(backward.spec, taken)
    return backward if renamed is backward.spec else differentiate(renamed)


def renamed_captured(spec: AttentionSpec, taken: set[str]) -> AttentionSpec:
    """The spec with an underscore behind the names of captured tensors that are taken; itself where none is."""
    names: dict[str, str] = {}
    used = taken | {tensor.name for tensor in spec.captured}
    for tensor in spec.captured:
        if tensor.name in taken:
            name = tensor.name
            while name in used:
                name += "_"
            used.add(name)
            names[tensor.name] = name
    if not names:
        return spec

    def moved(expr: Expr) -> Expr:
        def rename(node: Expr) -> Expr | None:
            if node.op is not Op.LOAD or node.attr not in names:
                return None
            return load(names[str(node.attr)], node.args, node.kind)

        return transform(expr, rename)

    rule = spec.normaliser
    given = {part: getattr(rule, part) for part in ("sink", "weight", "after")}
    parts: dict[str, Any] = {part: moved(e) for part, e in given.items() if e is not None}
    return replace(
        spec, captured=tuple(replace(t, name=names.get(t.name, t.name)) for t in spec.captured),
        score=moved(spec.score), keep=moved(spec.keep), requires=moved(spec.requires),
        normaliser=replace(rule, **parts),
    )  # fmt: skip


def in_any_order(program: Program) -> Program:
    """Let sums be added in whatever order their instances come.

    rewrite:
        reduce_add(dq_sum[b, h, m, :], dq_part, after=rank)      ->      reduce_add(dq_sum[b, h, m, :], dq_part)
    needs: nothing.
    """
    return edit_program(program, lambda s: replace(s, after=None) if isinstance(s, ReduceAdd) else s)


def bind_tensors(program: Program, backward: Backward) -> Program:
    """Give tensors the spec's element type, and put its captured tensors behind q, k and v.

    needs: the parameters of `TYPED`.
    """
    names = {param.name for param in program.params}
    missing = sorted(set(TYPED) - {"o"} - names)
    if missing:
        raise ScheduleError(f"transfer: {program.name} has no parameter {missing[0]!r}, which a backward program needs")
    spec = backward.spec
    params = [replace(p, dtype=spec.dtype) if p.name in TYPED else p for p in program.params]
    first = [p for p in params if p.name in FORWARD]
    captured = [Param(t.name, t.dtype, t.dims) for t in spec.captured]
    others = [p for p in params if p.name not in FORWARD]
    sizes = {**program.fixed, "D": spec.head_dim, "Dv": spec.value_dim}
    name = f"{spec.name}_backward"
    return replace(program, name=name, params=(*first, *captured, *others), sizes=tuple(sizes.items()))


def set_regions(program: Program, backward: Backward) -> Program:
    """Replace the bodies of the regions.

    rewrite:
        def slope(s, b, h, i, j): return 1.0      ->      return 0.125 - 0.125 * tanh(s * 0.0025) ** 2
    needs: the regions of `ROLES`.
    """
    missing = [name for name in ROLES if name not in {region.name for region in program.regions}]
    if missing:
        raise ScheduleError(f"transfer: {program.name} has no region {missing[0]!r} to put the spec's into")
    bodies = {"value": backward.value, "slope": backward.slope, "keep": backward.spec.keep}
    regions = [replace(r, body=bodies.get(r.name, r.body)) for r in program.regions]
    if backward.after is not None:
        regions.append(region_of("after", MASK_PARAMETERS, backward.after))
    return replace(program, regions=tuple(regions))


def set_weights(program: Program, backward: Backward) -> Program:
    """Replace the softmax by elementwise weights.

    rewrite:                                             elementwise             divided by the row's sum
        exp2(value(…) * log2(e) - base_tile)      ->     value(…)                value(…) * base_tile
        p * (dp - delta_tile)                     ->     dp                      base_tile * (dp - delta_tile)
    needs: weights and gradients in this form, in tiles named p, dp, base_tile and delta_tile.
    """
    kind = backward.spec.normaliser.kind
    if kind is NormaliserKind.SOFTMAX:
        return program
    share = var("base_tile", Kind.FLOAT) if kind is NormaliserKind.ROW_SUM else None

    def rewrite(node: Expr) -> Expr | None:
        if node.op is Op.EXP2 and (found := _value_call(node)) is not None:
            return found if share is None else found * share
        if node.op is Op.MUL and node.args[0] is var("p", Kind.FLOAT) and node.args[1].op is Op.SUB:
            gap = node.args[1]
            return gap.args[0] if share is None else share * gap
        return None

    program = map_expressions(program, lambda e: transform(e, rewrite))
    return program if share is None else _with_shares(program, backward)


def _value_call(exponential: Expr) -> Expr | None:
    return next((e for e in walk(exponential) if e.op is Op.CALL and e.attr == "value"), None)


def _with_shares(program: Program, backward: Backward) -> Program:
    """Compute `base`, the factor that normalises a row, with the rows' sums of weights.

    rewrite:
        store(base[batch, head, m], …)
        ->  mass = zeros(f32[m]); for n in tiles(N, 64, where=keep(batch, head, m, n)): …
            store(base[batch, head, m], share)
    needs: one store to `base` over rows m of a grid over batches and heads, whose names nothing else binds.
    """
    tiles = infer(program).tiles
    store = next(s for s in statements(program.body) if isinstance(s, Store) and s.target.name == "base")
    b, h = (index for index in store.target.indices[:2] if isinstance(index, Expr))
    mass, part, epsilon = var("mass", Kind.FLOAT), var("weight_sum", Kind.FLOAT), backward.spec.normaliser.epsilon
    columns = index("n")
    pairs = (b, h, index("m"), columns)
    kept = call("keep", pairs, Kind.BOOL) & (columns < var("N"))
    weights = select(kept, call("value", (var("scores", Kind.FLOAT), *pairs), Kind.FLOAT), 0.0)
    group = apply(Op.FLOORDIV, h, apply(Op.FLOORDIV, var("Hq"), var("Hkv")))
    body = (
        Load("k_whole", Ref("k", (b, var("kv_head"), TileAxis("n"), All()))),
        Gemm("scores", "q_whole", "k_whole"),
        Let("weights", weights),
        Reduce("weight_sum", "sum", "weights", "n"),
        Let("mass", mass + part),
    )
    where = call("keep", (b, h, var("m"), var("n")), Kind.BOOL)
    is_empty = apply(Op.EQ, mass, const(0.0))
    share = 1.0 / (mass + epsilon) if epsilon else select(is_empty, 0.0, 1.0 / mass)
    before = (
        Let("kv_head", group),
        Load("q_whole", Ref("q", (b, h, TileAxis("m"), All()))),
        Fill("mass", DType.F32, ("m",), const(0.0)),
        TileLoop("n", Tiles(tiles["n"].extent, tiles["n"].tile), body, where),
    )

    def edit(statement: Statement) -> Statement | tuple[Statement, ...]:
        if not isinstance(statement, Store) or statement.target.name != "base":
            return statement
        return (*before, replace(statement, value=share))

    return edit_program(program, edit)


def scale_weights(program: Program, backward: Backward) -> Program:
    """Multiply by what comes after the normaliser.

    rewrite:
        ds = … (dp - delta_tile) …               ds = … (dp * after(b, h, i, j) - delta_tile) …
        dv_acc = gemm(p, do_rows, …)      ->     kept = p * after(b, h, i, j); dv_acc = gemm(kept, do_rows, …)
    needs: scores in a call of `value`, weights in a tile p that a product reads, their gradients in a tile dp.
    """
    if backward.after is None:
        return program
    found = [_value_call(e) for s in statements(program.body) for e in expressions(s) if s.__class__ is Let]
    values = [e for e in found if e is not None]
    if not values:
        raise ScheduleError(f"transfer: {program.name} has no tile that applies value to indices")
    factor = call("after", values[0].args[1:], Kind.FLOAT)
    p, dp = var("p", Kind.FLOAT), var("dp", Kind.FLOAT)

    def edit(statement: Statement) -> Statement | tuple[Statement, ...]:
        if isinstance(statement, Let) and statement.name == "ds":
            return replace(statement, value=substitute(statement.value, {"dp": dp * factor}))
        if isinstance(statement, Gemm) and statement.left == "p":
            return Let("kept", select(apply(Op.EQ, p, const(0.0)), 0.0, p * factor)), replace(statement, left="kept")
        return statement

    return edit_program(program, edit)


def drop_true_predicate(program: Program, backward: Backward) -> Program:
    """`drop_unmasked_predicate`."""
    return drop_unmasked_predicate(program, backward.spec)


def round_operands(program: Program, backward: Backward) -> Program:
    """Round computed operands of products to the element type, as tensor and dot-product units need.

    rewrite:
        dk_acc = gemm(ds, q_rows, …); dq_part = gemm(k_turned, ds)
        ->  ds_low = bf16(ds); dk_acc = gemm(ds_low, q_rows, …); dq_part = gemm(k_turned, ds_low)
    needs: nothing; float32 programs are left as they are.
    """
    dtype = backward.spec.dtype
    if dtype in (DType.F32, DType.F64):
        return program
    loaded = {s.name for s in statements(program.body) if isinstance(s, Load)}
    products = [s for s in statements(program.body) if isinstance(s, Gemm)]
    computed = dict.fromkeys(x for s in products for x in (s.left, s.right) if isinstance(x, str) and x not in loaded)

    def edit(statement: Statement) -> Statement | tuple[Statement, ...]:
        if isinstance(statement, Let) and statement.name in computed:
            low = cast(var(statement.name, Kind.FLOAT), dtype)
            return statement, Let(f"{statement.name}_low", low)
        if isinstance(statement, Gemm):
            left, right = (f"{x}_low" if x in computed else x for x in (statement.left, statement.right))
            return replace(statement, left=left, right=right)
        return statement

    return edit_program(program, edit)


def drop_dead(program: Program, backward: Backward) -> Program:
    """`drop_unread`, grids with nothing left to do, and inputs that nothing reads but q, k, v and the captured tensors.

    rewrite:
        for b, h, m in grid(B, Hq, tiles(M, 64)): (nothing)      ->      (nothing)
    needs: nothing.
    """
    program = drop_unread(program)
    program = replace(program, body=tuple(s for s in program.body if not isinstance(s, Grid) or s.body))
    kept = {*FORWARD, *(tensor.name for tensor in backward.spec.captured)}
    used = {node.attr for r in program.regions for node in walk(r.body) if node.op is Op.LOAD}
    for statement in statements(program.body):
        used |= {ref.name for ref in references(statement)}
        used |= {node.attr for e in expressions(statement) for node in walk(e) if node.op is Op.LOAD}
    params = tuple(p for p in program.params if p.is_output or p.name in kept | used)
    return replace(program, params=params)


def tile_sums(program: Program) -> Program:
    """Lay out memory that whole tiles are added to as these tiles are.

    rewrite:
        dq_sum = alloc(f32[B, Hq, M, D])      ->      dq_sum = alloc(f32[B, Hq, M, D], layout="tiles:64")
    or, where the tiles are transposed, layout="upended:64".
    needs: nothing.
    """
    shapes = infer(program)
    layouts: dict[str, str] = {}
    for statement in statements(program.body):
        if isinstance(statement, ReduceAdd) and statement.value.op is Op.VAR:
            axes, place = shapes.axes(statement.value), shapes.ref_axes(statement.target)
            if len(axes) == 2 and set(axes) == set(place) and place[0] in shapes.tiles:
                order = "tiles" if axes == place else "upended"
                layouts[statement.target.name] = f"{order}:{shapes.tiles[place[0]].tile}"

    def edit(statement: Statement) -> Statement:
        if isinstance(statement, Alloc) and statement.name in layouts:
            return replace(statement, layout=layouts[statement.name])
        return statement

    return edit_program(program, edit)


PASSES: tuple[Callable[[Program, Backward], Program], ...] = (
    bind_tensors,
    set_regions,
    set_weights,
    scale_weights,
    drop_true_predicate,
    round_operands,
    drop_dead,
)

__all__ = ["PASSES", "renamed_captured", "transfer_backward", "tile_sums"]
