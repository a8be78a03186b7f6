"""Plan: all that a repeated call needs besides its tensors, made once per shapes, strides, types and device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol, runtime_checkable

import torch

from ..ir.errors import DeviceError, DTypeError, ShapeError, UnsupportedSpec
from ..lowering.target import Launch
from .arguments import bind_sizes, check_device
from .bounds import check_accesses, index_sources, range_of
from .compiled import Compiled
from .dtypes import to_torch

__all__ = ["Output", "Plan", "bind_launch", "make_plan", "refuse_capture", "refuse_grad"]

Output = torch.Tensor | tuple[torch.Tensor, torch.Tensor]
Tensors = tuple[torch.Tensor, ...]
Run = Callable[[Sequence[torch.Tensor]], None]
LEAST, MOST = -(2.0**31), 2.0**31 - 1  # integers of kernels


@runtime_checkable
class Bindable(Protocol):
    """A launch that can do beforehand what depends on shapes and strides alone."""

    def bind(self, tensors: Sequence[torch.Tensor], sizes: Mapping[str, int], given: int) -> Run:
        """A launch for tensors laid out like these; it is given the first `given` of them, and the others, which
        are outputs, go to memory that nobody reads."""


def bind_launch(launch: Launch, tensors: Sequence[torch.Tensor], sizes: Mapping[str, int], given: int) -> Run:
    """`launch` for tensors laid out like these, as Bindable says, whether or not it can do anything beforehand."""
    bindable: object = launch
    return bindable.bind(tensors, sizes, given) if isinstance(bindable, Bindable) else lambda each: launch(each, sizes)


@dataclass(frozen=True, slots=True)
class Plan:
    """One way to launch.

    run: launches on inputs and outputs; None where there is nothing to compute. outputs: for each output that
    run takes, a tensor of its shape, type and device that holds one element. lse: its position among them, 0
    where the caller does not want it. checked: for captured tensors of indices and of 64-bit integers, their
    position and the range of values that is sound.
    """

    run: Run | None
    outputs: Tensors
    lse: int
    checked: tuple[tuple[int, float, float], ...]

    def covers(self, tensors: Tensors) -> bool:
        """Whether the values that decide where others are read are among those that were checked."""
        for position, low, high in self.checked:
            least, most = range_of(tensors[position])
            if least < low or most > high:
                return False
        return True

    def __call__(self, tensors: Tensors, out: torch.Tensor | None = None) -> Output:
        """Allocate (all but `out`), launch, return."""
        if torch.is_grad_enabled():
            for tensor in tensors:
                if tensor.requires_grad:
                    refuse_grad()
        o = _empty(self.outputs[0]) if out is None else out
        if len(self.outputs) == 1:
            if self.run is not None:
                self.run((*tensors, o))
            return o
        outputs = [o, *map(_empty, self.outputs[1:])]
        if self.run is not None:
            self.run((*tensors, *outputs))
        return (o, outputs[self.lse]) if self.lse else o


def _empty(like: torch.Tensor) -> torch.Tensor:
    """New contiguous memory; several times faster than torch.empty with a shape."""
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def refuse_grad() -> NoReturn:
    """There is no backward: say so instead of losing gradients."""
    raise UnsupportedSpec(
        "an input requires grad, and this kernel has no backward",
        hint="call it under torch.no_grad(), or pass tensor.detach()",
    )


def refuse_capture(device: torch.device) -> None:
    """A first call tunes, and looks at index values; a CUDA graph being captured allows neither."""
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise UnsupportedSpec(
            "the first call with these shapes and strides, while a CUDA graph is captured",
            hint="call the kernel once with tensors of the same shapes, strides and types before the capture",
        )


def make_plan(compiled: Compiled, tensors: Tensors, return_lse: bool, out: torch.Tensor | None = None) -> Plan:
    """Check the arguments against the compiled form and prepare its launch.

    Raises ShapeError, DTypeError, DeviceError, and UnsupportedSpec for an output that there is none of.
    """
    check_device(compiled.lowered.target, tensors)
    refuse_capture(tensors[0].device)
    sizes = {**compiled.fixed, **bind_sizes(compiled.inputs, tensors)}
    checked = _check_reads(compiled, tensors, sizes)
    names = [param.name for param in compiled.outputs]
    if return_lse and "lse" not in names:
        raise UnsupportedSpec("return_lse=True: this attention has no log-sum-exp (its normaliser is no softmax)")
    outputs = _outputs(compiled, sizes, tensors[0].device)
    if out is not None:
        _check_out(out, outputs[0])
    lse = names.index("lse") if return_lse else 0
    if 0 in (sizes["B"], sizes["Hq"], sizes["M"]):
        return Plan(None, outputs, lse, checked)
    launch = compiled.launch()
    wanted = outputs if return_lse or not hasattr(launch, "bind") else outputs[:1]
    written = [torch.empty(output.shape, dtype=output.dtype, device="meta") for output in outputs]
    if out is not None:
        written[0] = out
    run = bind_launch(launch, (*tensors, *written), sizes, len(tensors) + len(wanted))
    return Plan(run, wanted, lse, checked)


def _outputs(compiled: Compiled, sizes: Mapping[str, int], device: torch.device) -> Tensors:
    """The outputs' shapes, types and device, as tensors that hold one element each."""
    shapes = [[dim if isinstance(dim, int) else sizes[dim] for dim in param.dims] for param in compiled.outputs]
    return tuple(
        torch.empty(1, dtype=to_torch(param.dtype), device=device).expand(shape)
        for param, shape in zip(compiled.outputs, shapes, strict=True)
    )


def _check_out(out: torch.Tensor, wanted: torch.Tensor) -> None:
    if out.shape != wanted.shape:
        raise ShapeError(f"out: shape {tuple(out.shape)}; wanted {tuple(wanted.shape)}, [B, Hq, M, Dv]")
    if out.dtype != wanted.dtype:
        raise DTypeError(f"out: got {out.dtype}, wanted {wanted.dtype} as q has")
    if out.device != wanted.device:
        raise DeviceError(f"out: on {out.device}, but q is on {wanted.device}")


def _check_reads(compiled: Compiled, tensors: Tensors, sizes: dict[str, int]) -> tuple[tuple[int, float, float], ...]:
    """Refuse reads outside captured tensors, and integers that kernels would cut off.

    Gives the tensors to look at again, where values may have changed: those of indices and of 64-bit integers.
    On a GPU looking again would stop the queue at every call, so values are checked once per shape there.
    """
    names = [spec.name for spec in compiled.inputs]
    check_accesses(compiled.accesses, dict(zip(names, tensors, strict=True)), sizes)
    wide = {name: range_of(x) for name, x in zip(names, tensors, strict=True) if x.dtype is torch.int64 and x.numel()}
    for name, (low, high) in wide.items():
        if low < LEAST or high > MOST:
            raise DTypeError(
                f"{name}: int64 with values {low:.0f}..{high:.0f}, and kernels compute with 32 bits; "
                "pass values that fit int32 (64-bit words as two tables of 32 bits, ids counted from 0)"
            )
    if tensors[0].device.type != "cpu":
        return ()
    sources = {name: range_of(tensors[names.index(name)]) for name in sorted(index_sources(compiled.accesses))}
    ranges = dict.fromkeys(wide, (LEAST, MOST)) | sources
    return tuple((names.index(name), *found) for name, found in ranges.items())
