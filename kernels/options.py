"""How to compile: the choices a caller makes, checked once, and the refusals for what is not there yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..ir.errors import SettingError, UnsupportedSpec
from .gradients.order import Order

if TYPE_CHECKING:
    from ..ir.program import Program
    from ..ir.transfer.models import EngineSettings

__all__ = ["Options"]

NOT_YET = {
    "cuda": "target 'cuda' is not available in this release; on NVIDIA GPUs use target='triton'",
}
TARGETS = ("auto", "cpu", "triton")
ENGINES = ("rules", "llm", "auto")
PLANS = ("safe", "greedy", "ascending")


@dataclass(frozen=True, slots=True)
class Options:
    """target: auto, cpu or triton. arch: the target's, None for this machine's. verify: check when built.

    backward: calls may be differentiated. deterministic: gradients have the same bits in every run (the forward always
    has); `torch.use_deterministic_algorithms(True)` asks for that as well. A string is an order: the planner's "safe"
    runs on any number of workers, "greedy" is closer to the bound and gives way to "safe" where too few run at once;
    "ascending" adds by position, so that rows behind a sequence change nothing, and waits more on many workers.

    engine: rules, llm (language models write the program) or auto (llm for what the rules refuse). engine_settings: of
    llm and auto. reference: the expert's program to start from, with its own tiles; None: ours, with tiles that suit
    the target. source: an expert's kernel in another language instead (CUDA C++), which only models read.
    """

    target: str = "auto"
    arch: str | None = None
    backward: bool = False
    deterministic: bool | str = False
    engine: str = "rules"
    verify: bool = True
    engine_settings: EngineSettings | None = None
    reference: Program | None = None
    source: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be compiled."""
        if self.target in NOT_YET:
            raise UnsupportedSpec(NOT_YET[self.target])
        if self.target not in TARGETS:
            raise UnsupportedSpec(f"target {self.target!r}: wanted one of {', '.join(TARGETS)}")
        if isinstance(self.deterministic, str) and self.deterministic not in PLANS:
            wanted = f"True, False, {', '.join(PLANS[:-1])} or {PLANS[-1]}"
            raise UnsupportedSpec(f"deterministic={self.deterministic!r}: wanted {wanted}")
        if self.engine not in ENGINES:
            raise UnsupportedSpec(f"engine {self.engine!r}: wanted one of {', '.join(ENGINES)}")
        if self.engine != "rules" and self.engine_settings is None:
            raise SettingError(f"engine {self.engine!r} needs engine_settings")

    @property
    def order(self) -> Order:
        """The plans of a backward whose additions are in order."""
        return Order(self.deterministic) if isinstance(self.deterministic, str) else Order()

    def resolve_target(self, device_type: str) -> str:
        """The target for tensors on a device: `auto` is triton for tensors on a GPU, else cpu."""
        if self.target != "auto":
            return self.target
        return "triton" if device_type == "cuda" else "cpu"
