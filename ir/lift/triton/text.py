"""Text of Triton's IR (TTIR) -> operations. A bounded reader of MLIR's syntax: text is data, nothing of it is run."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from ...errors import ParseError

MAX_TEXT_BYTES = 4 << 20
MAX_NESTING = 64
TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*)
    | (?P<string>"(?:[^"\\]|\\.)*")
    | (?P<name>[%^@\#][\w.$-]+(?:\#\d+)?(?::\d+(?=\s*=))?)
    | (?P<arrow>->)
    | (?P<number>-?(?:0x[0-9A-Fa-f]+|\d+(?:\.\d*)?(?:[eE][+-]?\d+)?))
    | (?P<word>!?[A-Za-z_][\w.$]*)
    | (?P<sign>[-<>{}()\[\],=:*?+|])""",
    re.VERBOSE,
)
TYPED = ("tensor", "array", "dense", "vector", "memref")
OPEN, CLOSE = "<{([", ">})]"


@dataclass(frozen=True, slots=True)
class Token:
    """One word of the text and where it begins."""

    kind: str
    text: str
    at: int


@dataclass(frozen=True, slots=True)
class Type:
    """A type: shape of a tensor (() for scalars), element ("f16", "i32", …) and whether it is a pointer to that."""

    shape: tuple[int, ...]
    element: str
    is_pointer: bool = False


@dataclass(slots=True)
class Operation:
    """One operation: results, name, the values it names in order, attributes, types after the colon, regions."""

    name: str
    results: list[str]
    operands: list[str]
    words: list[str]
    types: list[Type]
    regions: list[list[Block]]
    place: str

    def number(self, name: str) -> int:
        """An integer attribute, `axis = 1`. KeyError when there is none."""
        for position in range(len(self.words) - 2):
            if self.words[position] == name and self.words[position + 1] == "=":
                return int(self.words[position + 2])
        raise KeyError(name)


@dataclass(slots=True)
class Block:
    """A block: its label, its arguments with types, its operations."""

    label: str
    arguments: list[tuple[str, Type]]
    operations: list[Operation] = field(default_factory=list)


@dataclass(slots=True)
class Function:
    """A kernel: its arguments with types and the blocks of its body; `places` resolves locations."""

    name: str
    arguments: list[tuple[str, Type]]
    blocks: list[Block]
    places: Places


class Places:
    """Locations by name: the variable a value is called after, and file:line in the user's source."""

    def __init__(self, table: dict[str, str]) -> None:
        self._table = table

    def name(self, place: str) -> str | None:
        """The source's variable name of a location, None where it has none."""
        return self._resolve(place, 0)[0]

    def line(self, place: str) -> str | None:
        """ "file.py:12" of a location; a library function's lines are where it is called."""
        return self._resolve(place, 0)[1]

    def _resolve(self, place: str, depth: int) -> tuple[str | None, str | None]:
        place = place.strip()
        if depth > MAX_NESTING:
            return None, None
        if place.startswith("#"):
            return self._resolve(self._table.get(place, "unknown"), depth + 1)
        found = re.fullmatch(r"callsite\((.+) at (#?\w+|.+)\)", place)
        if found:
            inner, outer = (self._resolve(part, depth + 1) for part in found.groups())
            is_library = inner[1] is None or "/triton/language/" in inner[1]
            return (outer[0], outer[1]) if is_library else inner
        found = re.fullmatch(r'"([^"]*)":(\d+):(\d+)(?: to .*)?', place)
        if found:
            return None, f"{found[1]}:{found[2]}"
        found = re.fullmatch(r'"([^"]*)"(?:\((.*)\))?', place)
        if found:
            return found[1], self._resolve(found[2] or "unknown", depth + 1)[1]
        found = re.fullmatch(r"fused(?:<.*?>)?\[(.*?)[,\]].*", place)
        return self._resolve(found[1], depth + 1) if found else (None, None)


