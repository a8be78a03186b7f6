"""What verification found: one row per case, the worst of them, and whether the kernel passed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["CaseResult", "Report"]


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case: the largest absolute error of an output against fp64. `note` says why one was skipped."""

    name: str
    output: str = "o"
    error: float = 0.0
    budget: float = 0.0
    skipped: bool = False
    note: str = ""

    @property
    def passed(self) -> bool:
        """Within budget (NaN is never within budget), or skipped."""
        return self.skipped or self.error <= self.budget

    @property
    def ratio(self) -> float:
        """Error in units of the budget."""
        if self.error <= self.budget:
            return self.error / self.budget if self.budget else 0.0
        return self.error / self.budget if self.budget and self.error == self.error else float("inf")


@dataclass(frozen=True, slots=True)
class Report:
    """The result. `method` says what was run: the built kernel, or the program in the interpreter.

    notes: what else a user should know, such as a plan that was not taken.
    """

    rows: tuple[CaseResult, ...]
    method: str = "built kernel"
    notes: tuple[str, ...] = ()

    @property
    def cases(self) -> int:
        """Cases that were run (skipped ones do not count)."""
        return len({row.name for row in self.rows if not row.skipped})

    @property
    def verified(self) -> bool:
        """At least one case ran and all that ran passed."""
        return self.cases > 0 and all(row.passed for row in self.rows)

    @property
    def worst(self) -> CaseResult:
        """The case closest to (or furthest beyond) its budget."""
        return max(
            (row for row in self.rows if not row.skipped),
            key=lambda row: row.ratio,
            default=CaseResult("none"),
        )

    @property
    def max_error(self) -> float:
        """Error of the worst case."""
        return self.worst.error

    @property
    def error_budget(self) -> float:
        """Budget of the worst case."""
        return self.worst.budget

    def __str__(self) -> str:
        """A summary line, then every failed and skipped case."""
        state = "verified" if self.verified else "NOT verified"
        worst = self.worst
        found = f"{worst.name} {worst.output}: error {worst.error:.3e}, budget {worst.budget:.3e}"
        lines = [f"{state}: {self.cases} cases ({self.method}); worst {found}"]
        for row in self.rows:
            if row.skipped:
                lines.append(f"  skipped {row.name}: {row.note}")
            elif not row.passed:
                found = f"error {row.error:.3e}, budget {row.budget:.3e} {row.note}"
                lines.append(f"  FAILED  {row.name} {row.output}: {found}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def to_json(self) -> dict[str, Any]:
        """Plain data, for manifests and caches."""
        return {"method": self.method, "rows": [asdict(row) for row in self.rows]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Report:
        """The inverse of to_json; TypeError or KeyError for anything else."""
        return cls(tuple(CaseResult(**row) for row in data["rows"]), str(data["method"]))
