"""Program and spec text -> nodes. Python's grammar, none of its execution: text is data, whoever wrote it.

The reader's way: `parse_program` reads the header (sizes, parameters), then the regions, then statements through two
tables: `ASSIGNED` for `name = word(…)` and `COMMANDS` for `word(…)`; blocks are `for` and `with`. Every refusal is a
ParseError with line and column.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from .dtypes import DTYPES, DType, Kind
from .errors import ParseError
from .expr import Expr, const, substitute
from .parse_expr import RESERVED, Scope, fail, parse_expression, subscripts
from .parse_statements import StatementParser
from .program import Param, Program, Region, RegionParam
from .spec import SIZES, AttentionSpec, Dim, Normaliser, NormaliserKind, TensorSpec

MAX_TEXT_BYTES = 1 << 20
MAX_NESTING = 80
MOST_SIZE = 1 << 31
Result = TypeVar("Result")
KINDS = {kind.value: kind for kind in Kind}


def parse_program(text: str) -> Program:
    """Read a program. Raises ParseError naming line, column, what was found and what was wanted."""
    return _located(text, _program)


def parse_spec(text: str) -> AttentionSpec:
    """Read an AttentionSpec. Raises ParseError naming line, column, what was found and what was wanted."""
    return _located(text, _spec)


def _located(text: str, read: Callable[[ast.FunctionDef], Result]) -> Result:
    """Run a reader on the text's only function; errors carry the line's text."""
    try:
        return read(_only_function(text))
    except ParseError as error:
        lines = text.splitlines()
        if error.text is None and 1 <= error.line <= len(lines):
            raise ParseError(error.line, error.column, error.found, error.wanted, lines[error.line - 1]) from None
        raise
    except RecursionError:
        raise ParseError(1, 1, "nesting too deep", "expressions that are named part by part") from None


def _only_function(text: str) -> ast.FunctionDef:
    if len(text.encode(errors="replace")) > MAX_TEXT_BYTES:
        raise ParseError(1, 1, f"{len(text)} characters", f"at most {MAX_TEXT_BYTES} bytes of text")
    _check_nesting(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's remarks on style
            module = ast.parse(text)
    except SyntaxError as error:
        raise ParseError(error.lineno or 1, error.offset or 1, str(error.msg), "program text") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise ParseError(1, 1, f"{_unparsable(error)}", "program text") from None
    if len(module.body) != 1 or not isinstance(module.body[0], ast.FunctionDef):
        node = module.body[1] if len(module.body) > 1 else module
        raise fail(node, "something that is not a single function", "one decorated function")
    return module.body[0]


def _unparsable(error: Exception) -> str:
    return "nesting too deep" if isinstance(error, RecursionError) else f"no Python ({type(error).__name__})"


def _check_nesting(text: str) -> None:
    """Refuse text whose brackets or operators nest too deeply for any parser before parsing it."""
    depth = signs = 0
    for number, line in enumerate(text.splitlines(), 1):
        for column, char in enumerate(line, 1):
            depth += (char in "([{") - (char in ")]}")
            signs = signs + 1 if char in "~-+ " else 0
            if depth > MAX_NESTING or signs > 2 * MAX_NESTING:
                raise ParseError(number, column, "nesting too deep", f"at most {MAX_NESTING} levels")


def _header(node: ast.FunctionDef, word: str) -> dict[str, int | None]:
    """The decorator's sizes: `@program(D=64, S=size)` -> {"D": 64, "S": None}."""
    if len(node.decorator_list) != 1:
        raise fail(node, f"{len(node.decorator_list)} decorators", f"@{word}(D=…, Dv=…)")
    call = node.decorator_list[0]
    named = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == word
    if not isinstance(call, ast.Call) or not named or call.args:
        raise fail(call, "this decorator", f"@{word}(D=…, Dv=…)")
    sizes: dict[str, int | None] = {}
    for option in call.keywords:
        value = option.value.value if isinstance(option.value, ast.Constant) else None
        is_free = isinstance(option.value, ast.Name) and option.value.id == "size"
        is_size = is_free or (type(value) is int and 0 < value < MOST_SIZE)
        if option.arg is None or option.arg in RESERVED or not is_size:
            raise fail(option.value, "a size of this form", "NAME=positive integer, or NAME=size for one of the run")
        sizes[option.arg] = value if type(value) is int else None
    return sizes


