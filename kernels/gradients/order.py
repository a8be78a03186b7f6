"""How the additions of a backward are ordered."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Order"]


@dataclass(frozen=True, slots=True)
class Order:
    """How plans are made: the planner's mode or an order's name, for how many workers, and whether it compares some."""

    mode: str = "safe"
    workers: int = 132
    search: bool = False
