"""Which values get a name of their own, and which: the source's variables, as the locations tell them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ...parse_expr import RESERVED
from ...spec import SIZES
from ...transfer.recognition.lines import ROLES
from .text import Block, Function, Operation

THROUGH = ("tt.splat", "tt.expand_dims", "tt.broadcast", "tt.trans", "tt.reshape", "arith.extf", "ttg.convert_layout")
AXIS_NAMES = ("b", "h", "g", "m", "n", "i", "j", "t")
KEPT_NAMES = frozenset({*AXIS_NAMES, *RESERVED, *SIZES, *ROLES} - {"q", "k", "v", "o", "lse"})  # no tensor's


class Uses:
    """Who uses each value: (operation, position, block), looking through changes of shape."""

    def __init__(self, function: Function) -> None:
        self.users: dict[str, list[tuple[Operation, int, int]]] = {}
        self.home: dict[str, int] = {}
        self.makers: dict[str, Operation] = {}
        for block in function.blocks:
            self._collect(block)

    def _collect(self, block: Block) -> None:
        for operation in block.operations:
            for result in operation.results:
                self.home[result] = id(block)
                self.makers[result] = operation
            for position, operand in enumerate(operation.operands):
                self.users.setdefault(operand, []).append((operation, position, id(block)))
            for region in operation.regions:
                for inner in region:
                    self._collect(inner)

    def of(self, value: str) -> list[tuple[Operation, int, int]]:
        """Users of a value; those of its reshaped forms count as its own."""
        found = []
        for user in self.users.get(value, ()):
            if user[0].name in THROUGH:
                found += self.of(user[0].results[0])
            else:
                found.append(user)
        return found


class Names:
    """Gives out names: readable, valid in program text, each once."""

    def __init__(self, taken: Iterable[str]) -> None:
        self.reserved = {*taken, *RESERVED, *SIZES, *AXIS_NAMES}
        self.taken = set(self.reserved)

    def fresh(self, wanted: str) -> str:
        """The wanted name, or one like it that nothing has."""
        base = re.sub(r"\W", "_", wanted).strip("_") or "x"
        base = f"x{base}" if base[0].isdigit() else base
        if base in self.reserved:
            base = f"{base}_tile"
        name, number = base, 2
        while name in self.taken:
            name, number = f"{base}_{number}", number + 1
        self.taken.add(name)
        return name


def source_name(function: Function, operation: Operation) -> str:
    """The source's variable for an operation's result, else a word for what it does."""
    found = function.places.name(operation.place)
    if found is not None:
        return found
    return {"tt.dot": "product", "tt.load": "loaded", "tt.reduce": "reduced"}.get(operation.name, "value")


def needs_name(uses: Uses, function: Function, operation: Operation) -> bool:
    """Whether a value is written as a statement: used twice, by a product or reduction, or one of the source's."""
    result = operation.results[0]
    users = uses.of(result)
    if len(users) != 1:
        return True
    user, position, block = users[0]
    if block != uses.home[result] or user.name in ("scf.yield", "scf.for", "scf.if", "tt.reduce"):
        return True
    if user.name in ("tt.dot", "tt.store", "tt.atomic_rmw"):
        return user.name == "tt.dot" and position < 2
    mine, theirs = function.places.name(operation.place), function.places.name(user.place)
    if mine != theirs:
        return mine is not None
    return function.places.line(operation.place) != function.places.line(user.place)
