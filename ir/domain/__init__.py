"""Domain analysis: which tiles of (row, column) a mask predicate leaves empty, partial or full."""

from .analysis import Decision, decide
from .plan import LoopPlan, plan
from .ranges import Columns, Range, column_range
from .summaries import Summary, summarise
from .tiles import TileClass, classify, visited

__all__ = [
    "Columns", "Decision", "LoopPlan", "Range", "Summary", "TileClass",
    "classify", "column_range", "decide", "plan", "summarise", "visited",
]  # fmt: skip