def parse_ttir(text: str, rewrite: Callable[[list[Block]], None] | None = None) -> tuple[Function, ...]:
    """The functions of a module, their blocks rewritten before values get names of their own.

    Raises ParseError, with line and column, for what is not TTIR.
    """
    if len(text) > MAX_TEXT_BYTES:
        raise ParseError(1, 1, f"{len(text)} characters", f"at most {MAX_TEXT_BYTES}")
    table = dict(re.findall(r"^(#loc\d*) = loc\((.*)\)$", text, re.MULTILINE))
    body = re.sub(r"^#\w+ = .*$", "", text, flags=re.MULTILINE)
    functions = _Reader(body, Places(table)).module()
    for function in functions:
        if rewrite is not None:
            rewrite(function.blocks)
        seen: set[str] = set()
        scope = {name: _once(name, seen) for name, _ in function.arguments}
        _unique(function.blocks, scope, seen)
    return functions


def _unique(blocks: list[Block], scope: dict[str, str], seen: set[str]) -> None:
    """Give every value a name of its own: MLIR's names begin again in every region."""
    scope = dict(scope)
    for block in blocks:
        block.arguments = [(scope.get(name, name), kind) for name, kind in block.arguments]
        for operation in block.operations:
            inner = dict(scope)
            bound = _bound_by_loop(operation)
            inner |= {name: _once(name, seen) for name in bound.values()}
            operation.operands = [
                (inner if position in bound else scope).get(name, name)
                for position, name in enumerate(operation.operands)
            ]
            for region in operation.regions:
                _unique_region(region, inner, seen)
            new = [_once(name, seen) for name in operation.results]
            scope |= dict(zip(operation.results, new, strict=True))
            operation.results = new


def _unique_region(region: list[Block], scope: dict[str, str], seen: set[str]) -> None:
    scope = dict(scope)
    for block in region:
        scope |= {name: _once(name, seen) for name, _ in block.arguments}
    _unique(region, scope, seen)


def _bound_by_loop(operation: Operation) -> dict[int, str]:
    """Positions of operands that a loop binds for its region: its counter, and what it carries."""
    if operation.name != "scf.for":
        return {}
    last = 4 + 2 * len(operation.results)
    return {n: operation.operands[n] for n in (0, *range(4, last, 2))}


def _once(name: str, seen: set[str]) -> str:
    unique, number = name, 2
    while unique in seen:
        unique, number = f"{name}~{number}", number + 1
    seen.add(unique)
    return unique


class _Reader:
    """Reads tokens one after another."""

    def __init__(self, text: str, places: Places) -> None:
        self.text = text
        self.places = places
        self.tokens = list(_tokens(text))
        self.position = 0
        self.depth = 0

    def module(self) -> tuple[Function, ...]:
        functions = []
        while self.position < len(self.tokens):
            if self.peek() == "tt.func":
                functions.append(self.function())
            else:
                self.next()
        return tuple(functions)

    def peek(self, ahead: int = 0) -> str:
        at = self.position + ahead
        return self.tokens[at].text if at < len(self.tokens) else ""

    def next(self) -> str:
        if self.position >= len(self.tokens):
            raise self.fail("the end of the text", "more of it")
        self.position += 1
        return self.tokens[self.position - 1].text

    def expect(self, text: str) -> None:
        if self.peek() != text:
            raise self.fail(repr(self.peek()), repr(text))
        self.next()

    def fail(self, found: str, wanted: str) -> ParseError:
        at = self.tokens[min(self.position, len(self.tokens) - 1)].at if self.tokens else 0
        line = self.text.count("\n", 0, at) + 1
        return ParseError(line, at - self.text.rfind("\n", 0, at), found, wanted)

    def function(self) -> Function:
        self.expect("tt.func")
        while not self.peek().startswith("@"):
            self.next()
        name = self.next()[1:]
        arguments = self.arguments()
        while not (self.peek() == "{" and self.is_region()):
            if self.peek() == "{":
                self.balanced()
            else:
                self.next()
        return Function(name, arguments, self.region(), self.places)

    def arguments(self) -> list[tuple[str, Type]]:
        """`(%a: type {attributes} loc(…), …)`."""
        self.expect("(")
        found = []
        while self.peek() != ")":
            name = self.next()
            self.expect(":")
            found.append((name, self.type()))
            while self.peek() not in (",", ")"):
                if self.peek() in OPEN:
                    self.balanced()
                else:
                    self.next()
            if self.peek() == ",":
                self.next()
        self.expect(")")
        return found

    def type(self) -> Type:
        text = self.next()
        if text.startswith("!") and self.peek() == "<":
            text += self.balanced()
        return read_type(text)

    def balanced(self) -> str:
        """Skip a bracketed part; its text."""
        begin, depth = self.position, 0
        while True:
            text = self.next()
            depth += (text in OPEN) - (text in CLOSE)
            if depth == 0:
                return "".join(token.text for token in self.tokens[begin : self.position])

    def region(self) -> list[Block]:
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise self.fail("regions nested too deeply", f"at most {MAX_NESTING}")
        self.expect("{")
        blocks = [Block("", [])]
        while self.peek() != "}":
            if self.peek().startswith("^"):
                label = self.next()
                arguments = self.arguments() if self.peek() == "(" else []
                self.expect(":")
                if blocks[0].operations or blocks[0].label:
                    blocks.append(Block(label, arguments))
                else:
                    blocks = [Block(label, arguments)]
            else:
                blocks[-1].operations.append(self.operation())
        self.expect("}")
        self.depth -= 1
        return blocks

    def operation(self) -> Operation:
        results = []
        if self.peek().startswith("%"):
            while self.peek() != "=":
                results += _results(self.next())
                if self.peek() == ",":
                    self.next()
            self.expect("=")
        name = self.next().strip('"')
        words: list[str] = []
        regions: list[list[Block]] = []
        while self.peek() != "loc" or self.peek(1) != "(":
            if self.peek() in ("}", "") and not words:
                break
            if self.peek() == "{" and self.is_region():
                regions.append(self.region())
            else:
                words.append(self.next())
        place = self.place() if self.peek() == "loc" else ""
        operands = [word for word in words if word.startswith("%")]
        return Operation(name, results, operands, words, _types(words), regions, place)

    def is_region(self) -> bool:
        first, second = self.peek(1), self.peek(2)
        if first == "}":
            return False
        return first.startswith(("%", "^", '"')) or second not in ("=", ",", "}")

    def place(self) -> str:
        self.expect("loc")
        begin = self.tokens[self.position].at
        self.balanced()
        return self.text[begin + 1 : self.tokens[self.position - 1].at]


