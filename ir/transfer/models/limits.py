"""What a transfer may cost: seconds, requests, tokens and money. Plain data; `budget.py` enforces it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from ...errors import SettingError

__all__ = ["Limits", "Price", "Usage"]

PER_TOKENS = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """What a model's tokens cost, per million, in any one currency."""

    prompt: float
    completion: float

    def __post_init__(self) -> None:
        """Refuse negative and infinite prices."""
        for name, value in (("prompt", self.prompt), ("completion", self.completion)):
            if not (type(value) in (int, float) and math.isfinite(value) and value >= 0):
                raise SettingError(
                    f"price of {name} tokens: {value!r}; wanted a number of at least 0 per million tokens"
                )

    def of(self, usage: Usage) -> float:
        """The money that tokens cost."""
        return (usage.prompt_tokens * self.prompt + usage.completion_tokens * self.completion) / PER_TOKENS


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """The most a transfer may cost; None: no limit. seconds: of each run; all else: of a transcript's runs together.

    money needs a price for every model that is asked.
    """

    seconds: float = 600.0
    requests: int | None = 64
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    money: float | None = None

    def __post_init__(self) -> None:
        """Refuse limits that are negative or no numbers."""
        for field in fields(self):
            value = getattr(self, field.name)
            is_number = type(value) in (int, float) and math.isfinite(value) and value >= 0
            if not is_number and (value is not None or field.name == "seconds"):
                raise SettingError(f"limit {field.name}={value!r}: wanted a number of at least 0")
