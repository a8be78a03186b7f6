"""Where compiled forms come from: a function traced per signature, a spec, or one that exists already."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..ir.errors import ShapeError, UnsupportedSpec
from ..ir.spec import AttentionSpec
from .arguments import Signature, bind_sizes, signature_of
from .compiled import Compiled, Stages
from .forms import Forms
from .gradients.gradients import Gradients
from .options import Options
from .references import with_free_names
from .verification import Subject

__all__ = ["FixedSpecialiser", "FunctionSpecialiser", "SpecSpecialiser", "trace"]


class FunctionSpecialiser:
    """Traces a PyTorch function once per signature and target, and again where it takes another branch on sizes."""

    def __init__(self, function: Callable[..., Any], options: Options) -> None:
        self._function = function
        self._options = options
        self._table: dict[tuple[Signature, str], list[Forms]] = {}
        self.refusal: UnsupportedSpec | None = None  # of the lift, the last one

    def specialise(self, tensors: Sequence[torch.Tensor]) -> Compiled:
        """The compiled form for these tensors; lifted, lowered, built and verified when it is new."""
        forms = self._known(tensors)
        if forms is not None:
            return forms.pick(tensors)
        target, stages = self._options.resolve_target(tensors[0].device.type), Stages()
        try:
            spec = trace(self._function, tensors, stages).spec
        except UnsupportedSpec as error:
            self.refusal = error
            raise
        forms = Forms(spec, target, self._options, self._function)
        compiled = forms.pick(tensors, stages)
        self._table.setdefault((signature_of(tensors), target), []).append(forms)
        return compiled

    def gradients(self, tensors: Sequence[torch.Tensor]) -> Gradients:
        """What differentiates the form for these tensors."""
        self.specialise(tensors)
        forms = self._known(tensors)
        assert forms is not None
        return forms.gradients(tensors)

    def _known(self, tensors: Sequence[torch.Tensor]) -> Forms | None:
        target = self._options.resolve_target(tensors[0].device.type)
        known = self._table.get((signature_of(tensors), target), ())
        return next((forms for forms in known if fits(forms.spec, tensors)), None)


class SpecSpecialiser:
    """Compiles one AttentionSpec, once per target."""

    def __init__(self, spec: AttentionSpec, options: Options) -> None:
        self._spec = spec
        self._options = options
        self._table: dict[str, Forms] = {}

    def specialise(self, tensors: Sequence[torch.Tensor]) -> Compiled:
        """The compiled spec, for tensors that fit it."""
        return self._forms(tensors).pick(tensors)

    def gradients(self, tensors: Sequence[torch.Tensor]) -> Gradients:
        """What differentiates the compiled spec."""
        return self._forms(tensors).gradients(tensors)

    def _forms(self, tensors: Sequence[torch.Tensor]) -> Forms:
        check_fits(self._spec, tensors)
        target = self._options.resolve_target(tensors[0].device.type)
        if target not in self._table:
            self._table[target] = Forms(self._spec, target, self._options, None)
        return self._table[target]


class FixedSpecialiser:
    """One compiled form, as loaded from a directory; nothing is ever traced."""

    def __init__(self, compiled: Compiled, options: Options | None = None) -> None:
        self._compiled = compiled
        self._options = options or Options()
        self._gradients: Gradients | None = None

    def specialise(self, tensors: Sequence[torch.Tensor]) -> Compiled:
        """The compiled form, for tensors that fit it."""
        if self._compiled.spec is not None:
            check_fits(self._compiled.spec, tensors)
        return self._compiled

    def gradients(self, tensors: Sequence[torch.Tensor]) -> Gradients:
        """What differentiates the form, from its spec; UnsupportedSpec for one made from program text alone."""
        if self._gradients is None:
            spec = self._compiled.spec
            if spec is None:
                raise UnsupportedSpec("a kernel from program text alone has no gradients: its function is not known")
            target, options = self._compiled.lowered.target, self._options
            self._gradients = Gradients(Subject(spec), target, options, lambda _: self._compiled)
            if self._compiled.gradient is not None:
                self._gradients.use(self._compiled.gradient, is_ordered=self._compiled.is_ordered)
        return self._gradients


def check_fits(spec: AttentionSpec, tensors: Sequence[torch.Tensor]) -> None:
    """Refuse tensors that a spec was not made for: D, Dv, GQA ratio, element types, captured tensors."""
    sizes = bind_sizes(spec.tensors, tensors)
    wanted = {"D": spec.head_dim, "Dv": spec.value_dim}
    for dim, size in wanted.items():
        if sizes[dim] != size:
            raise ShapeError(f"{'q' if dim == 'D' else 'v'}: {dim}={sizes[dim]}; this kernel was made for {dim}={size}")
    if sizes["Hq"] != spec.group * sizes["Hkv"]:
        raise ShapeError(
            f"q: Hq={sizes['Hq']}, k: Hkv={sizes['Hkv']}; this kernel was made for Hq = {spec.group} x Hkv"
        )
    if not spec.allows(sizes):
        raise ShapeError(f"this kernel was made for sizes with {spec.requires!r}, got {sizes}")


def fits(spec: AttentionSpec, tensors: Sequence[torch.Tensor]) -> bool:
    """Whether a spec was made for such tensors."""
    try:
        check_fits(spec, tensors)
    except ShapeError:
        return False
    return True


def trace(function: Callable[..., Any], example: Sequence[torch.Tensor], stages: Stages) -> Subject:
    """Lift a function with example tensors; UnsupportedSpec names the line that cannot be lifted."""
    from ..ir.lift import lift

    with stages.stage("lift"), without_torch_log():
        spec = with_free_names(lift(function, tuple(example)))
    return Subject(spec, function, tuple(example))


@contextmanager
def without_torch_log() -> Iterator[None]:
    """An error inside the user's function is told once, by us; torch would log its own internals as well."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before = log.disabled
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = before
