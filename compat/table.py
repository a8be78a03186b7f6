"""docs/compat.md from the interfaces' own tables: `python -m tilewright.compat.table [--check]`."""

from __future__ import annotations

import sys
from importlib import import_module
from itertools import groupby
from pathlib import Path

from . import _MODULES
from .arguments import Argument

__all__ = ["DOCUMENT", "arguments", "main", "render"]

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "compat.md"
COMMAND = "python -m tilewright.compat.table"
TITLES = {
    "flash_attn": "flash-attn: `tilewright.compat.flash_attn`",
    "flex_attention": "FlexAttention: `tilewright.compat.flex_attention`",
    "huggingface": "Hugging Face transformers: `tilewright.compat.huggingface`",
}
HEAD = f"""# Drop-in interfaces, argument by argument

Written by `{COMMAND}`; change the tables in `compat/*/arguments.py`, not this file.

**works**: it has the effect, or the absence of one, that its note says. **refused**: it raises an error that names it.
"""


def arguments() -> tuple[Argument, ...]:
    """Every argument of every interface, in the order of the document."""
    found: list[Argument] = []
    for name in _MODULES:
        found += import_module(f"{__package__}.{name}.arguments").ARGUMENTS
    return tuple(found)


def render() -> str:
    """The document."""
    parts = [HEAD]
    for interface, of_interface in groupby(arguments(), lambda row: row.interface):
        parts.append(f"## {TITLES[interface]}\n")
        for function, of_function in groupby(of_interface, lambda row: row.function):
            lines = [f"### {function}\n", "| argument | state | note |", "|---|---|---|"]
            lines += [f"| `{row.name}` | {row.state} | {_escaped(row.note)} |" for row in of_function]
            parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _escaped(note: str) -> str:
    return note.replace("|", "\\|").replace("*", "\\*")


def main(options: list[str]) -> int:
    """Write the document, or with --check only say whether it is as it would be written."""
    if options not in ([], ["--check"]):
        print(f"usage: {COMMAND} [--check]", file=sys.stderr)
        return 2
    text = render()
    if not options:
        DOCUMENT.write_text(text, encoding="utf-8")
        return 0
    is_same = DOCUMENT.is_file() and DOCUMENT.read_text(encoding="utf-8") == text
    if not is_same:
        print(f"{DOCUMENT} is not what the tables say; run {COMMAND}", file=sys.stderr)
    return 0 if is_same else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
