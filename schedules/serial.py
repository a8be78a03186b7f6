"""Plans as JSON, and back: what is read from a file is data, checked before anything believes it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ..ir.errors import ScheduleError
from .check import check_plan
from .plan import Lists, Plan
from .work import MAX_VISITS, Ints, Work

__all__ = ["FORMAT", "parse_plan", "print_plan"]

FORMAT = "tilewright-plan-1"
NUMBERS = ("heads", "num_q", "num_kv", "workers", "min_resident")
TABLES = ("jobs", "first", "visit", "rank")
MAX_TEXT_BYTES = 1 << 28
MAX_INT = (1 << 31) - 1


def print_plan(plan: Plan) -> str:
    """Canonical JSON: equal plans have equal text."""
    data: dict[str, Any] = {"format": FORMAT, "mode": plan.mode}
    data |= {name: getattr(plan, name) for name in NUMBERS}
    data |= {name: getattr(plan, name).tolist() for name in TABLES}
    data |= {"lists": plan.lists, "sha256": plan.digest()}
    return json.dumps(data, separators=(",", ":"))


def parse_plan(text: str | bytes, work: Work | None = None) -> Plan:
    """The plan of such a text, checked (check.check_plan) against itself and, where given, against the work.

    Raises ScheduleError: not JSON of this format, a number out of bounds, another digest, or a plan that is not right.
    """
    if len(text) > MAX_TEXT_BYTES:
        raise ScheduleError(f"plan of {len(text) >> 20} MiB: wanted at most {MAX_TEXT_BYTES >> 20} MiB")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ScheduleError(f"plan is not JSON: {error}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        got = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise ScheduleError(f"plan of format {got!r}: wanted {FORMAT!r}; plan anew")
    missing = {"mode", "lists", "sha256", *NUMBERS, *TABLES} - set(data)
    if missing:
        raise ScheduleError(f"plan without {', '.join(sorted(missing))}: the file is not complete")
    plan = _plan(data)
    check_plan(plan, work)
    if plan.digest() != data["sha256"]:
        raise ScheduleError(f"plan has digest {plan.digest()}, its text says {data['sha256']}: the file was changed")
    return plan


def _plan(data: dict[str, Any]) -> Plan:
    numbers: dict[str, Any] = {name: _number(name, data[name]) for name in NUMBERS}
    tables: dict[str, Any] = {name: _table(name, data[name]) for name in TABLES}
    if not isinstance(data["mode"], str):
        raise ScheduleError(f"plan's mode {data['mode']!r}: wanted a name")
    return Plan(**numbers, **tables, mode=data["mode"], lists=_lists(data["lists"]))


def _number(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_INT:
        raise ScheduleError(f"plan's {name} {value!r}: wanted a whole number from 0 to {MAX_INT}")
    return value


def _table(name: str, value: object) -> Ints:
    """int32 [n], or [n, 3] of jobs."""
    rows = value if isinstance(value, list) else None
    if rows is not None and name == "jobs":
        flat = [one for row in rows if isinstance(row, list) and len(row) == 3 for one in row]
        rows = flat if len(flat) == 3 * len(rows) else None
    if rows is None or len(rows) > 3 * MAX_VISITS or not all(type(one) is int and 0 <= one <= MAX_INT for one in rows):
        shape = ", three a job" if name == "jobs" else ""
        raise ScheduleError(f"plan's {name}: wanted a list of whole numbers from 0{shape}")
    table = np.array(rows, dtype=np.int32)
    return table.reshape(-1, 3) if name == "jobs" else table


def _lists(value: object) -> Lists | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(one, list) for one in value):
        raise ScheduleError("plan's lists: wanted null, or a list of jobs per worker")
    return tuple(tuple(_number("lists", job) for job in one) for one in value)