def _tokens(text: str) -> list[Token]:
    found, at = [], 0
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None:
            line = text.count("\n", 0, at) + 1
            raise ParseError(line, at - text.rfind("\n", 0, at), repr(text[at]), "TTIR")
        end = match.end()
        if match.lastgroup == "word" and text[end : end + 1] == "<" and match[0].lstrip("!").split(".")[0] in (
            *TYPED, "tt", "ttg", "ttng",
        ):  # fmt: skip
            end = _end_of_angle(text, end)
        if match.lastgroup != "space":
            found.append(Token(str(match.lastgroup), text[at:end], at))
        at = end
    return found


def _end_of_angle(text: str, at: int) -> int:
    depth = 0
    for position in range(at, len(text)):
        depth += (text[position] == "<") - (text[position] == ">" and text[position - 1] != "-")
        if depth == 0:
            return position + 1
    return len(text)


def _results(text: str) -> list[str]:
    """`%x:3` names %x#0, %x#1, %x#2."""
    name, _, count = text.partition(":")
    return [f"{name}#{number}" for number in range(int(count))] if count else [name]


def _types(words: list[str]) -> list[Type]:
    """The types of an operation's text, in order."""
    return [read_type(word) for word in words if is_type(word)]


def is_type(word: str) -> bool:
    """Whether a word is a type."""
    return word.startswith(("tensor<", "!tt.ptr", "!tt.tensordesc")) or bool(
        re.fullmatch(r"i\d+|bf16|f\d\w*|index", word)
    )


def read_type(text: str) -> Type:
    """`tensor<128x64x!tt.ptr<f16>>` -> Type((128, 64), "f16", is_pointer=True)."""
    if text.startswith("tensor<"):
        inner = text[len("tensor<") : -1]
        shape = []
        while (found := re.match(r"(\d+)x", inner)) is not None:
            shape.append(int(found[1]))
            inner = inner[found.end() :]
        element = read_type(inner.split(",")[0])
        return Type(tuple(shape), element.element, element.is_pointer)
    if text.startswith("!tt.ptr<"):
        return Type((), text[len("!tt.ptr<") : -1].split(",", maxsplit=1)[0], True)
    return Type((), text)
