"""One specialisation of a kernel: spec, program, source, and the function that launches it, in that order.

`compile_spec` is the pipeline from WHAT to source; nothing is built until a launch is asked for, so source
can be made on machines without a compiler or a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch

from ..ir.expr import Expr, substitute, var
from ..ir.program import Param, Program, Region
from ..ir.spec import MASK_PARAMETERS, SCORE_PARAMETERS, AttentionSpec, TensorSpec
from ..lowering import TARGETS
from ..lowering.target import Launch, Lowered
from ..schedules.tuning import DENSE, choose
from .bounds import Access, accesses
from .dtypes import to_torch
from .references import reference_program
from .report import Report

__all__ = ["Compiled", "Stages", "compile_spec", "lower_program"]

Observer = Callable[[str], None]


@dataclass(slots=True)
class Stages:
    """Seconds per stage, and an observer told of each stage as it begins."""

    seconds: dict[str, float] = field(default_factory=dict)
    observer: Observer | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage; repeated stages add up."""
        if self.observer is not None:
            self.observer(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass
class Compiled:
    """A program lowered for one target. `spec` is None for a program that came as text alone.

    gradient: the backward of the same spec, where it was asked for; is_ordered: whether its bits are always the same.
    """

    program: Program
    lowered: Lowered
    spec: AttentionSpec | None = None
    report: Report | None = None
    stages: Stages = field(default_factory=Stages)
    gradient: Compiled | None = None
    is_ordered: bool = False
    _launch: Launch | None = None

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The tensors a caller passes, in the program's order: q, k, v, captured."""
        return tuple(TensorSpec(p.name, p.dtype, p.dims) for p in self.program.params if not p.is_output)

    @property
    def outputs(self) -> tuple[Param, ...]:
        """The tensors the program writes: o, and lse where the normaliser has one."""
        return tuple(p for p in self.program.params if p.is_output)

    @property
    def fixed(self) -> dict[str, int]:
        """Sizes this kernel was made for: D and Dv."""
        return self.program.fixed

    @cached_property
    def accesses(self) -> tuple[Access, ...]:
        """Where the captured tensors are read, for the check of a call's sizes."""
        roots = [_with_usual_names(region) for region in self.program.regions]
        if self.spec is not None and self.spec.normaliser.sink is not None:
            roots.append(self.spec.normaliser.sink)
        return tuple(accesses(roots))

    def launch(self) -> Launch:
        """The launchable kernel, built at the first call; BuildError or ToolchainMissing when that fails."""
        if self._launch is None:
            with self.stages.stage("build"):
                self._launch = TARGETS[self.lowered.target].load(self.lowered, self.program)
        return self._launch

    def use(self, launch: Launch | None) -> None:
        """Launch this way, with nothing to build; None leaves it to `launch`."""
        self._launch = launch

    def run(self, tensors: Sequence[torch.Tensor], sizes: dict[str, int], **options: int) -> dict[str, torch.Tensor]:
        """Allocate the outputs, launch, and return them by name. options: of programs that add in order."""
        outputs = {p.name: self.empty(p, sizes, tensors[0].device) for p in self.outputs}
        named = dict(zip((spec.name for spec in self.inputs), tensors, strict=True)) | outputs
        self.launch()([named[p.name] for p in self.program.params], sizes, **options)
        return outputs

    def empty(self, param: Param, sizes: dict[str, int], device: torch.device) -> torch.Tensor:
        """Memory for one output."""
        shape = [dim if isinstance(dim, int) else sizes[dim] for dim in param.dims]
        return torch.empty(shape, dtype=to_torch(param.dtype), device=device)


def _with_usual_names(region: Region) -> Expr:
    """A region's body over b, h, i, j, however its text names them."""
    names = SCORE_PARAMETERS if len(region.params) == len(SCORE_PARAMETERS) else MASK_PARAMETERS
    pairs = zip(region.params, names, strict=False)
    return substitute(region.body, {param.name: var(name, param.kind) for param, name in pairs})


def compile_spec(
    spec: AttentionSpec,
    target: str,
    arch: str | None = None,
    stages: Stages | None = None,
    form: str = DENSE,
    reference: Program | None = None,
) -> Compiled:
    """Spec -> program -> source, for one target, after the expert program named `form`. Nothing is built yet.

    reference: an expert's program instead, whose tiles are kept.
    Raises LoweringError when the target cannot express the spec (head dimension too large, …), ScheduleError for a
    reference that is not understood.
    """
    from ..ir.transfer import transfer

    stages = stages or Stages()
    arch = arch or TARGETS[target].default_arch()
    with stages.stage("transfer"):
        if reference is None:
            program = transfer(reference_program(form), spec, choose(spec, target, arch, form))
        else:
            program = transfer(reference, spec)
    return lower_program(program, target, arch, spec=spec, stages=stages)


def lower_program(
    program: Program,
    target: str,
    arch: str | None = None,
    *,
    spec: AttentionSpec | None = None,
    stages: Stages | None = None,
) -> Compiled:
    """Program -> source, for one target.

    Raises ProgramError for an invalid program, LoweringError for one that the target cannot express.
    """
    from ..ir.verify import verify

    stages = stages or Stages()
    with stages.stage("lower"):
        verify(program)
        lowered = TARGETS[target].lower(program, arch or TARGETS[target].default_arch())
    return Compiled(program, lowered, spec, stages=stages)
