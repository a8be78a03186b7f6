"""Attention on sequences of any length: laid end to end (ragged), or with keys and values in pages of a cache (paged).

A LayoutKernel computes what the dense kernel of the same function computes on each sequence alone, with M and N the
sequence's own lengths. Nothing is padded; a sequence gives the same bits wherever it is in a batch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..ir.errors import ShapeError, UnsupportedSpec, VerificationError
from ..ir.spec import AttentionSpec
from .arguments import Signature, bind_sizes, check_device
from .compiled import Compiled, Stages
from .dtypes import from_torch, to_torch
from .layout_arguments import LAYOUTS, Given
from .layout_forms import compile_layout
from .layout_reads import Reads
from .layout_verification import verify_layout
from .machine import runs_here
from .options import Options
from .plan import bind_launch, refuse_grad
from .specialisers import trace
from .tracing import elsewhere, is_plain
from .verification import Subject

__all__ = ["LayoutKernel"]

MAX_PLANS = 1024
ROUND = 128  # the longest lengths are rounded up so that plans are found again
FEW_ROWS = 16


@dataclass(frozen=True, slots=True)
class Made:
    """A compiled specialisation and what a call of it still has to check."""

    compiled: Compiled
    spec: AttentionSpec
    reads: Reads


class LayoutKernel:
    """Attention of a function or a spec on sequences of any length.

    layout "ragged": kernel(q, k, v, *captured, cu_q=, cu_k=), q [Tq, Hq, D], k [Tk, Hkv, D], v [Tk, Hkv, Dv], cu_q
    and cu_k integers [B + 1] ascending from 0 -> o [Tq, Hq, Dv], lse [Hq, Tq]. Rows behind the last sequence
    give 0 and -inf.

    layout "paged": kernel(q, k, v, *captured, block_table=, lengths=), q [B, M, Hq, D] of any strides, k [slots, page,
    Hkv, D], v [slots, page, Hkv, Dv], block_table integers [B, pages], lengths integers [B] -> o [B, M, Hq, Dv],
    lse [B, Hq, M].

    `what` is a PyTorch function f(q, k, v, *captured) of dense tensors [B, H, length, D], or an AttentionSpec; M and
    N in it are a sequence's own lengths. Captured tensors with a dimension M or N are as large as the longest sequence.
    `max_q` and `max_k`, where given, are refused when a sequence is longer. lse is float32, None where the normaliser
    has none. Every specialisation is verified once, per sequence, against the function in fp64.
    """

    def __init__(
        self,
        what: Callable[..., Any] | AttentionSpec,
        layout: str,
        target: str = "auto",
        *,
        arch: str | None = None,
        verify: bool = True,
    ) -> None:
        if layout not in LAYOUTS:
            raise UnsupportedSpec(f"layout {layout!r}: wanted one of {', '.join(LAYOUTS)}")
        self._what = what
        self._layout = LAYOUTS[layout]
        self._options = Options(target=target, arch=arch, verify=verify)
        self._made: dict[object, list[Made]] = {}
        self._plans: dict[object, Callable[..., None]] = {}
        self._lock = threading.RLock()

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *captured: Tensor,
        out: Tensor | None = None,
        **where: Tensor | int | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Run. `where`: what the layout takes (cu_q, cu_k or block_table, lengths; max_q, max_k).

        Raises ShapeError, DTypeError, DeviceError or OutOfBounds, before any memory is touched, for a misfit.
        """
        given = self._layout.check((q, k, v), captured, where)
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (q, k, v, *captured)):
            refuse_grad()
        made = self._specialise(given)
        compiled, tensors = made.compiled, (*given.attended, *given.captured, *given.tables)
        check_device(compiled.lowered.target, tensors)
        sizes = {**compiled.fixed, **self._sizes(compiled, given, tensors)}
        made.reads.check(given, sizes)
        outputs = self._outputs(compiled, sizes, q.device, out)
        if 0 not in (given.lengths.count, sizes["Hq"], given.lengths.longest_rows):
            self._plan(compiled, (*tensors, *outputs), sizes)((*tensors, *outputs))
        self._layout.finish(given.lengths, outputs)
        return outputs[0], outputs[1] if len(outputs) > 1 else None

    @property
    def compiled(self) -> tuple[Compiled, ...]:
        """The specialisations made so far."""
        return tuple(made.compiled for known in self._made.values() for made in known)

    def _sizes(self, compiled: Compiled, given: Given, tensors: Sequence[Tensor]) -> dict[str, int]:
        """Every size by name: those of tensors, and how long sequences may be."""
        found = {"B": given.lengths.count} | bind_sizes(compiled.inputs, tensors)
        if found["B"] != given.lengths.count:
            raise ShapeError(f"captured tensors are for B={found['B']}; there are {given.lengths.count} sequences")
        for size, longest in (("M", given.lengths.longest_rows), ("N", given.lengths.longest_columns)):
            room = found.setdefault(size, -(-longest // ROUND) * ROUND)
            if room < longest:
                raise ShapeError(f"a captured tensor has {size}={room}, but the longest sequence has {longest}")
        return found

    def _outputs(
        self, compiled: Compiled, sizes: dict[str, int], device: torch.device, out: Tensor | None
    ) -> list[Tensor]:
        outputs = [compiled.empty(p, sizes, device) for p in compiled.outputs[1 if out is not None else 0 :]]
        if out is None:
            return outputs
        shape = tuple(d if isinstance(d, int) else sizes[d] for d in compiled.outputs[0].dims)
        if out.shape != shape or out.dtype != to_torch(compiled.outputs[0].dtype) or out.device != device:
            found = f"{out.dtype} {tuple(out.shape)} on {out.device}"
            raise ShapeError(f"out: {found}; wanted {shape}, of q's type and device")
        return [out, *outputs]

    def _plan(self, compiled: Compiled, tensors: Sequence[Tensor], sizes: dict[str, int]) -> Callable[..., None]:
        """A launch for tensors that lie like these."""
        key = (id(compiled), sizes["M"], sizes["N"], tuple([(t.shape, t.stride()) for t in tensors]))
        plan = self._plans.get(key)
        if plan is None:
            plan = bind_launch(compiled.launch(), tensors, sizes, len(tensors))
            with self._lock:
                if len(self._plans) >= MAX_PLANS:
                    self._plans.clear()
                self._plans[key] = plan
        return plan

    def _specialise(self, given: Given) -> Made:
        """The compiled form that serves these tensors: lifted, lowered, built and verified when it is new."""
        target = self._options.resolve_target(given.attended[0].device.type)
        few = self._layout.is_paged and given.lengths.longest_rows <= FEW_ROWS
        key = _signature(given), target, few
        for made in self._made.get(key, ()):
            if given.lengths.allowed_by(made.spec, given.heads):
                return made
        with self._lock:
            made = self._make(given, target, few) if is_plain() else elsewhere(lambda: self._make(given, target, few))
            self._made.setdefault(key, []).append(made)
        return made

    def _make(self, given: Given, target: str, few: bool) -> Made:
        stages, example = Stages(), given.example()
        if isinstance(self._what, AttentionSpec):
            subject = Subject(self._what, None, example)
            bind_sizes(self._what.tensors, example)
        else:
            subject = trace(self._what, example, stages)
        spec = subject.spec
        given.fits(spec)
        compiled = compile_layout(spec, self._layout.form, target, self._options.arch, few, stages)
        if self._options.verify and runs_here(target):
            compiled.report = verify_layout(compiled, subject, self._layout, few)
            if not compiled.report.verified:
                raise VerificationError(f"{spec.name}, {self._layout.name}, for {target}: {compiled.report}")
        return Made(compiled, spec, Reads(spec))


def _signature(given: Given) -> Signature:
    q, k, v = given.attended
    captured = tuple(
        (from_torch(f"captured[{n}]", tensor.dtype), tuple(size == 1 for size in tensor.shape))
        for n, tensor in enumerate(given.captured)
    )
    return Signature(from_torch("q", q.dtype), q.shape[-1], v.shape[-1], q.shape[-2] // k.shape[-2], captured)
