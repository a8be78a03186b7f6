"""Reads blocks: early returns, counted loops with what they carry, choices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...expr import Expr, Op, const, free_vars, var
from .ahead import loads_ahead, read_step, settle
from .elementwise import folded, is_identity, negated
from .persistent import taken_apart
from .poly import added, scaled, to_expr
from .sizes import ceil_div
from .values import Assign, Branch, Constant, Item, Loop, Value

if TYPE_CHECKING:
    from .reader import Reader
    from .text import Block, Operation


def read_function(reader: Reader) -> None:
    """A kernel's blocks: one, or a chain whose branches go to a return."""
    blocks = {block.label: block for block in reader.function.blocks}
    block = reader.function.blocks[0]
    for _ in reader.function.blocks:
        following = _read_block(reader, block, blocks)
        if following is None:
            return
        block = following
    raise reader.fail(block.operations[-1], "branches that go back")


def _read_block(reader: Reader, block: Block, blocks: dict[str, Block]) -> Block | None:
    for operation in block.operations[:-1]:
        reader.operation(operation)
    last = block.operations[-1]
    if last.name == "tt.return":
        return None
    targets = [blocks[word] for word in last.words if word.startswith("^")]
    if last.name == "cf.br" and len(targets) == 1 and not targets[0].arguments:
        return targets[0]
    if last.name != "cf.cond_br" or len(targets) != 2:
        raise reader.fail(last, "this branch is out of reach")
    condition = reader.value(last.operands[0]).expr
    for target, other, holds in ((targets[0], targets[1], False), (targets[1], targets[0], True)):
        if [operation.name for operation in target.operations] == ["tt.return"]:
            branch = Branch(condition if holds else negated(condition), [])
            reader.body.append(branch)
            reader.body = branch.body
            return other
    raise reader.fail(last, "a branch neither side of which returns")


def read_for(reader: Reader, operation: Operation) -> None:
    """scf.for: numbers it carries become multiples of the step's count, tiles become names bound again."""
    if taken_apart(reader, operation):
        return
    counter, low, high, step, *pairs = operation.operands
    token = reader.token("it")
    bounds = [reader.value(name).expr for name in (low, high, step)]
    bounds[1] = _plain_end(reader, bounds[0], bounds[1])
    if any(reader.value(name).is_data for name in (low, high, step)):
        raise reader.fail(operation, "a loop whose bounds are data")
    formal, initial = pairs[0::2], pairs[1::2]
    initial = initial[: len(formal)]
    body: list[Item] = []
    carried: dict[str, tuple[str, Value]] = {}
    moving: dict[str, tuple[str, Value]] = {}
    ahead = loads_ahead(reader, operation, formal, initial)
    for inner, outer in zip(formal, initial, strict=True):
        value = reader.value(outer)
        if inner in ahead:
            reader.values[inner] = ahead[inner].value
            body.append(ahead[inner].access)
        elif value.base is not None or (not value.is_data and value.element.startswith(("i", "index"))):
            moving[inner] = (reader.token("carry"), value)
            expr = folded(Op.ADD, value.expr, var(moving[inner][0]))
            reader.values[inner] = Value(value.shape, value.element, expr, None, value.base)
        else:
            carried[inner] = _carry(reader, inner, outer, value)
            reader.carried.add(carried[inner][0])
            reader.values[inner] = carried[inner][1]
    reader.values[counter] = Value((), "i32", folded(Op.ADD, bounds[0], var(token) * bounds[2]))
    stages = _stages(operation)
    name = reader.names.fresh("step")
    outside, reader.body = reader.body, body
    block = operation.regions[0][0]
    read_step(reader, block.operations, ahead)
    last = block.operations[-1]
    results = last.operands if last.name == "scf.yield" else []
    if len(results) != len(formal):
        raise reader.fail(operation, "a loop that yields something else than it carries")
    yields = dict(zip(formal, results, strict=True))
    _write_back(reader, carried, yields)
    reader.body = outside
    line = reader.function.places.line(operation.place)
    outside.append(Loop(token, bounds[0], bounds[1], bounds[2], body, name, stages, line))
    _advance(reader, operation, token, moving, yields)
    for one in ahead.values():
        settle(reader, token, bounds, one)
    trips = _trips(reader, *bounds)
    for inner, result in zip(formal, operation.results, strict=True):
        if inner in ahead:
            continue
        if inner in carried:
            reader.values[result] = carried[inner][1]
        else:
            value = moving[inner][1]
            delta = reader.integers.meaning[moving[inner][0]]
            total = reader.integers.resolve(folded(Op.ADD, value.expr, _replaced(delta, token, trips)))
            reader.values[result] = Value(value.shape, value.element, total, None, value.base)


