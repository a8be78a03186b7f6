"""Reading a program's statements from Python syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Callable

from .dtypes import DTYPES, DType, Kind
from .errors import ParseError
from .expr import Expr, Op, const
from .parse_expr import RESERVED, Scope, fail, parse_expression, subscripts
from .program import (
    All,
    Alloc,
    Arrive,
    Barriers,
    Commit,
    Copy,
    Fill,
    Gemm,
    Grid,
    If,
    Index,
    Let,
    Load,
    Operand,
    RangeLoop,
    Reduce,
    ReduceAdd,
    Ref,
    Role,
    ScatterAdd,
    Statement,
    Store,
    Sync,
    TileAt,
    TileAxis,
    TileLoop,
    Tiles,
    Wait,
    WaitGroup,
)  # fmt: skip

PARTS = ("any", "full", "partial")
TILE_ORDERS = ("ascending", "descending")
GRID_ORDERS = ("ascending", "descending", "longest_first")
SPACES = ("global", "shared", "register")


class StatementParser:
    """Reads statements while keeping the scope of names bound so far."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.assigned: dict[str, Callable[[str, ast.Call], Statement]] = {
            "load": self._load, "alloc": self._alloc, "barriers": self._barriers, "zeros": self._fill,
            "full": self._fill, "gemm": self._gemm, "gemm_async": self._gemm, "reduce_max": self._reduce,
            "reduce_sum": self._reduce, "tile": self._tile_at,
        }  # fmt: skip
        self.commands: dict[str, Callable[[ast.Call], Statement]] = {
            "store": self._store, "copy": self._copy, "copy_async": self._copy, "reduce_add": self._reduce_add,
            "scatter_add": self._scatter_add,
            "commit": lambda call: self._bare(call, Commit()), "sync": lambda call: self._bare(call, Sync()),
            "wait_group": self._wait_group, "arrive": self._arrive, "wait": self._wait,
        }  # fmt: skip

    def body(self, nodes: list[ast.stmt]) -> tuple[Statement, ...]:
        """A sequence of statements; names bound in it stay bound after it, as in Python."""
        return tuple(self.statement(node) for node in nodes)

    def statement(self, node: ast.stmt) -> Statement:
        """One statement of any kind."""
        if isinstance(node, ast.Assign):
            return self._assign(node)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            word = self._word(node.value)
            if word not in self.commands:
                raise fail(node, f"statement {word!r}", f"one of {', '.join(self.commands)}")
            return self.commands[word](node.value)
        if isinstance(node, ast.For):
            return self._for(node)
        if isinstance(node, ast.With):
            return self._role(node)
        if isinstance(node, ast.If) and not node.orelse:
            return If(self._expr(node.test), self.body(node.body))
        raise fail(node, f"{type(node).__name__} statement", "an assignment, a command, for, with or if without else")

    # Names and pieces

    def _bind(self, node: ast.AST, name: str, kind: Kind) -> None:
        taken = name in RESERVED or name in self.scope.tensors or name in self.scope.regions
        if taken or name in self.scope.tiles or self.scope.kinds.get(name, kind) is not kind:
            raise fail(node, f"{name!r} bound here", "a name that is not reserved and not bound to something else")
        self.scope.kinds[name] = kind

    def _bind_tile(self, node: ast.AST, name: str) -> None:
        if name in RESERVED or (name in self.scope.kinds and name not in self.scope.tiles):
            raise fail(node, f"tile variable {name!r}", "a name that is not bound to something else")
        self.scope.kinds[name] = Kind.INT
        self.scope.tiles.add(name)

    def _expr(self, node: ast.expr) -> Expr:
        return parse_expression(node, self.scope)

    def _word(self, call: ast.Call) -> str:
        if isinstance(call.func, ast.Name):
            return call.func.id
        raise fail(call, "a call of this form", "word(arguments)")

    def _options(self, call: ast.Call, positional: int, allowed: tuple[str, ...] = ()) -> dict[str, ast.expr]:
        if len(call.args) != positional:
            raise fail(call, f"{self._word(call)} with {len(call.args)} arguments", f"{positional}")
        options: dict[str, ast.expr] = {}
        for option in call.keywords:
            if option.arg not in allowed or option.arg in options:
                wanted = f"one of {', '.join(allowed)}" if allowed else "no options"
                raise fail(option.value, f"option {option.arg!r}", wanted)
            options[option.arg] = option.value
        return options

    def _bare(self, call: ast.Call, statement: Statement) -> Statement:
        self._options(call, 0)
        return statement

    def _integer(self, node: ast.expr | None, default: int | None = None, least: int = 1) -> int:
        if node is None and default is not None:
            return default
        if isinstance(node, ast.Constant) and type(node.value) is int and least <= node.value < 2**31:
            return node.value
        raise fail(node or ast.AST(), "this value", f"an integer of at least {least}")

    def _choice(self, node: ast.expr | None, default: str, choices: tuple[str, ...]) -> str:
        if node is None:
            return default
        if isinstance(node, ast.Constant) and node.value in choices:
            return str(node.value)
        raise fail(node, "this value", " or ".join(f'"{choice}"' for choice in choices))

    def _text(self, node: ast.expr | None, default: str) -> str:
        if node is None:
            return default
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and text.isprintable() and len(text) <= 64 and not {'"', "\\"} & set(text):
            return text
        raise fail(node, "this value", "a short quoted word")

    def _ref(self, node: ast.expr) -> Ref:
        if not isinstance(node, ast.Subscript) or not isinstance(node.value, ast.Name):
            raise fail(node, "this reference", "name[indices]")
        if node.value.id not in self.scope.tensors:
            raise fail(node, f"unknown tensor {node.value.id!r}", f"one of {', '.join(sorted(self.scope.tensors))}")
        items = subscripts(node)
        if len(items) == 1 and isinstance(items[0], ast.Tuple) and not items[0].elts:
            items = []
        return Ref(node.value.id, tuple(self._index(item) for item in items))

    def _index(self, node: ast.expr) -> Index:
        if isinstance(node, ast.Slice):
            if node.lower or node.upper or node.step:
                raise fail(node, "a slice with bounds", "`:` or a tile variable")
            return All()
        if isinstance(node, ast.Name) and node.id in self.scope.tiles:
            return TileAxis(node.id)
        value = self._expr(node)
        if value.kind is not Kind.INT:
            raise fail(node, f"an index of kind {value.kind.value}", "an integer, a tile of integers or `:`")
        return value

    def _operand(self, node: ast.expr) -> Operand:
        return self._tile_name(node) if isinstance(node, ast.Name) else self._ref(node)

    def _tile_name(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name) and node.id in self.scope.kinds:
            return node.id
        raise fail(node, "this operand", "the name of a tile")

    def _tiles(self, call: ast.Call, most: ast.expr | None = None) -> Tiles:
        limit = None if most is None else self._expr(most)
        return Tiles(self._expr(call.args[0]), self._integer(call.args[1]), limit)

    def _rows_that_exist(self, node: ast.expr | None) -> Expr | None:
        if node is None:
            return None
        value = self._expr(node)
        if value.kind is not Kind.BOOL:
            raise fail(node, f"where= of kind {value.kind.value}", "a condition: which rows exist")
        return value

    def _typed(self, node: ast.expr) -> tuple[DType, list[ast.expr]]:
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in DTYPES:
            items = subscripts(node)
            empty = len(items) == 1 and isinstance(items[0], ast.Tuple) and not items[0].elts
            return DTYPES[node.value.id], [] if empty else items
        raise fail(node, "this type", "dtype[axes]")

    # name = word(…)

    def _assign(self, node: ast.Assign) -> Statement:
        if len(node.targets) != 1 or not isinstance(node.targets[0], ast.Name):
            raise fail(node, "an assignment of this form", "name = value")
        name = node.targets[0].id
        value = node.value
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in self.assigned:
            return self.assigned[value.func.id](name, value)
        expr = self._expr(value)
        self._bind(node, name, expr.kind)
        return Let(name, expr)

    def _load(self, name: str, call: ast.Call) -> Statement:
        options = self._options(call, 1, ("space", "where"))
        source = self._ref(call.args[0])
        exists = self._rows_that_exist(options.get("where"))
        self._bind(call, name, self.scope.tensors[source.name])
        return Load(name, source, self._choice(options.get("space"), "register", SPACES), exists)

    def _alloc(self, name: str, call: ast.Call) -> Statement:
        options = self._options(call, 1, ("space", "layout"))
        dtype, dims = self._typed(call.args[0])
        if name in RESERVED or name in self.scope.kinds or name in self.scope.tensors:
            raise fail(call, f"buffer {name!r}", "a name that is not bound yet")
        self.scope.tensors[name] = dtype.kind
        space = self._choice(options.get("space"), "global", SPACES)
        return Alloc(name, dtype, tuple(self._expr(d) for d in dims), space, self._text(options.get("layout"), "rows"))

    def _barriers(self, name: str, call: ast.Call) -> Statement:
        options = self._options(call, 1, ("arrivals",))
        self.scope.tensors[name] = Kind.INT
        return Barriers(name, self._integer(call.args[0]), self._integer(options.get("arrivals"), 1))

    def _fill(self, name: str, call: ast.Call) -> Statement:
        is_zeros = self._word(call) == "zeros"
        self._options(call, 1 if is_zeros else 2)
        dtype, axes = self._typed(call.args[0])
        for axis in axes:
            if not isinstance(axis, ast.Name) or axis.id not in self.scope.kinds:
                raise fail(axis, "this axis", "a tile variable or a size's name")
        value = const(0.0) if is_zeros else self._expr(call.args[1])
        self._bind(call, name, dtype.kind)
        return Fill(name, dtype, tuple(axis.id for axis in axes if isinstance(axis, ast.Name)), value)

    def _gemm(self, name: str, call: ast.Call) -> Statement:
        options = self._options(call, 2, ("into",))
        left, right = self._operand(call.args[0]), self._operand(call.args[1])
        into = self._expr(options["into"]) if "into" in options else None
        self._bind(call, name, Kind.FLOAT)
        return Gemm(name, left, right, into, self._word(call) == "gemm_async")

    def _reduce(self, name: str, call: ast.Call) -> Statement:
        options = self._options(call, 1, ("axis",))
        axis = options.get("axis")
        if not isinstance(axis, ast.Name):
            raise fail(call, "a reduction without an axis", "axis=NAME")
        self._bind(call, name, Kind.FLOAT)
        return Reduce(name, self._word(call).removeprefix("reduce_"), self._tile_name(call.args[0]), axis.id)

    def _tile_at(self, name: str, call: ast.Call) -> Statement:
        self._options(call, 3)
        number = self._expr(call.args[2])
        self._bind_tile(call, name)
        return TileAt(name, self._tiles(call), number)

    # word(…)

    def _store(self, call: ast.Call) -> Statement:
        options = self._options(call, 2, ("where",))
        exists = self._rows_that_exist(options.get("where"))
        return Store(self._ref(call.args[0]), self._expr(call.args[1]), exists)

    def _copy(self, call: ast.Call) -> Statement:
        is_async = self._word(call) == "copy_async"
        options = self._options(call, 2, ("signal",) if is_async else ())
        signal = self._ref(options["signal"]) if "signal" in options else None
        return Copy(self._ref(call.args[0]), self._ref(call.args[1]), is_async, signal)

    def _reduce_add(self, call: ast.Call) -> Statement:
        options = self._options(call, 2, ("after",))
        after = self._expr(options["after"]) if "after" in options else None
        return ReduceAdd(self._ref(call.args[0]), self._expr(call.args[1]), after)

    def _scatter_add(self, call: ast.Call) -> Statement:
        options = self._options(call, 2, ("where",))
        exists = self._rows_that_exist(options.get("where"))
        return ScatterAdd(self._ref(call.args[0]), self._expr(call.args[1]), exists)

    def _wait_group(self, call: ast.Call) -> Statement:
        self._options(call, 1)
        return WaitGroup(self._integer(call.args[0], least=0))

    def _arrive(self, call: ast.Call) -> Statement:
        self._options(call, 1)
        return Arrive(self._ref(call.args[0]))

    def _wait(self, call: ast.Call) -> Statement:
        options = self._options(call, 1, ("phase",))
        if "phase" not in options:
            raise fail(call, "wait without a phase", "phase=EXPRESSION")
        return Wait(self._ref(call.args[0]), self._expr(options["phase"]))

    # blocks

    def _for(self, node: ast.For) -> Statement:
        call = node.iter
        if node.orelse or not isinstance(call, ast.Call):
            raise fail(node, "a loop of this form", "for … in grid(…), tiles(…) or range(…)")
        word = self._word(call)
        targets = node.target.elts if isinstance(node.target, ast.Tuple) else [node.target]
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        if len(names) != len(targets) or (word != "grid" and len(names) != 1):
            raise fail(node, "loop variables of this form", "plain names")
        if word == "grid":
            return self._grid(node, call, names)
        if word == "tiles":
            return self._tile_loop(node, call, names[0])
        if word == "range":
            options = self._options(call, 2, ("stages",))
            start, stop = self._expr(call.args[0]), self._expr(call.args[1])
            self._bind(node, names[0], Kind.INT)
            return RangeLoop(names[0], start, stop, self.body(node.body), self._integer(options.get("stages"), 1))
        raise fail(node, f"loop over {word!r}", "grid(…), tiles(…) or range(…)")

    def _grid(self, node: ast.For, call: ast.Call, names: list[str]) -> Statement:
        options = self._options(call, len(names), ("order", "warps"))
        extents: list[Expr | Tiles] = []
        for name, extent in zip(names, call.args, strict=True):
            if isinstance(extent, ast.Call) and self._word(extent) == "tiles":
                cut = self._options(extent, 2, ("most",))
                extents.append(self._tiles(extent, cut.get("most")))
                self._bind_tile(node, name)
            else:
                extents.append(self._expr(extent))
                self._bind(node, name, Kind.INT)
        order = self._choice(options.get("order"), "ascending", GRID_ORDERS)
        warps = self._integer(options["warps"]) if "warps" in options else None
        return Grid(tuple(names), tuple(extents), self.body(node.body), order, warps)

    def _tile_loop(self, node: ast.For, call: ast.Call, name: str) -> Statement:
        options = self._options(call, 2, ("most", "where", "part", "order", "stages"))
        tiles = self._tiles(call, options.get("most"))
        self._bind_tile(node, name)
        where = self._expr(options["where"]) if "where" in options else None
        if where is not None and where.op is not Op.CALL:
            raise fail(options["where"], "this domain", "a call of a region")
        part = self._choice(options.get("part"), "any", PARTS)
        order = self._choice(options.get("order"), "ascending", TILE_ORDERS)
        stages = self._integer(options.get("stages"), 1)
        return TileLoop(name, tiles, self.body(node.body), where, part, order, stages)

    def _role(self, node: ast.With) -> Statement:
        item = node.items[0]
        call = item.context_expr
        if len(node.items) != 1 or not isinstance(call, ast.Call) or self._word(call) != "role":
            raise fail(node, "a with block of this form", 'with role("name", warps=…):')
        options = self._options(call, 1, ("warps", "count", "registers"))
        worker = item.optional_vars.id if isinstance(item.optional_vars, ast.Name) else None
        if worker is not None:
            self._bind(node, worker, Kind.INT)
        registers = self._integer(options["registers"]) if "registers" in options else None
        return Role(
            self._text(call.args[0], ""), self.body(node.body), self._integer(options.get("warps"), 4),
            self._integer(options.get("count"), 1), registers, worker,
        )  # fmt: skip


__all__ = ["ParseError", "StatementParser"]
