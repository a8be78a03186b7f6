"""Layout of generated text: what is too long for a line goes on several, broken where a person would break it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

MAX_WIDTH = 92  # without the indentation of the block
OPEN, CLOSE = "([{", ")]}"


def wrapped(items: Sequence[str]) -> list[str]:
    """Items with commas, over as many lines as they need."""
    lines: list[str] = []
    for item in items:
        if lines and len(lines[-1]) + len(item) + 2 <= MAX_WIDTH:
            lines[-1] += f" {item},"
        else:
            lines.append(f"{item},")
    return lines


def call_lines(head: str, terms: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """`head(term + term + …, argument, …)`: on one line, or the sum and every argument on lines of their own."""
    single = f"{head}({', '.join([' + '.join(terms), *arguments])})"
    if len(single) <= MAX_WIDTH:
        return [single]
    return [f"{head}(", *_indented([*_sum_lines(terms), *(f"{argument}," for argument in arguments)]), ")"]


def sum_lines(prefix: str, terms: Sequence[str]) -> list[str]:
    """`prefix term + term + …`, over as many lines as it needs."""
    single = f"{prefix}{' + '.join(terms)}"
    if len(single) <= MAX_WIDTH:
        return [single]
    return [f"{prefix}(", *_indented(_sum(terms)), ")"]


def _sum_lines(terms: Sequence[str]) -> list[str]:
    lines = _sum(terms)
    lines[-1] += ","
    return lines


def _sum(terms: Sequence[str]) -> list[str]:
    lines = [terms[0]]
    for term in terms[1:]:
        if len(lines[-1]) + len(term) + 3 <= MAX_WIDTH - 4:
            lines[-1] += f" + {term}"
        else:
            lines.append(f"+ {term}")
    return lines


def statement_lines(prefix: str, text: str, suffix: str = "") -> list[str]:
    """`prefix text suffix`; a long call has its arguments, a long condition its parts, on lines of their own."""
    single = f"{prefix}{text}{suffix}"
    if len(single) <= MAX_WIDTH:
        return [single]
    head, _, rest = text.partition("(")
    if text.endswith(")") and head.replace(".", "").isidentifier() and _closes_last(text):
        arguments = list(_split(rest[:-1], ", "))
        return [f"{prefix}{head}(", *_indented([f"{argument}," for argument in arguments]), f"){suffix}"]
    for sign in (" | ", " & "):
        parts = list(_split(text, sign))
        if len(parts) > 1:
            lines = [parts[0], *(f"{sign.strip()} {part}" for part in parts[1:])]
            return [f"{prefix}(", *_indented(lines), f"){suffix}"]
    return [single]


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _closes_last(text: str) -> bool:
    """Whether the first bracket that opens closes at the very end."""
    depth = 0
    for place, char in enumerate(text):
        depth += (char in OPEN) - (char in CLOSE)
        if char in CLOSE and depth == 0:
            return place == len(text) - 1
    return False


def _split(text: str, separator: str) -> Iterator[str]:
    """Parts between separators outside all brackets."""
    depth = start = 0
    for place, char in enumerate(text):
        depth += (char in OPEN) - (char in CLOSE)
        if depth == 0 and text.startswith(separator, place):
            yield text[start:place]
            start = place + len(separator)
    yield text[start:]