def _plain_end(reader: Reader, low: Expr, high: Expr) -> Expr:
    """`where(x <= 0, 0, x + c) // T` as `(x + c) // T`, 0 <= c < T: a loop from 0 does not run for either."""
    choice, size = high.args if high.op is Op.FLOORDIV else (high, const(1))
    if low is not const(0) or choice.op is not Op.SELECT or choice.args[1] is not const(0) or size.op is not Op.CONST:
        return high
    condition, _, length = choice.args
    if condition.op is not Op.LE or condition.args[1] is not const(0):
        return high
    more = added(reader.integers.poly(length), scaled(reader.integers.poly(condition.args[0]), -1))
    if set(more) <= {()} and 0 <= more.get((), 0) < int(str(size.attr)):
        return length if size is const(1) else folded(Op.FLOORDIV, length, size)
    return high


def _replaced(expr: Expr, token: str, by: Expr) -> Expr:
    from ...expr import substitute

    return substitute(expr, {token: by})


def _trips(reader: Reader, low: Expr, high: Expr, step: Expr) -> Expr:
    length = to_expr(reader.integers.poly(high - low))
    if step.op is Op.CONST and isinstance(step.attr, int):
        return length if step.attr == 1 else ceil_div(length, step.attr)
    return (length + step - 1) // step


def _stages(operation: Operation) -> int:
    words = operation.words
    for position in range(len(words) - 2):
        if words[position] == "tt.num_stages" and words[position + 1] == "=":
            return int(words[position + 2])
    return 0


def _carry(reader: Reader, inner: str, outer: str, value: Value) -> tuple[str, Value]:
    """The name of what a loop carries: that of its first value where nothing else reads that, else one bound here."""
    axes = reader.axes.of_shape(value.shape)
    if value.is_data:
        axes = reader.united([value, Value(value.shape, value.element, value.expr, axes)], value.shape)
        is_whole = reader.rank.get(str(value.expr.attr)) == sum(width > 1 for width in value.shape)
        if value.expr.op is Op.VAR and is_whole and len(reader.uses.users.get(outer, ())) == 1:
            return str(value.expr.attr), Value(value.shape, value.element, value.expr, axes)
    name = reader.names.fresh(_plain(inner))
    return name, start(reader, name, value, axes)


def start(reader: Reader, name: str, value: Value, axes: tuple[int | None, ...]) -> Value:
    """Write the first value of a name that is bound again later, with all its axes from the beginning."""
    expr = reader.on_axes(value, axes)
    wide = sum(width > 1 for width in value.shape)
    over = {reader.rank.get(n, 0) for n in free_vars(expr)} | {
        len({n for n in free_vars(expr) if n.startswith("axis.")})
    }
    if wide and max(over) == 0:
        reader.body.append(Constant(name, value.element, axes, expr))
    elif max(over) < wide:
        whole = reader.names.fresh(f"{name}_start")
        reader.body.append(Constant(whole, value.element, axes, const(0.0)))
        reader.body.append(Assign(name, var(whole, expr.kind) + expr, axes))
    else:
        reader.body.append(Assign(name, expr, axes))
    reader.rank[name] = wide
    return Value(value.shape, value.element, var(name, expr.kind), axes)


def _plain(name: str) -> str:
    """`%acc_64` -> `acc`."""
    text = name.lstrip("%").split("~")[0].split("#")[0]
    head, _, tail = text.rpartition("_")
    return head if head and tail.isdigit() else text


def _write_back(reader: Reader, carried: dict[str, tuple[str, Value]], yields: dict[str, str]) -> None:
    """Bind the carried names again, all at once: what reads an old value is computed before it is replaced."""
    pending = []
    for inner, (name, value) in carried.items():
        new = reader.value(yields[inner])
        axes = reader.united([value, new], value.shape)
        pending.append((name, reader.on_axes(new, axes), axes))
    names = {name for name, _, _ in pending}
    pending = [item for item in pending if not (item[1].op is Op.VAR and item[1].attr == item[0])]
    written: list[str] = []
    while pending:
        ready = next((p for p in pending if not any(p[0] in free_vars(q[1]) for q in pending if q is not p)), None)
        if ready is None:
            name, expr, axes = pending.pop(0)
            aside = reader.names.fresh(f"{name}_next")
            reader.body.append(Assign(aside, expr, axes))
            pending.append((name, var(aside, expr.kind), axes))
            continue
        pending.remove(ready)
        written.append(ready[0])
        reader.body.append(Assign(*ready))
    assert set(written) <= names


