"""Validity of programs: a table of rules, each a function that yields what breaks it and where."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from .domain import question_of
from .dtypes import Kind
from .edit import expressions, extents, names_read, references
from .errors import ProgramError
from .expr import Expr, Op, free_vars, walk
from .printer import Path
from .program import (
    Alloc,
    Barriers,
    Block,
    Copy,
    Fill,
    Grid,
    Let,
    Load,
    Program,
    RangeLoop,
    ReduceAdd,
    Region,
    Role,
    ScatterAdd,
    Statement,
    Store,
    TileAt,
    TileLoop,
    Tiles,
    Wait,
    statements,
)  # fmt: skip
from .shapes import Shapes, infer, program_line

MOST_OPERATIONS = 20_000  # of a region, with the regions it calls
Breach = tuple[str, Path | None]  # what is wrong, and the statement it is in


@dataclass(frozen=True, slots=True)
class Context:
    """What the rules look at."""

    program: Program
    shapes: Shapes
    placed: tuple[tuple[Path, Statement], ...]


def verify(program: Program) -> Shapes:
    """Check every rule; the program's types when it is valid.

    Raises ProgramError with the rule's name, the reason and the line.
    """
    try:
        return _verified(program)
    except RecursionError:
        raise ProgramError("depth", "expressions nest too deep to be analysed; name parts of them") from None


def _verified(program: Program) -> Shapes:
    shapes = infer(program)
    context = Context(program, shapes, tuple(_placed(program.body, ())))
    for name, rule in RULES.items():
        for reason, path in rule(context):
            raise ProgramError(name, reason, None if path is None else program_line(program, path))
    return shapes


def _placed(body: tuple[Statement, ...], path: Path) -> Iterator[tuple[Path, Statement]]:
    for position, statement in enumerate(body):
        here = (*path, position)
        yield here, statement
        if isinstance(statement, Block):
            yield from _placed(statement.body, here)


def _outputs_written(context: Context) -> Iterator[Breach]:
    written = {s.target.name for _, s in context.placed if isinstance(s, (Store, ReduceAdd, ScatterAdd))}
    written |= {ref.name for _, s in context.placed if isinstance(s, Copy) for ref in references(s)}
    for param in context.program.params:
        if param.is_output and param.name not in written:
            yield f"output {param.name!r} is never stored to", None


def _inputs_only_read(context: Context) -> Iterator[Breach]:
    inputs = {p.name for p in context.program.params if not p.is_output}
    for path, statement in context.placed:
        if isinstance(statement, (Store, ReduceAdd, ScatterAdd)) and statement.target.name in inputs:
            yield f"{statement.target.name!r} is an input; declare it out(…) to store to it", path


def _grids_outermost(context: Context) -> Iterator[Breach]:
    for path, statement in context.placed:
        if isinstance(statement, Grid) and len(path) > 1:
            yield "a grid inside another block", path
        if not isinstance(statement, (Grid, Alloc)) and len(path) == 1:
            yield "a statement outside of every grid; only alloc may stand there", path


def _names_bound(context: Context) -> Iterator[Breach]:
    """Every tile and scalar is bound on every way to its use: earlier in its block or in one around it."""
    known = {dim for p in context.program.params for dim in p.dims if isinstance(dim, str)}
    known |= {"B", "Hq", "Hkv", "M", "N", "D", "Dv", *context.program.fixed, *context.program.free_sizes}
    yield from _names_in(context.program.body, (), known)


def _names_in(body: tuple[Statement, ...], path: Path, known: set[str]) -> Iterator[Breach]:
    known = set(known)
    for position, statement in enumerate(body):
        here = (*path, position)
        known |= _binds_before(statement)
        for name in sorted(names_read(statement) - known):
            yield f"{name!r} is read before it is bound", here
        if isinstance(statement, Block):
            yield from _names_in(statement.body, here, known)
        bound = getattr(statement, "name", None)
        if isinstance(bound, str):
            known.add(bound)


def _binds_before(statement: Statement) -> set[str]:
    if isinstance(statement, Grid):
        return set(statement.names)
    if isinstance(statement, Role):
        return {statement.worker} if statement.worker else set()
    return {statement.name} if isinstance(statement, Block) and hasattr(statement, "name") else set()


def _calls_fit(context: Context) -> Iterator[Breach]:
    regions = {region.name: region for region in context.program.regions}
    for path, expr in _evaluated(context):
        for node in walk(expr):
            if node.op is Op.CALL:
                yield from ((reason, path) for reason in _call_breaches(node, regions))
    for region in context.program.regions:
        for node in walk(region.body):
            if node.op is Op.CALL:
                yield from ((f"region {region.name}: {reason}", None) for reason in _call_breaches(node, regions))


def _evaluated(context: Context) -> Iterator[tuple[Path, Expr]]:
    """Every expression that a statement evaluates, the dims of buffers too."""
    for path, statement in context.placed:
        dims = statement.dims if isinstance(statement, Alloc) else ()
        yield from ((path, expr) for expr in (*expressions(statement), *dims))


def _call_breaches(node: Expr, regions: Mapping[str, Region]) -> Iterator[str]:
    region = regions.get(str(node.attr))
    params = region.params if region else ()
    if region is None:
        yield f"{node.attr!r} is not a region of this program"
    elif len(params) != len(node.args):
        yield f"{node.attr} takes {len(params)} arguments, {len(node.args)} are given"
    else:
        for param, arg in zip(params, node.args, strict=True):
            if (param.kind is Kind.BOOL) != (arg.kind is Kind.BOOL) or (
                param.kind is Kind.INT and arg.kind is Kind.FLOAT
            ):
                yield f"{node.attr}: parameter {param.name!r} is {param.kind.value}, the argument {arg.kind.value}"


def _loads_fit(context: Context) -> Iterator[Breach]:
    tensors = context.shapes.tensors
    for path, expr in _evaluated(context):
        yield from ((reason, path) for reason in _load_breaches(expr, context.shapes, set(tensors)))
    for region in context.program.regions:
        for reason in _load_breaches(region.body, context.shapes, set(tensors)):
            yield f"region {region.name}: {reason}", None


def _load_breaches(expr: Expr, shapes: Shapes, tensors: set[str]) -> Iterator[str]:
    for node in walk(expr):
        if node.op is not Op.LOAD:
            continue
        name = str(node.attr)
        if name not in tensors:
            yield f"{name!r} is not a tensor of this program"
        elif len(shapes.dims(name)) != len(node.args):
            yield f"{name} has {len(shapes.dims(name))} dimensions, but {len(node.args)} indices are given"


def _domains_are_predicates(context: Context) -> Iterator[Breach]:
    for path, statement in context.placed:
        if isinstance(statement, TileLoop) and statement.where is not None:
            if statement.where.kind is not Kind.BOOL:
                yield f"where= calls {statement.where.attr!r}, which is no predicate", path
            try:
                question_of(statement, context.program)
            except ValueError as error:
                yield str(error), path
        elif isinstance(statement, TileLoop) and statement.part != "any":
            yield f'part="{statement.part}" needs a where=', path


def _extents_known(context: Context) -> Iterator[Breach]:
    """A grid's extents read names before them only, and where they do, say how large they may be."""
    for path, statement in context.placed:
        if not isinstance(statement, Grid):
            continue
        for position, extent in enumerate(statement.extents):
            read = {name for part in extents(extent) for name in free_vars(part)} & set(statement.names)
            later = read - set(statement.names[:position])
            if later:
                yield f"the extent of {statement.names[position]!r} reads {sorted(later)[0]!r}, bound after it", path
            if read and (not isinstance(extent, Tiles) or extent.most is None):
                yield f"the extent of {statement.names[position]!r} depends on {sorted(read)[0]!r}; say most=", path
            if isinstance(extent, Tiles) and extent.most is not None and free_vars(extent.most) & set(statement.names):
                yield f"most= of {statement.names[position]!r} must be the same for the whole grid", path