def _params(node: ast.FunctionDef) -> tuple[Param, ...]:
    arguments = node.args
    extra = arguments.posonlyargs or arguments.kwonlyargs or arguments.defaults or arguments.vararg or arguments.kwarg
    if extra:
        raise fail(node, "defaults, stars or keyword-only parameters", "name: dtype[dims]")
    seen: set[str] = set()
    params = []
    for argument in arguments.args:
        if argument.arg in RESERVED or argument.arg in seen or argument.arg in SIZES:
            raise fail(argument, f"parameter {argument.arg!r}", "a name that is not reserved and not used twice")
        seen.add(argument.arg)
        params.append(_param(argument))
    return tuple(params)


def _param(argument: ast.arg) -> Param:
    kind, is_output = argument.annotation, False
    if isinstance(kind, ast.Call) and isinstance(kind.func, ast.Name) and kind.func.id == "out" and len(kind.args) == 1:
        kind, is_output = kind.args[0], True
    if not isinstance(kind, ast.Subscript):
        raise fail(argument, f"parameter {argument.arg!r} without a type", "dtype[dims] or out(dtype[dims])")
    return Param(argument.arg, tensor_dtype(kind), tuple(_dim(d) for d in dims_of(kind)), is_output)


def tensor_dtype(kind: ast.Subscript) -> DType:
    """The element type of `f32[…]`."""
    if isinstance(kind.value, ast.Name) and kind.value.id in DTYPES:
        return DTYPES[kind.value.id]
    raise fail(kind, "an unknown element type", f"one of {', '.join(DTYPES)}")


def dims_of(kind: ast.Subscript) -> list[ast.expr]:
    """The dims of `f32[A, B]`; none for `f32[()]`."""
    items = subscripts(kind)
    return [] if len(items) == 1 and isinstance(items[0], ast.Tuple) and not items[0].elts else items


def _dim(node: ast.expr) -> Dim:
    if isinstance(node, ast.Name) and node.id not in RESERVED:
        return node.id
    if isinstance(node, ast.Constant) and type(node.value) is int and 0 < node.value < MOST_SIZE:
        return node.value
    raise fail(node, "a dimension of this form", "a size's name or a positive integer")


def _outer_scope(params: Sequence[Param | TensorSpec], sizes: Iterable[str]) -> Scope:
    names = {dim for param in params for dim in param.dims if isinstance(dim, str)} | set(sizes) | set(SIZES)
    return Scope(
        kinds=dict.fromkeys(sorted(names), Kind.INT),
        tensors={param.name: param.dtype.kind for param in params},
    )


def _region(node: ast.FunctionDef, scope: Scope) -> Region:
    if node.name in RESERVED or node.name in scope.kinds or node.name in scope.tensors or node.name in scope.regions:
        raise fail(node, f"region {node.name!r}", "a name that is not reserved and not used twice")
    inner = scope.copy()
    params = []
    for argument in node.args.args:
        note = argument.annotation
        if not isinstance(note, ast.Name) or note.id not in KINDS or argument.arg in RESERVED:
            raise fail(argument, f"region parameter {argument.arg!r}", f"name: {' | '.join(KINDS)}")
        params.append(RegionParam(argument.arg, KINDS[note.id]))
        inner.kinds[argument.arg] = KINDS[note.id]
    *bindings, last = node.body
    if not isinstance(last, ast.Return) or last.value is None:
        raise fail(node, "a region without an ending return", "return EXPRESSION")
    parts: dict[str, Expr] = {}
    for binding in bindings:
        name, value = _binding(binding, inner)
        parts[name] = substitute(parse_expression(value, inner), parts)
        inner.kinds[name] = parts[name].kind
    return Region(node.name, tuple(params), substitute(parse_expression(last.value, inner), parts))