def _advance(
    reader: Reader, operation: Operation, token: str, moving: dict[str, tuple[str, Value]], yields: dict[str, str]
) -> None:
    """Numbers and pointers that a loop carries go up by the same each time: first + count * step."""
    for inner, (name, _) in moving.items():
        before, after = reader.value(inner), reader.value(yields[inner])
        if after.is_data or after.base != before.base:
            raise reader.fail(operation, f"{inner} is carried as a number and becomes something else")
        delta = added(reader.integers.poly(after.expr), scaled(reader.integers.poly(before.expr), -1))
        change = to_expr(delta)
        inside = {n for n in free_vars(change) if n in (name, token) or n.startswith("lane.")}
        if inside:
            raise reader.fail(operation, f"{_plain(inner)} does not go up by the same in every step of the loop")
        reader.integers.meaning[name] = var(token) * change if change is not const(0) else const(0)


def read_if(reader: Reader, operation: Operation) -> None:
    """scf.if: results are choices between numbers, or names that one side binds again."""
    condition = reader.value(operation.operands[0])
    if condition.is_data:
        raise reader.fail(operation, "a choice by data")
    sides: list[tuple[list[Item], list[Value]]] = []
    outside = reader.body
    for region in operation.regions:
        reader.body = []
        for inner in region[0].operations[:-1]:
            reader.operation(inner)
        last = region[0].operations[-1]
        if last.name != "scf.yield":
            reader.operation(last)
        sides.append((reader.body, [reader.value(name) for name in last.operands if last.name == "scf.yield"]))
    reader.body = outside
    while len(sides) < 2:
        sides.append(([], []))
    (then, ours), (otherwise, theirs) = sides
    for result, a, b in zip(operation.results, ours, theirs, strict=True):
        reader.values[result] = _joined(reader, operation, condition, (then, a), (otherwise, b))
    if then:
        reader.body.append(Branch(condition.expr, then))
    if otherwise:
        reader.body.append(Branch(negated(condition.expr), otherwise))


def _joined(
    reader: Reader,
    operation: Operation,
    condition: Value,
    then: tuple[list[Item], Value],
    other: tuple[list[Item], Value],
) -> Value:
    """One result of a choice."""
    (ours, a), (theirs, b) = then, other
    if not a.is_data and not b.is_data:
        if a.base != b.base:
            raise reader.fail(operation, "a choice between pointers into different tensors")
        return Value(a.shape, a.element, folded(Op.SELECT, condition.expr, a.expr, b.expr), None, a.base)
    axes = reader.united([a, b], a.shape)
    name = reader.names.fresh(_shared_name(operation, a, b))
    if not theirs:
        value = start(reader, name, b, axes)
        ours.append(Assign(name, reader.on_axes(a, axes), axes))
    elif not ours:
        value = start(reader, name, a, axes)
        theirs.append(Assign(name, reader.on_axes(b, axes), axes))
    else:
        value = start(reader, name, Value(a.shape, a.element, const(0.0)), axes)
        ours.append(Assign(name, reader.on_axes(a, axes), axes))
        theirs.append(Assign(name, reader.on_axes(b, axes), axes))
    return Value(a.shape, a.element, var(name, value.expr.kind), axes)


def _shared_name(operation: Operation, *sides: Value) -> str:
    """What the source calls a choice's result: by its place, else as one of the sides."""
    plain = _plain(operation.results[0])
    if not plain[0].isdigit():
        return plain
    return next((str(side.expr.attr) for side in sides if side.expr.op is Op.VAR), "chosen")


def times_identity(reader: Reader, operation: Operation) -> bool:
    """Bind a product with the identity matrix, which changes a layout and no value, to its other operand."""
    left, right, into = (reader.value(name) for name in operation.operands[:3])
    if into.is_data or into.expr.op is not Op.CONST or into.expr.attr != 0:
        return False
    for value, other in ((left, right), (right, left)):
        if value.is_data and not other.is_data and is_identity(other.expr):
            reader.note("a product with the identity matrix is its other operand")
            reader.define(operation, Value(value.shape, operation.types[-1].element, value.expr, value.axes))
            return True
    return False
