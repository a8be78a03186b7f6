"""What a user may say of models: which, where, how often, and what it may cost."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ...errors import SettingError
from ...settings import settings
from ..consensus_decision import Thresholds
from .keys import OPENAI_URL, check_url
from .limits import Limits, Price
from .retries import Patience

__all__ = ["EngineSettings"]

MOST_MODELS = 64
COUNTS = ("samples", "rounds", "max_tokens", "concurrency")
INNER = {name: [one.name for one in fields(kind)] for name, kind in (("limits", Limits), ("patience", Patience))}


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """models: names that the server at `base_url` knows. samples: of each model, at most. rounds: answers of one
    dialogue, the first included. temperature None: the server's own.

    seed: decides all seeds. max_tokens: of one answer. concurrency: requests under way at once. transcript: a file;
    one that exists already is taken up where it ends. folder: where answers are remembered, and transcripts that were
    not named; None: answers are not remembered, and only a named transcript is written. has_memory: whether answers are
    remembered.
    """

    models: tuple[str, ...] = ()
    base_url: str = OPENAI_URL
    samples: int = 4
    rounds: int = 4
    temperature: float | None = None
    seed: int = 0
    max_tokens: int = 8192
    concurrency: int = 8
    is_streaming: bool = True
    limits: Limits = field(default_factory=Limits)
    prices: Mapping[str, Price] = field(default_factory=dict)
    patience: Patience = field(default_factory=Patience)
    thresholds: Thresholds = field(default_factory=Thresholds)
    transcript: Path | None = None
    folder: Path | None = None
    has_memory: bool = True

    def __post_init__(self) -> None:
        """Refuse what no run can be made of."""
        check_url(self.base_url)
        if len(self.models) > MOST_MODELS or len(set(self.models)) != len(self.models):
            raise SettingError(f"models {', '.join(self.models)}: wanted at most {MOST_MODELS} different names")
        wrong = [model for model in self.models if not model or not model.isprintable()]
        if wrong:
            raise SettingError(f"model {wrong[0]!r}: wanted a printable name")
        for name in COUNTS:
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise SettingError(f"{name}={value!r}: wanted an integer of at least 1")
        if self.temperature is not None and not 0 <= self.temperature <= 2:
            raise SettingError(f"temperature={self.temperature!r}: wanted a number from 0 to 2")

    @classmethod
    def of(cls, options: Mapping[str, Any] | None = None) -> EngineSettings:
        """Settings from options by name, and from the environment where those say nothing (see ir/settings.py).

        The fields of limits and patience may stand among the options by their own names: seconds, requests, money, …,
        tries, timeout_s; a price as (prompt, completion). Raises SettingError for a name that is no setting.
        """
        given = {name: value for name, value in (options or {}).items() if value is not None}
        inner = {name: {one: given.pop(one) for one in names if one in given} for name, names in INNER.items()}
        known = [one.name for one in fields(cls)]
        unknown = sorted(set(given) - set(known))
        if unknown:
            names = ", ".join([*known, *(one for names in INNER.values() for one in names)])
            raise SettingError(f"engine option {unknown[0]!r}: wanted one of {names}")
        asked = {**_from_environment(), **given}
        asked["models"] = (asked["models"],) if isinstance(asked["models"], str) else tuple(asked["models"])
        for name in ("transcript", "folder"):
            asked[name] = Path(asked[name]) if asked.get(name) else None
        asked["prices"] = {model: _price(model, price) for model, price in dict(asked.get("prices", {})).items()}
        made = cls(**asked)
        changed = {name: replace(getattr(made, name), **values) for name, values in inner.items() if values}
        return replace(made, **changed)


def _price(model: str, given: object) -> Price:
    if isinstance(given, Price):
        return given
    if isinstance(given, (tuple, list)) and len(given) == 2:
        return Price(*given)
    raise SettingError(f"price of {model}: {given!r}; wanted (prompt, completion), per million tokens")


def _from_environment() -> dict[str, Any]:
    """What the environment says of models; a private folder below the cache for what is kept."""
    known = settings()
    return {
        "models": known.models,
        "base_url": known.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL,
        "folder": known.cache / "models",
    }