def _binding(node: ast.stmt, scope: Scope) -> tuple[str, ast.expr]:
    """Name and value of `name = EXPRESSION` in a region; the name must be new."""
    target = node.targets[0] if isinstance(node, ast.Assign) and len(node.targets) == 1 else None
    if not isinstance(node, ast.Assign) or not isinstance(target, ast.Name):
        raise fail(node, "this line in a region", "name = EXPRESSION, and return EXPRESSION at the end")
    if target.id in RESERVED or target.id in scope.kinds or target.id in scope.tensors or target.id in scope.regions:
        raise fail(target, f"name {target.id!r}", "a name that is not reserved and not used twice")
    return target.id, node.value


def _regions(node: ast.FunctionDef, scope: Scope) -> tuple[list[Region], list[ast.stmt]]:
    """Leading function definitions as regions, and the statements after them."""
    regions: list[Region] = []
    body = list(node.body)
    while body and isinstance(body[0], ast.FunctionDef):
        region = _region(body.pop(0), scope)  # type: ignore[arg-type]
        scope.regions[region.name] = region.body.kind
        regions.append(region)
    return regions, body


def _program(node: ast.FunctionDef) -> Program:
    sizes = _header(node, "program")
    params = _params(node)
    scope = _outer_scope(params, sizes)
    regions, rest = _regions(node, scope)
    body = StatementParser(scope).body(rest)
    fixed = tuple((name, value) for name, value in sizes.items() if value is not None)
    free = tuple(name for name, value in sizes.items() if value is None)
    return Program(node.name, params, body, tuple(regions), fixed, free)


def _spec(node: ast.FunctionDef) -> AttentionSpec:
    sizes = _header(node, "attention")
    params = _params(node)
    head_dim, value_dim, group = (sizes.pop(name, None) for name in ("D", "Dv", "group"))
    named = [param.name for param in params[:3]] == ["q", "k", "v"]
    if not named or sizes or head_dim is None or value_dim is None or group is None:
        raise fail(node, "this header", "@attention(D=…, Dv=…, group=…) and parameters q, k, v, *captured")
    captured = tuple(TensorSpec(p.name, p.dtype, p.dims) for p in params[3:])
    scope = _outer_scope(params, ())
    regions, rest = _regions(node, scope)
    bodies = {region.name: region.body for region in regions}
    if not {"score", "keep"} <= set(bodies) <= {"score", "keep", "weight", "after", "requires"}:
        raise fail(node, f"regions {', '.join(bodies)}", "score, keep and at most weight, after and requires")
    scope.kinds |= {"b": Kind.INT, "h": Kind.INT}
    return AttentionSpec(
        name=node.name, dtype=params[0].dtype, head_dim=head_dim, value_dim=value_dim, group=group,
        captured=captured, score=bodies["score"], keep=bodies["keep"],
        normaliser=_normaliser(node, rest, scope, bodies),
        requires=bodies.get("requires", const(True)),
    )  # fmt: skip


def _normaliser(node: ast.FunctionDef, rest: list[ast.stmt], scope: Scope, bodies: dict[str, Expr]) -> Normaliser:
    kinds = {kind.value: kind for kind in NormaliserKind}
    value = rest[0].value if len(rest) == 1 and isinstance(rest[0], ast.Return) else None
    if not isinstance(value, ast.Call) or not isinstance(value.func, ast.Name) or value.func.id not in kinds:
        raise fail(rest[0] if rest else node, "this ending", f"return {' | '.join(kinds)}(…)")
    options = {option.arg: parse_expression(option.value, scope) for option in value.keywords}
    if value.args or not set(options) <= {"sink", "epsilon"}:
        raise fail(value, "these options", "sink=… or epsilon=…")
    epsilon = options["epsilon"].attr if "epsilon" in options else 0.0
    if not isinstance(epsilon, (int, float)):
        raise fail(value, "an epsilon that is no number", "a literal")
    rule = kinds[value.func.id]
    return Normaliser(rule, options.get("sink"), bodies.get("weight"), float(epsilon), bodies.get("after"))
