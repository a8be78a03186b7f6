"""Kernel: a callable attention function, with one compiled specialisation per signature and a plan per layout.

A call looks its shapes and strides up in a table of plans; a plan has all the rest, so that a repeated call does
little more than allocate and launch. A call that torch records or transforms goes through one operator instead;
see torch_ops.py.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, Protocol

import torch

from ..ir.errors import TilewrightError, UnsupportedSpec
from ..ir.gradient import differentiate
from ..ir.program import Program
from ..ir.spec import AttentionSpec
from .arguments import check_attention
from .compiled import Compiled
from .gradients.gradient import Known, compile_backward
from .gradients.gradients import Gradients
from .options import Options
from .plan import Output, Plan, Tensors, make_plan, refuse_grad
from .report import Report
from .torch_ops import Described, Runner, call_through_op, content_key_of, is_recorded, is_watched, kept_at, local_key
from .tracing import (
    autocast,
    describe,
    elsewhere,
    example_of,
    fold,
    is_only_differentiated,
    is_plain,
    needs_op,
    unwrapped,
)  # fmt: skip

__all__ = ["Kernel", "Specialiser"]

MAX_PLANS = 4096
WITH_ANY_LSE = 2  # of the operator's `sizes`: an lse for the backward, zeros where there is none


class Specialiser(Protocol):
    """Finds or makes the compiled form for checked arguments."""

    def specialise(self, tensors: Sequence[torch.Tensor]) -> Compiled:
        """The form that serves these tensors; UnsupportedSpec, ShapeError or DTypeError if none can."""

    def gradients(self, tensors: Sequence[torch.Tensor]) -> Gradients:
        """What differentiates that form."""


class Kernel(Runner):
    """Attention compiled from a function, a spec or a saved directory; call it with torch tensors.

    q [B, Hq, M, D], k [B, Hkv, N, D], v [B, Hkv, N, Dv], captured as the function takes them -> o [B, Hq,
    M, Dv]; with return_lse also lse [B, Hq, M] in float32, the natural logarithm of the row's sum. A row
    that keeps no key gives o = 0 and lse = -inf; so does every row when N = 0 and there is no sink.

    Several threads may call one kernel at once. Under autocast q, k and v are cast as
    scaled_dot_product_attention casts its own.
    """

    def __init__(
        self, specialiser: Specialiser, compiled: Compiled | None = None, options: Options | None = None
    ) -> None:
        self._options = options or Options()
        self.is_differentiable = self._options.backward
        self._specialiser = specialiser
        self._gradients: dict[object, Gradients] = {}
        self._plans: dict[object, Plan] = {}
        self._compiled = compiled
        self._lock = threading.RLock()
        self._is_fixed = compiled is not None
        self.key = local_key() if compiled is None else content_key_of(compiled)

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
        return self._watched(tensors, return_lse, out) if is_watched() else self._direct(tensors, return_lse, out)

    def _direct(self, tensors: Tensors, return_lse: bool, out: torch.Tensor | None) -> Output:
        if self.is_differentiable and wants_gradient(tensors) and not needs_op(tensors):
            return self._differentiable(tensors, return_lse, out)
        return self._planned(tensors, return_lse, out)

    def _differentiable(self, tensors: Tensors, return_lse: bool, out: torch.Tensor | None) -> Output:
        """A call that is a node of the autograd graph."""
        from .gradients.function import attend

        if out is not None:
            raise UnsupportedSpec("out= with a tensor that requires grad", hint="leave out= away, or detach the inputs")
        gradients = self.gradients_for(tensors)
        if return_lse and not gradients.has_lse:
            raise UnsupportedSpec("return_lse=True: this attention has no log-sum-exp (its normaliser is no softmax)")
        outputs = attend(lambda given, with_lse: self._planned(tuple(given), with_lse, None), gradients, tensors)
        return (outputs[0], outputs[1]) if return_lse else outputs[0]

    def gradients_for(self, tensors: Tensors) -> Gradients:
        """What differentiates the form for these tensors, its backward not compiled yet."""
        key = _layout(tensors, False, None)
        found = self._gradients.get(key)
        if found is None:
            check_attention(tensors)
            make = self._specialiser.gradients
            with self._lock:
                plain = [unwrapped(tensor).detach() for tensor in tensors]
                found = make(plain) if is_plain() else elsewhere(lambda: make(plain))
                if len(self._gradients) >= MAX_PLANS:
                    self._gradients.clear()
                self._gradients[key] = found
        return found

    def _planned(self, tensors: Tensors, return_lse: bool, out: torch.Tensor | None) -> Output:
        plan = self._plans.get(_layout(tensors, return_lse, out))
        if plan is None or (plan.checked and not plan.covers(tensors)):
            if needs_op(tensors):
                return self._through_op(tensors, return_lse, out)
            plan = self._new_plan(tensors, return_lse, out)
        return plan(tensors, out)

    def _new_plan(self, tensors: Tensors, return_lse: bool, out: torch.Tensor | None) -> Plan:
        """Check the arguments, compile if need be, and remember what to do with such arguments."""
        plan = make_plan(self._specialise(tensors), tensors, return_lse, out)
        with self._lock:
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            self._plans[_layout(tensors, return_lse, out)] = plan
        return plan

    def _watched(self, tensors: Tensors, return_lse: bool, out: torch.Tensor | None) -> Output:
        """A call that torch records or transforms, or whose tensors autocast wants in another type."""
        tensors = autocast(tensors)
        if self.is_differentiable and is_only_differentiated() and wants_gradient(tensors):
            return self._differentiable(tensors, return_lse, out)
        if is_recorded():
            return self._through_op(tensors, return_lse, out)
        return self._direct(tensors, return_lse, out)

    def _through_op(self, tensors: Tensors, return_lse: bool, out: torch.Tensor | None) -> Output:
        runner, wanted = self, int(return_lse)
        if wants_gradient(tensors):
            if self.is_differentiable:
                wanted = WITH_ANY_LSE
            elif not torch.compiler.is_dynamo_compiling():
                refuse_grad()
        if not torch.compiler.is_dynamo_compiling() and torch.compiler.is_exporting():
            runner = self._exported(tensors)
        outputs = call_through_op(runner, tensors, (wanted,))
        o = outputs[0] if out is None else out.copy_(outputs[0])
        return (o, outputs[1]) if return_lse else o

    def _exported(self, tensors: Tensors) -> Kernel:
        """The kernel for these tensors under a key that other processes know, and a copy of it in the cache."""
        from .saved import save
        from .specialisers import FixedSpecialiser

        if self._is_fixed:
            return self
        examples = [example_of(tensor) for tensor in tensors]
        compiled = elsewhere(lambda: self._specialise([make() for make in examples]))
        kernel = Kernel(FixedSpecialiser(compiled), compiled)
        save(compiled, kept_at(kernel.key))
        return kernel

    def describe(self, tensors: Sequence[torch.Tensor], sizes: Sequence[int]) -> Described:
        """For the operator: o, and lse where `sizes` is not (0,)."""
        return describe(tensors, bool(sizes[0]))

    def run(self, tensors: Sequence[torch.Tensor], sizes: Sequence[int]) -> list[torch.Tensor]:
        """For the operator: the outputs that `describe` promises."""
        plain = tuple(tensor.as_subclass(torch.Tensor) for tensor in tensors)
        with torch.no_grad():
            has_lse = bool(sizes[0])
            if sizes[0] == WITH_ANY_LSE:
                has_lse = self.gradients_for(plain).has_lse
            result = self._planned(plain, has_lse, None)
            outputs = [result] if isinstance(result, torch.Tensor) else list(result)
            if sizes[0] == WITH_ANY_LSE and not has_lse:
                outputs.append(plain[0].new_zeros(plain[0].shape[:3], dtype=torch.float32))
        return outputs

    def check_gradient(self) -> None:
        """For the operator: refuse to be differentiated, where the kernel was not compiled for it."""
        if not self.is_differentiable:
            refuse_grad()

    def differentiate(
        self, tensors: Sequence[torch.Tensor], known: Sequence[torch.Tensor], wanted: Sequence[bool]
    ) -> list[torch.Tensor]:
        """For the operator: the gradients that are wanted. known: o, lse, and their gradients."""
        plain = tuple(tensor.as_subclass(torch.Tensor) for tensor in tensors)
        with torch.no_grad():
            gradients = self.gradients_for(plain)
            gradients.prepare(wanted)
            o, lse, d_o, d_lse = known
            has_lse = gradients.has_lse
            asked = Known(o, lse if has_lse else None, d_o, d_lse if has_lse else None)
            found = gradients.run(plain, asked, wanted)
        return [gradient for gradient in found if gradient is not None]

    def fold(self, count: int, tensors: Sequence[torch.Tensor], dims: Sequence[int | None]) -> list[torch.Tensor]:
        """For the operator: vmap's dimension goes into B."""
        examples = [example_of(tensor, dim) for tensor, dim in zip(tensors, dims, strict=True)]
        compiled = elsewhere(lambda: self._specialise([make() for make in examples]))
        return fold(compiled.spec, count, tensors, dims)

    def prepare(self, *tensors: torch.Tensor) -> None:
        """Compile and build for these arguments without running them."""
        self._specialise(tensors)

    def _specialise(self, tensors: Sequence[torch.Tensor]) -> Compiled:
        check_attention(tensors)
        specialise = self._specialiser.specialise
        with self._lock:
            self._compiled = specialise(tensors) if is_plain() else elsewhere(lambda: specialise(tensors))
            return self._compiled

    @property
    def has_compiled(self) -> bool:
        """Whether anything is compiled yet."""
        return self._compiled is not None

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
        """Its verification report, with that of the gradients made so far; None when nothing was verified."""
        compiled = self.compiled
        made = dict.fromkeys(one for one in self._gradients.values() if one.spec is compiled.spec)
        found = [report for gradients in made for report in gradients.found()]
        if not found:
            return compiled.report
        first = compiled.report or Report(())
        rows, notes = list(first.rows), list(first.notes)
        for report in found:
            rows += report.rows
            notes += report.notes
        return replace(first, rows=tuple(rows), notes=tuple(notes))

    def save(self, directory: str | os.PathLike[str], *, binary: bool | Sequence[str] = False) -> Path:
        """Write source, program.txt, spec.txt and manifest.json; `tilewright.load` reads them back.

        With backward=True also the backward's source and backward.txt; a loaded kernel is then differentiable as well.

        binary: add the built library, so that loading with binary=True needs no compiler; or the levels of the
        instruction set to build for ("avx2", "avx512", …), to ship to other processors.
        """
        from .saved import save

        compiled = self.compiled
        if self.is_differentiable and compiled.gradient is None and compiled.spec is not None:
            is_ordered = bool(self._options.deterministic)
            target, arch = compiled.lowered.target, compiled.lowered.arch
            compiled.gradient = compile_backward(differentiate(compiled.spec), target, arch, is_ordered=is_ordered)
            compiled.is_ordered = is_ordered
        isas = [self.compiled.lowered.arch] if binary is True else list(binary or ())
        return save(compiled, Path(directory), isas)

    def __repr__(self) -> str:
        if self._compiled is None:
            return "<Kernel, compiled at its first call>"
        return f"<Kernel {self.program.name} for {self.compiled.lowered.target}, {self.compiled.inputs[0].dtype.value}>"

    def __reduce__(self) -> NoReturn:
        """A kernel holds machine code; it is neither pickled nor copied, and may be shared instead."""
        raise TilewrightError(
            "a Kernel is not pickled or deep-copied; share the object within a process, and between processes use "
            "kernel.save(DIRECTORY) and tilewright.load(DIRECTORY)"
        )


def wants_gradient(tensors: Tensors) -> bool:
    """Whether torch will want to differentiate a call with these tensors."""
    return torch.is_grad_enabled() and any(getattr(tensor, "requires_grad", False) for tensor in tensors)


def _layout(tensors: Tensors, return_lse: bool, out: torch.Tensor | None) -> object:
    """What a plan depends on; () for things that are no tensors, which have no plan."""
    try:
        layout = (return_lse, *[(t.shape, t.stride(), t.dtype, t.device, t.__class__) for t in tensors])
        return layout if out is None else (*layout, out.shape, out.stride(), out.dtype, out.device)
    except (AttributeError, RuntimeError):
        return ()
