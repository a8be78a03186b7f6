"""Inputs and failures in words."""

from __future__ import annotations

import torch

from ...ir.errors import ProgramLine
from ...ir.program import Program
from .inputs import Inputs
from .runs import Ran

__all__ = ["contents", "lines_of"]

MOST_PLACES = 4


def contents(inputs: Inputs) -> str:
    """What the tensors hold: "q zero, k zero, v zero but [0, 0, 4, 0] = 1"."""
    parts = [f"{spec.name} {held(tensor)}" for spec, tensor in zip(inputs.specs, inputs.tensors, strict=True)]
    return ", ".join(parts)


def held(tensor: torch.Tensor) -> str:
    """What a tensor holds."""
    flat = tensor.detach().reshape(-1)
    if not flat.numel():
        return "empty"
    if bool((flat == flat[0]).all()):
        return "zero" if not flat[0] else f"all {_number(flat[0])}"
    if flat.dtype is torch.bool:
        rare = bool(flat.double().mean() < 0.5)
        return _but("False" if rare else "True", tensor, tensor if rare else ~tensor)
    if int((flat != 0).sum()) <= MOST_PLACES:
        return _but("zero", tensor, tensor != 0)
    if not flat.is_floating_point():
        return f"values {int(flat.min())} to {int(flat.max())}"
    return f"random values up to {_number(flat.abs().max())}"


def _but(most: str, tensor: torch.Tensor, rest: torch.Tensor) -> str:
    places = torch.nonzero(rest)
    if len(places) > MOST_PLACES:
        return f"{most} but for {len(places)} elements"
    told = [f"{place.tolist()} = {_number(tensor[tuple(place.tolist())])}" for place in places]
    return f"{most} but {', '.join(told)}"


def _number(value: torch.Tensor) -> str:
    if value.dtype is torch.bool:
        return str(bool(value))
    return f"{float(value):.4g}"


def lines_of(program: Program, ran: Ran) -> str:
    """The program lines of a failure that its reason does not quote."""
    quoted: dict[ProgramLine, None] = dict.fromkeys(ran.lines)
    return "".join(f"\n    {line}" for line in quoted)
