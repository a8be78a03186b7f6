"""Domain analysis: which tiles of (row, column) a mask predicate leaves empty, partial or full."""

from .analysis import Decision, decide
from .calls import Question, question_of
from .fold import all_of, any_of, negated
from .linear import is_nonnegative
from .plan import LoopPlan, plan
from .ranges import Columns, Range, column_range
from .summaries import Summary, summarise
from .tiles import TileClass, classify, visited
from .whole import known_in_whole_tiles

__all__ = [
    "Columns", "Decision", "LoopPlan", "Question", "Range", "Summary", "TileClass",
    "all_of", "any_of", "classify", "column_range", "decide", "is_nonnegative", "known_in_whole_tiles", "negated",
    "plan", "question_of", "summarise", "visited",
]  # fmt: skip
