"""Planted errors: every kind must be rejected with a small counter-example, every harmless rewrite accepted.

    python -m tilewright.bench.planted --json out/planted.json

writes a row per kind: its verdict, the sizes of the counter-example, what was told, runs, seconds.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..ir.parser import parse_program
from ..ir.transfer.engine import Verdict
from ..kernels.judging import ProgramJudge
from .planted_kinds import CONTROLS, KINDS, Kind
from .plantings import judge_and_text

__all__ = ["judged", "planted_text", "rows"]


@functools.cache
def judge_of(base: str) -> tuple[ProgramJudge, str]:
    """The base's judge and right text, made once."""
    return judge_and_text(base)


def planted_text(kind: Kind) -> str:
    """The base's program with the edits made. Raises ValueError for an edit that changes nothing."""
    text = judge_of(kind.base)[1]
    if kind.told == "merged":
        return _merged(text, kind)
    for old, new in kind.edits:
        if old not in text:
            raise ValueError(f"{kind.name}: {old!r} is not in the program of {kind.base}")
        text = text.replace(old, new)
    return text


def _merged(text: str, kind: Kind) -> str:
    """The program without its first sweep, and the second one over all tiles."""
    (first, _), (second, merged) = kind.edits
    head, _, rest = text.partition(f"        {first}\n")
    _, _, tail = rest.partition(f"        {second}\n")
    return f"{head}        {merged}\n{tail}"


def judged(kind: Kind) -> Verdict:
    """The verdict on a planted program."""
    judge = judge_of(kind.base)[0]
    return judge.judge(str(parse_program(planted_text(kind))))


def rows(kinds: Sequence[Kind]) -> Iterator[dict[str, Any]]:
    """One row per kind."""
    for kind in kinds:
        verdict = judged(kind)
        found = verdict.counter_example
        yield {
            "kind": kind.name,
            "base": kind.base,
            "is_control": kind in CONTROLS,
            "verdict": verdict.outcome.value,
            "sizes": dict(found.sizes) if found else None,
            "reason": verdict.reason,
            "is_told": kind.told in verdict.reason,
            "signature": list(verdict.signature),
            "seconds": round(verdict.seconds, 3),
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 when every error was rejected and every rewrite accepted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="where the rows go; standard output without it")
    parser.add_argument("--only", default="", help="kinds whose name has this")
    chosen = parser.parse_args(arguments)
    found = []
    for row in rows([kind for kind in (*KINDS, *CONTROLS) if chosen.only in kind.name]):
        found.append(row)
        print(
            f"{row['verdict']:9} {row['kind']} ({row['seconds']:.1f} s): {row['reason']}", file=sys.stderr, flush=True
        )
    text = json.dumps(found, indent=1)
    if chosen.json:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(text + "\n", encoding="utf-8")
    else:
        print(text)
    wrong = [row["kind"] for row in found if (row["verdict"] == "accepted") != row["is_control"]]
    print(f"{len(found)} kinds, {len(wrong)} judged wrongly{': ' if wrong else ''}{', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