def _integers_counted(context: Context) -> Iterator[Breach]:
    """Bounds, extents, tile numbers, ranks and phases are integers."""
    for path, statement in context.placed:
        for what, value in _counts(statement):
            if value.kind is not Kind.INT:
                yield f"{what} is {value!r}, of kind {value.kind.value}; wanted an integer", path


def _counts(statement: Statement) -> Iterator[tuple[str, Expr]]:
    if isinstance(statement, RangeLoop):
        yield from (("a bound of range", value) for value in (statement.start, statement.stop))
    if isinstance(statement, TileAt):
        yield "the number of a tile", statement.number
    if isinstance(statement, Wait):
        yield "a phase", statement.phase
    if isinstance(statement, ReduceAdd) and statement.after is not None:
        yield "a rank", statement.after
    cuts = statement.extents if isinstance(statement, Grid) else ()
    tiles = (statement.tiles,) if isinstance(statement, (TileLoop, TileAt)) else ()
    for cut in (*cuts, *tiles):
        yield from (("an extent", value) for value in extents(cut))


def _recursion(context: Context) -> Iterator[Breach]:
    seen: set[str] = set()
    for region in context.program.regions:
        for node in walk(region.body):
            if node.op is Op.CALL and node.attr not in seen:
                yield f"region {region.name} calls {node.attr!r}, which is not defined above it", None
        seen.add(region.name)


def _regions_small(context: Context) -> Iterator[Breach]:
    """Calls of regions are replaced by their bodies: what that comes to must be of a size that fits in memory."""
    sizes: dict[str, int] = {}
    for region in context.program.regions:
        nodes = list(walk(region.body))
        sizes[region.name] = len(nodes) + sum(sizes.get(str(e.attr), 0) for e in nodes if e.op is Op.CALL)
        if sizes[region.name] > MOST_OPERATIONS:
            yield f"region {region.name} unfolds to {sizes[region.name]} operations; at most {MOST_OPERATIONS}", None
            return


def _unique_names(context: Context) -> Iterator[Breach]:
    seen: set[str] = set()
    declared = [p.name for p in context.program.params] + [r.name for r in context.program.regions]
    declared += [s.name for s in statements(context.program.body) if isinstance(s, (Alloc, Barriers))]
    for name in declared:
        if name in seen:
            yield f"{name!r} is declared twice", None
        seen.add(name)
    bound = {s.name for s in statements(context.program.body) if isinstance(s, (Load, Let, Fill))}
    for name in sorted(bound & seen):
        yield f"{name!r} names both a tensor or region and a tile", None


RULES: dict[str, Callable[[Context], Iterator[Breach]]] = {
    "unique-names": _unique_names,
    "grids-outermost": _grids_outermost,
    "names-bound": _names_bound,
    "no-recursion": _recursion,
    "regions-small": _regions_small,
    "calls-fit": _calls_fit,
    "loads-fit": _loads_fit,
    "domains-are-predicates": _domains_are_predicates,
    "extents-known": _extents_known,
    "integers-counted": _integers_counted,
    "inputs-only-read": _inputs_only_read,
    "outputs-written": _outputs_written,
}
