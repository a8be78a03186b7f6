"""Kernel: a callable attention function, with one compiled specialisation per signature and a plan per shape.

A call looks its shapes up in a table of plans; a plan knows the specialisation, the sizes and the output
shapes, so that a repeated call does little more than allocate and launch.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from ..ir.errors import DeviceError, DTypeError, ShapeError, TilewrightError, UnsupportedSpec
from ..ir.program import Program
from ..ir.spec import AttentionSpec
from ..lowering.target import Launch
from .arguments import bind_sizes, check_attention, check_device
from .bounds import check_accesses, index_sources, range_of
from .compiled import Compiled
from .dtypes import to_torch
from .report import Report

__all__ = ["Kernel", "Specialiser"]

MAX_PLANS = 4096
Output = torch.Tensor | tuple[torch.Tensor, torch.Tensor]
Signatures = tuple[object, ...]


class Specialiser(Protocol):
    """Finds or makes the compiled form for checked arguments."""

    def specialise(self, tensors: Sequence[torch.Tensor]) -> Compiled:
        """The form that serves these tensors; UnsupportedSpec, ShapeError or DTypeError if none can."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a call needs besides its tensors. `lse_position` is -1 for kernels without a log-sum-exp.

    checked: for captured tensors whose values are indices, their position and the range of values found in
    bounds.
    """

    launch: Launch
    sizes: dict[str, int]
    outputs: tuple[tuple[tuple[int, ...], torch.dtype], ...]
    lse_position: int
    device: torch.device
    is_empty: bool
    wants_grad: bool
    checked: tuple[tuple[int, float, float], ...]

    def covers(self, tensors: tuple[torch.Tensor, ...]) -> bool:
        """Whether the values that decide where others are read are among those that were checked."""
        for position, low, high in self.checked:
            least, most = range_of(tensors[position])
            if least < low or most > high:
                return False
        return True

    def run(self, tensors: tuple[torch.Tensor, ...], return_lse: bool, out: torch.Tensor | None = None) -> Output:
        """Allocate (all but `out`), launch, return."""
        if self.wants_grad and torch.is_grad_enabled():
            raise UnsupportedSpec(
                "an input requires grad, and this kernel has no backward",
                hint="call it under torch.no_grad(), or pass tensor.detach()",
            )
        outputs = [] if out is None else [self._checked(out)]
        for shape, dtype in self.outputs[len(outputs) :]:
            outputs.append(torch.empty(shape, dtype=dtype, device=self.device))
        if not self.is_empty:
            self.launch((*tensors, *outputs), self.sizes)
        if not return_lse:
            return outputs[0]
        if self.lse_position < 0:
            raise UnsupportedSpec("return_lse=True: this attention has no log-sum-exp (its normaliser is no softmax)")
        return outputs[0], outputs[self.lse_position]

    def _checked(self, out: torch.Tensor) -> torch.Tensor:
        shape, dtype = self.outputs[0]
        if out.shape != shape:
            raise ShapeError(f"out: shape {tuple(out.shape)}; wanted {shape}, [B, Hq, M, Dv]")
        if out.dtype != dtype:
            raise DTypeError(f"out: got {out.dtype}, wanted {dtype} as q has")
        if out.device != self.device:
            raise DeviceError(f"out: on {out.device}, but q is on {self.device}")
        return out


class Kernel:
    """Attention compiled from a function, a spec or a saved directory; call it with torch tensors.

    q [B, Hq, M, D], k [B, Hkv, N, D], v [B, Hkv, N, Dv], captured as the function takes them -> o [B, Hq,
    M, Dv]; with return_lse also lse [B, Hq, M] in float32, the natural logarithm of the row's sum. A row
    that keeps no key gives o = 0 and lse = -inf; so does every row when N = 0 and there is no sink.
    """

    def __init__(self, specialiser: Specialiser, compiled: Compiled | None = None) -> None:
        self._specialiser = specialiser
        self._plans: dict[Signatures, Plan] = {}
        self._compiled = compiled
        self._lock = threading.RLock()

    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        *captured: torch.Tensor,
        return_lse: bool = False,
        out: torch.Tensor | None = None,
    ) -> Output:
        """Run. Raises ShapeError, DTypeError or DeviceError, before anything runs, for a misfit.

        out: memory for o, [B, Hq, M, Dv] of any strides; it is allocated where None is given.
        """
        tensors = (q, k, v, *captured)
        try:
            signatures = tuple([(t.shape, t.dtype, t.device, t.requires_grad) for t in tensors])
        except AttributeError:
            signatures = ()
        plan = self._plans.get(signatures)
        if plan is None or (plan.checked and not plan.covers(tensors)):
            plan = self._plan(tensors, signatures)
        return plan.run(tensors, return_lse, out)

    def prepare(self, *tensors: torch.Tensor) -> None:
        """Compile and build for these arguments without running them."""
        self._specialise(tensors)

    def _specialise(self, tensors: Sequence[torch.Tensor]) -> Compiled:
        check_attention(tensors)
        with self._lock:
            self._compiled = self._specialiser.specialise(tensors)
            return self._compiled

    def _plan(self, tensors: tuple[torch.Tensor, ...], signatures: Signatures) -> Plan:
        """Check the arguments, compile if need be, and remember what to do with such arguments."""
        compiled = self._specialise(tensors)
        check_device(compiled.lowered.target, tensors)
        sizes = {**compiled.fixed, **bind_sizes(compiled.inputs, tensors)}
        checked = _check_reads(compiled, tensors, sizes)
        outputs = compiled.outputs
        names = [param.name for param in outputs]
        plan = Plan(
            launch=compiled.launch(),
            sizes=sizes,
            outputs=tuple((tuple(_extent(d, sizes) for d in p.dims), to_torch(p.dtype)) for p in outputs),
            lse_position=names.index("lse") if "lse" in names else -1,
            device=tensors[0].device,
            is_empty=0 in (sizes["B"], sizes["Hq"], sizes["M"]),
            wants_grad=any(tensor.requires_grad for tensor in tensors),
            checked=checked,
        )
        with self._lock:
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            self._plans[signatures] = plan
        return plan

    @property
    def compiled(self) -> Compiled:
        """The specialisation used or made last; TilewrightError before there is one."""
        if self._compiled is None:
            raise TilewrightError("nothing is compiled yet: call the kernel once, or compile with example=(q, k, v, …)")
        return self._compiled

    @property
    def source(self) -> str:
        """Source text of the specialisation made last."""
        return self.compiled.lowered.source

    @property
    def program(self) -> Program:
        """Its program; str() of it is the text that lowering read."""
        return self.compiled.program

    @property
    def spec(self) -> AttentionSpec | None:
        """What it computes; None for a kernel that was built from program text alone."""
        return self.compiled.spec

    @property
    def report(self) -> Report | None:
        """Its verification report; None when it was compiled with verify=False."""
        return self.compiled.report

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Write source, program.txt, spec.txt and manifest.json; `tilewright.load` reads them back."""
        from .saved import save

        return save(self.compiled, Path(directory))


def _check_reads(
    compiled: Compiled, tensors: tuple[torch.Tensor, ...], sizes: dict[str, int]
) -> tuple[tuple[int, float, float], ...]:
    """Refuse reads outside captured tensors; the tensors to look at again when their values may have changed.

    On a GPU looking again would stop the queue at every call, so values are checked once per shape there.
    """
    names = [spec.name for spec in compiled.inputs]
    check_accesses(compiled.accesses, dict(zip(names, tensors, strict=True)), sizes)
    sources = index_sources(compiled.accesses) if tensors[0].device.type == "cpu" else ()
    return tuple((names.index(name), *range_of(tensors[names.index(name)])) for name in sorted(sources))


def _extent(dim: str | int, sizes: dict[str, int]) -> int:
    return dim if isinstance(dim, int) else sizes[dim]
