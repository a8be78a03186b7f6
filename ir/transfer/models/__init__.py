"""Transfer by language models: program text is asked for, parsed as data, judged, and asked for again."""

from .engine import AutoEngine, ModelEngine, RulesEngine
from .limits import Limits, Price
from .settings import EngineSettings

__all__ = ["AutoEngine", "EngineSettings", "Limits", "ModelEngine", "Price", "RulesEngine"]
