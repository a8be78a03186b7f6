"""The program text in a model's answer: one fenced block, or the bare text. Whatever it is, it is only ever parsed."""

from __future__ import annotations

__all__ = ["MAX_ANSWER_CHARS", "program_text"]

MAX_ANSWER_CHARS = 1 << 20
FENCES = ("```", "~~~")
PROGRAM = "@program("
THOUGHTS = (("<think>", "</think>"), ("<thinking>", "</thinking>"))


def program_text(answer: str) -> str | None:
    """The text that an answer offers as a program; None where it offers none, several different ones, or too much.

    Of several fenced blocks those count that begin a program; equal ones count once. Text that is no program is
    returned as it stands where there is no other: the parser says what is wrong with it, and where.
    """
    if len(answer) > MAX_ANSWER_CHARS:
        return None
    answer = _without_thoughts(answer.replace("\r\n", "\n"))
    blocks = [_tidy(block) for block in _blocks(answer.split("\n")) if any(line.strip() for line in block)]
    programs = list(dict.fromkeys(block for block in blocks if block.startswith(PROGRAM)))
    if len(programs) == 1 or len(blocks) == 1:
        return (programs or blocks)[0]
    if blocks:
        return None
    lines = answer.split("\n")
    start = next((number for number, line in enumerate(lines) if line.lstrip().startswith(PROGRAM)), 0)
    return _tidy(lines[start:]) if answer.strip() else None


def _without_thoughts(answer: str) -> str:
    """The answer after a leading block in which a model thinks aloud."""
    start = answer.lstrip()
    for opening, closing in THOUGHTS:
        if start.startswith(opening):
            return start.partition(closing)[2]
    return answer


def _blocks(lines: list[str]) -> list[list[str]]:
    """What stands between fences, which close as they were opened; a fence left open runs to the end."""
    blocks: list[list[str]] = []
    mark = ""
    for line in lines:
        word = line.strip()
        if mark:
            if word.startswith(mark) and not word.strip(mark[0]):
                mark = ""
            else:
                blocks[-1].append(line)
        elif word.startswith(FENCES):
            mark = word[: len(word) - len(word.lstrip(word[0]))]
            blocks.append([])
    return blocks


def _tidy(lines: list[str]) -> str:
    """The lines without a common indent, spaces at their ends, and empty lines around them."""
    lines = [line.expandtabs(4).rstrip() for line in lines]
    indent = min((len(line) - len(line.lstrip()) for line in lines if line), default=0)
    return "\n".join(line[indent:] for line in lines).strip("\n") + "\n"
