"""Where compiled forms come from: a function traced per signature, a spec, or one that exists already."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..ir.errors import ShapeError, VerificationError
from ..ir.spec import AttentionSpec
from .arguments import Signature, bind_sizes, signature_of
from .compiled import Compiled, Stages, compile_spec
from .dtypes import to_torch
from .options import Options
from .verification import Subject, verify_compiled

__all__ = ["FixedSpecialiser", "FunctionSpecialiser", "SpecSpecialiser", "finish", "trace"]


class FunctionSpecialiser:
    """Traces a PyTorch function once per signature and target, and again where it takes another branch on sizes."""

    def __init__(self, function: Callable[..., Any], options: Options) -> None:
        self._function = function
        self._options = options
        self._table: dict[tuple[Signature, str], list[Compiled]] = {}

    def specialise(self, tensors: Sequence[torch.Tensor]) -> Compiled:
        """The compiled form for these tensors; lifted, lowered, built and verified when it is new."""
        target = self._options.resolve_target(tensors[0].device.type)
        key = signature_of(tensors), target
        known = self._table.setdefault(key, [])
        for compiled in known:
            if compiled.spec is not None and fits(compiled.spec, tensors):
                return compiled
        stages = Stages()
        subject = trace(self._function, tensors, stages)
        compiled = compile_spec(subject.spec, target, self._options.arch, stages)
        known.append(finish(compiled, subject, self._options))
        return known[-1]


class SpecSpecialiser:
    """Compiles one AttentionSpec, once per target."""

    def __init__(self, spec: AttentionSpec, options: Options) -> None:
        self._spec = spec
        self._options = options
        self._table: dict[str, Compiled] = {}

    def specialise(self, tensors: Sequence[torch.Tensor]) -> Compiled:
        """The compiled spec, for tensors that fit it."""
        check_fits(self._spec, tensors)
        target = self._options.resolve_target(tensors[0].device.type)
        if target not in self._table:
            compiled = compile_spec(self._spec, target, self._options.arch)
            self._table[target] = finish(compiled, Subject(self._spec), self._options)
        return self._table[target]


class FixedSpecialiser:
    """One compiled form, as loaded from a directory; nothing is ever traced."""

    def __init__(self, compiled: Compiled) -> None:
        self._compiled = compiled

    def specialise(self, tensors: Sequence[torch.Tensor]) -> Compiled:
        """The compiled form, for tensors that fit it."""
        if self._compiled.spec is not None:
            check_fits(self._compiled.spec, tensors)
        return self._compiled


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

    with stages.stage("lift"), _without_torch_log():
        spec = lift(function, tuple(example))
    return Subject(spec, function, tuple(example))


@contextmanager
def _without_torch_log() -> Iterator[None]:
    """An error inside the user's function is told once, by us; torch would log its own internals as well."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before = log.disabled
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = before


def finish(compiled: Compiled, subject: Subject, options: Options) -> Compiled:
    """Verify where asked and possible; VerificationError carries the whole report."""
    if not options.verify or not runs_here(compiled.lowered.target):
        return compiled
    with compiled.stages.stage("verify"):
        compiled.report = verify_compiled(compiled, subject)
    if not compiled.report.verified:
        what = f"{subject.spec.name} for {compiled.lowered.target} ({to_torch(subject.spec.dtype)})"
        raise VerificationError(f"{what}: {compiled.report}")
    return compiled


def runs_here(target: str) -> bool:
    """Whether this machine has a device that the target's kernels run on."""
    return target == "cpu" or torch.cuda.is_available()
