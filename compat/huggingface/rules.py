"""Which of transformers' mask functions do not depend on where counting starts, so that sizes alone align them.

A causal or windowed rule says the same when rows and keys are counted from another origin. Rows that end where
the keys end then need no offset: row i is at i + N - M, for the prompt and for every token after it, and one kernel
serves both. A chunked rule becomes one of them when its captured left padding is counted from the new origin.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from types import CodeType, ModuleType
from typing import Any

from ...ir.errors import MissingExtra

__all__ = ["Alignment", "Rule", "rule_of"]

MaskFunction = Callable[..., Any]


class Alignment(Enum):
    """Where the rows stand among the keys."""

    START = "start"  # row i is at position i, key j at position j
    END = "end"  # the last row is at the last key's position: sizes say it all
    OFFSET = "offset"  # both start somewhere: two captured integers


@dataclass(frozen=True, slots=True)
class Rule:
    """A mask function (None: every key), how its positions are counted, and how many keys can be seen at all."""

    function: MaskFunction | None
    alignment: Alignment
    columns: int


@dataclass(frozen=True, slots=True)
class Known:
    """Code objects of transformers' mask functions, as this version has them."""

    both: CodeType
    causal: CodeType
    everything: CodeType
    windows: frozenset[CodeType]
    chunk: CodeType


def rule_of(function: MaskFunction | None, q_offset: int, kv_offset: int, rows: int, columns: int) -> Rule:
    """How to count rows and keys, for a function of absolute positions and transformers' offsets and lengths."""
    known = _known()
    leaves = [leaf.__code__ for leaf in _leaves(function, known)] if function is not None else [known.causal]
    function = function or _masking().causal_mask_function
    if all(code is known.everything for code in leaves):
        return Rule(None, Alignment.START, columns)
    end = q_offset + rows - kv_offset  # keys from here on are after every row
    movable = {known.causal, known.everything, known.chunk, *known.windows}
    if known.causal in leaves and movable.issuperset(leaves) and end <= columns:
        return Rule(_counted_from(function, kv_offset, known), Alignment.END, end)
    if q_offset == kv_offset == 0:
        return Rule(function, Alignment.START, columns)
    return Rule(function, Alignment.OFFSET, columns)


def _leaves(function: MaskFunction, known: Known) -> Iterator[Any]:
    """The functions of which all must hold; a function of another kind stands for itself."""
    if getattr(function, "__code__", None) is not known.both:
        yield function if hasattr(function, "__code__") else _opaque
        return
    for part in _cell(function, "mask_functions"):
        yield from _leaves(part, known)


def _opaque() -> None:
    """Stands for a callable that cannot be looked into."""


def _counted_from(function: MaskFunction, origin: int, known: Known) -> MaskFunction:
    """The same rule for positions counted from `origin`: only a chunk's left padding has a position in it."""
    if origin == 0 or known.chunk not in {leaf.__code__ for leaf in _leaves(function, known)}:
        return function
    masking = _masking()
    if getattr(function, "__code__", None) is known.both:
        parts = [_counted_from(part, origin, known) for part in _cell(function, "mask_functions")]
        combined: MaskFunction = masking.and_masks(*parts)
        return combined
    size, padding = _cell(function, "chunk_size"), _cell(function, "left_padding")
    moved: MaskFunction = masking.chunked_overlay(size, padding - origin)
    return moved


def _cell(function: Any, name: str) -> Any:
    """The value of a variable that a function closes over."""
    return function.__closure__[function.__code__.co_freevars.index(name)].cell_contents


@functools.cache
def _known() -> Known:
    masking = _masking()
    both_ways = getattr(masking, "sliding_window_bidirectional_overlay", None)
    windows = {masking.sliding_window_overlay(1).__code__, *([both_ways(1).__code__] if both_ways else [])}
    causal, everything = masking.causal_mask_function, masking.bidirectional_mask_function
    return Known(
        both=masking.and_masks(causal).__code__,
        causal=causal.__code__,
        everything=everything.__code__,
        windows=frozenset(windows),
        chunk=masking.chunked_overlay(1, None).__code__,
    )


def _masking() -> ModuleType:
    try:
        from transformers import masking_utils
    except ImportError as error:
        raise MissingExtra("hf", "attn_implementation='tilewright'") from error
    module: ModuleType = masking_utils
    return module
