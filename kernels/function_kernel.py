"""Kernels of functions: attention as a kernel, and what a function computes before and after it by torch.

A function that is nothing but attention is one kernel. Where it rotates or normalises q and k, makes tensors that
kernels cannot, gates or merges the result, those steps are read as expressions (`ir/lift/around/`), evaluated by torch
in every call and differentiated by autograd; parameters of a module that the function belongs to are arguments.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import torch

from ..ir.errors import ShapeError, UnsupportedSpec
from ..ir.lift.around import Composite, Split, lift_with_steps
from ..ir.lift.constants import is_literal
from .argument_layouts import ARGUMENT_LAYOUTS, ArgumentLayout
from .arguments import check_attention
from .closures import Captures
from .kernel import Kernel
from .options import Options
from .plan import Output, Tensors
from .references import with_free_names
from .report import Report
from .specialisers import FunctionSpecialiser, SpecSpecialiser, without_torch_log
from .tracing import elsewhere, is_plain, unwrapped

__all__ = ["FunctionKernel"]

MAX_PLANS = 4096


@dataclass(frozen=True, slots=True)
class Around:
    """A function read as kernels with steps around: `kernels` are of the composite's cores.

    layout: of the function's q, k and v. key: of its closure, None where its tensors are no arguments; chosen: which
    of them are.
    """

    composite: Composite | Split
    kernels: tuple[Kernel, ...]
    layout: ArgumentLayout
    key: Hashable | None = None
    chosen: tuple[int, ...] = ()


class FunctionKernel(Kernel):
    """A kernel of a PyTorch function; see Kernel for calls."""

    def __init__(self, function: Callable[..., Any], options: Options) -> None:
        specialiser = FunctionSpecialiser(function, options)
        super().__init__(specialiser, options=options)
        self._function = function
        self._refusals = specialiser
        self._found: list[Around] = []
        self._by_shape: dict[Hashable, Around | None] = {}

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *captured: torch.Tensor,
        return_lse: bool = False, out: torch.Tensor | None = None,
    ) -> Output:  # fmt: skip
        """Run, as Kernel does; the result is laid out as the function's."""
        tensors = (q, k, v, *captured)
        if self._found:
            return self._around(tensors, return_lse, out)
        try:
            return super().__call__(*tensors, return_lse=return_lse, out=out)
        except (UnsupportedSpec, ShapeError) as error:
            self._read(tensors, error)
        return self._around(tensors, return_lse, out)

    def _around(self, tensors: Tensors, return_lse: bool, out: torch.Tensor | None) -> Output:
        run = _outside_of_graphs(self._eagerly) if torch.compiler.is_dynamo_compiling() else self._eagerly
        result: Output = run(tensors, return_lse, out)
        return result

    def _eagerly(self, tensors: Tensors, return_lse: bool, out: torch.Tensor | None) -> Output:
        found, given = self._chosen(tensors)
        if found is None:
            try:
                return super().__call__(*tensors, return_lse=return_lse, out=out)
            except (UnsupportedSpec, ShapeError) as error:
                self._read(tensors, error)
                found, given = self._chosen(tensors)
                assert found is not None
        if return_lse:
            raise UnsupportedSpec("return_lse=True: this function computes something before or after its attention")
        kernels = found.kernels

        def attend(number: int, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
            o = kernels[number](*inputs)
            assert isinstance(o, torch.Tensor)
            return o

        with torch.autocast(tensors[0].device.type, enabled=False):  # steps keep the type of what they are given
            result = found.composite(given, attend, torch.float32)
        self._compiled = kernels[0].compiled
        return result if out is None else out.copy_(result)

    def _chosen(self, tensors: Tensors) -> tuple[Around | None, Tensors]:
        """The reading for these tensors, None where the function is plain attention for them, and its arguments."""
        key = tuple((tensor.shape, tensor.dtype) for tensor in tensors)
        captures = Captures([self._function]) if any(one.chosen for one in self._found) else None
        known = self._by_shape.get((key, captures and captures.key))
        for one in self._found if known is None else [known]:
            if not one.layout.takes(tensors):
                continue
            given = one.layout.given(tensors)
            if one.chosen:
                assert captures is not None
                if one.key != captures.key:
                    continue
                given = (*given, *(captures.tensors[n] for n in one.chosen))
            if known is not None or one.composite.fits(given):
                if len(self._by_shape) >= MAX_PLANS:
                    self._by_shape.clear()
                self._by_shape[key, captures and captures.key] = one
                return one, given
        return None, tensors

    def _read(self, tensors: Tensors, error: UnsupportedSpec | ShapeError) -> None:
        """Read the function with steps around. Raises the error again where that was not why, or does not help."""
        if error is not self._refusals.refusal and not isinstance(error, ShapeError):
            raise error
        with self._lock:
            plain = tuple(unwrapped(tensor).detach() for tensor in tensors)
            found = self._first(plain) if is_plain() else elsewhere(lambda: self._first(plain))
            if found is None:
                raise error
            self._found.append(found)

    def _first(self, tensors: Tensors) -> Around | None:
        """The reading with the first layout of the arguments with which there is one."""
        for layout in ARGUMENT_LAYOUTS:
            if not layout.takes(tensors):
                continue
            try:
                given = layout.given(tensors)
                check_attention(given)
                return self._lifted(layout, given)
            except (UnsupportedSpec, ShapeError):
                continue
        return None

    def _lifted(self, layout: ArgumentLayout, tensors: Tensors) -> Around:
        function = layout.function(self._function)
        with torch.no_grad(), without_torch_log():
            try:
                return self._kernels(layout, lift_with_steps(function, tensors))
            except UnsupportedSpec:
                captures = Captures([self._function])
                chosen = tuple(n for n, x in enumerate(captures.tensors) if x.requires_grad or not is_literal(x))
                if not chosen:
                    raise
            function = layout.function(_with_arguments(self._function, captures, chosen, len(tensors)))
            held = tuple(captures.tensors[n].detach() for n in chosen)
            found = self._kernels(layout, lift_with_steps(function, (*tensors, *held)))
            return replace(found, key=captures.key, chosen=chosen)

    def _kernels(self, layout: ArgumentLayout, composite: Composite | Split) -> Around:
        options = self._options
        specs = [with_free_names(spec) for spec in composite.specs]
        made = [Kernel(SpecSpecialiser(spec, options), options=options) for spec in specs]
        return Around(composite, tuple(made), layout)

    def prepare(self, *tensors: torch.Tensor) -> None:
        """Compile and build for these arguments without running them."""
        try:
            super().prepare(*tensors)
        except (UnsupportedSpec, ShapeError) as error:
            self._read(tensors, error)
            found, given = self._chosen(tensors)
            assert found is not None

            def prepared(number: int, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
                found.kernels[number].prepare(*inputs)
                q, v = inputs[0], inputs[2]
                return q.new_empty((*q.shape[:3], v.shape[3]))

            with torch.no_grad():
                found.composite(given, prepared, torch.float32)
            self._compiled = found.kernels[0].compiled

    @property
    def report(self) -> Report | None:
        """The verification report; of all kernels where there are several."""
        if not self._found:
            return super().report
        reports = [kernel.report for one in self._found for kernel in one.kernels if kernel.has_compiled]
        found = [report for report in reports if report is not None]
        if not found:
            return None
        rows, notes = (tuple(x for report in found for x in getattr(report, name)) for name in ("rows", "notes"))
        told = dict.fromkeys(one.composite.told for one in self._found)
        return replace(found[0], rows=rows, notes=(*notes, *told))

    def save(self, directory: str | os.PathLike[str], *, binary: bool | Sequence[str] = False) -> Path:
        """Write the kernel, as Kernel does; UnsupportedSpec where the function has steps around it."""
        if self._found:
            _refuse_to_save(self._function)
        return super().save(directory, binary=binary)


def _outside_of_graphs(function: Callable[..., Output]) -> Callable[..., Output]:
    """The function, called where dynamo breaks its graph."""
    wrapped: Callable[..., Output] = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
    return wrapped


def _refuse_to_save(function: Callable[..., Any]) -> NoReturn:
    name = getattr(function, "__name__", type(function).__name__)
    raise UnsupportedSpec(
        f"{name} computes something before or after its attention, which torch does in every call and a file would not",
        hint="state the attention alone as a function, with the steps in the code that calls it, and save that",
    )


def _with_arguments(
    function: Callable[..., Any], captures: Captures, chosen: Sequence[int], count: int
) -> Callable[..., Any]:
    """The function with some of the tensors that it captures as further arguments."""

    def with_arguments(*tensors: torch.Tensor) -> Any:
        held = list(captures.tensors)
        for n, tensor in zip(chosen, tensors[count:], strict=True):
            held[n] = tensor
        return captures.rebuild(function, held)(*tensors[:count])

    with_arguments.__wrapped__ = function  # type: ignore[attr-defined]
    with_arguments.__name__ = getattr(function, "__name__", type(function).__name__)
    with_arguments.__signature__ = inspect.signature(lambda q, k, v, *captured: None)  # type: ignore[attr-defined]
    return with_arguments
