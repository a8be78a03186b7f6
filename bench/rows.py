"""A row of results, and the JSON file of rows: what `tilewright bench --json` writes and `compare` reads."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..ir.errors import TilewrightError

__all__ = ["PEAK", "ResultsError", "Row", "Times", "VECTOR_PEAK", "read_rows", "to_json", "write_rows"]

PEAK = "peak"  # the impl of the microbenchmark's own rows
VECTOR_PEAK = "peak-dot"  # that of the vector unit, where another one is faster


class ResultsError(TilewrightError):
    """A file that was given as bench results is not a list of rows."""


@dataclass(frozen=True, slots=True)
class Times:
    """Median and extremes of one implementation's samples, in milliseconds."""

    median_ms: float
    min_ms: float
    max_ms: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Times:
        """From samples in seconds."""
        ms = [1e3 * sample for sample in samples]
        return cls(statistics.median(ms), min(ms), max(ms))


@dataclass(frozen=True, slots=True)
class Row:
    """One implementation on one case. Times, gflops and fraction_of_peak are None where they do not apply.

    shape: B, Hq, Hkv, M, N, D, Dv. gflops counts pairs that no mask removes. fraction_of_peak: of this run's
    microbenchmark. error: why there are no times. extra: measurements of one suite, units in their names.
    """

    suite: str
    case: str
    impl: str
    target: str
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    median_ms: float | None = None
    min_ms: float | None = None
    max_ms: float | None = None
    gflops: float | None = None
    fraction_of_peak: float | None = None
    machine: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    extra: dict[str, float] = field(default_factory=dict)
    command: str = ""
    revision: str | None = None


NAMES = frozenset(field.name for field in fields(Row))
NEEDED = ("suite", "case", "impl", "target")


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as a JSON list, making the folder if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_json(rows) + "\n", encoding="utf-8")


def to_json(rows: Sequence[Row]) -> str:
    """Rows as a JSON list, one field a line."""
    return json.dumps([asdict(row) for row in rows], indent=1)


def read_rows(path: Path) -> list[Row]:
    """Read what write_rows wrote; raises ResultsError naming the file and what is wrong in it."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path}: {error}; wanted a file that `tilewright bench --json` wrote") from error
    if not isinstance(data, list):
        raise ResultsError(f"{path}: got a JSON {type(data).__name__}, wanted a list of rows")
    return [_row(path, number, item) for number, item in enumerate(data)]


def _row(path: Path, number: int, item: object) -> Row:
    if not isinstance(item, dict) or any(not isinstance(item.get(name), str) for name in NEEDED):
        raise ResultsError(f"{path}: item {number} is no row: wanted an object with {', '.join(NEEDED)}")
    known = {name: value for name, value in item.items() if name in NAMES}
    shape = known.get("shape")
    return Row(**known | {"shape": tuple(shape) if shape else None})
