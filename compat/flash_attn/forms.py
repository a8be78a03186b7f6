"""The attention function behind flash-attn's calls: plain PyTorch, compiled once per combination of options and layout.

Whatever the layout, a sequence has M queries and N keys of its own: dense, end to end (ragged), or with keys in pages
(a cache is pages of its own length). Windows, softcaps and scales are captured tensors: new values never recompile.
Only the scale 1/sqrt(D) is a constant: kernels scale a row's maximum once where they know the factor, which is worth
5-12 % in bfloat16. Tables that are read by batch have one entry more than the batch, so that their size is
never 1: kernels are specialised on that.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...kernels.api import compile as compile_kernel
from ...kernels.layouts import LayoutKernel

__all__ = ["UNLIMITED", "Form", "Options", "attend", "scalar"]

DENSE = ("dense", "deterministic")  # the second gives gradients with the same bits in every run
UNLIMITED = 1 << 30  # a window's side without a limit; sums with any index stay inside 32 bits

Named = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Options:
    """What a call asks for, with flash-attn's defaults resolved.

    scale: None is 1/sqrt(D). softcap: 0 is none. window: keys to the left and right of the diagonal, UNLIMITED
    on a side that has none. slopes: ALiBi's, float32 [H] or [B, H].
    """

    scale: float | None
    softcap: float
    window: tuple[int, int]
    slopes: Tensor | None

    @property
    def is_banded(self) -> bool:
        """Whether the window hides anything."""
        return self.window != (UNLIMITED, UNLIMITED)

    def tables(self, batch: int, device: torch.device) -> dict[str, Tensor]:
        """Window and slopes as kernels capture them: slopes by batch and head, one batch more."""
        tables = {}
        if self.is_banded:
            sides = zip(("left", "right"), self.window, strict=True)
            tables = {name: scalar(side, torch.int32, device) for name, side in sides}
        if self.slopes is not None:
            slopes = self.slopes
            tables["slopes"] = slopes.expand(batch + 1, -1) if slopes.dim() == 1 else torch.cat((slopes, slopes[:1]))
        return tables


@dataclass(frozen=True, slots=True)
class Form:
    """Which kernel serves a call: how sequences lie, and the names of its captured tensors in order."""

    layout: str
    names: tuple[str, ...]


_kernels: dict[Form, Callable[..., Any]] = {}
_lock = threading.Lock()


def attend(
    layout: str, tensors: Sequence[Tensor], captured: Named, options: Options, **where: Any
) -> tuple[Tensor, Tensor | None]:
    """Run the kernel for a layout ("dense", "deterministic", "ragged" or "paged") on q, k and v.

    Returns o and, where asked for, lse.

    captured: tensors by name, of `Options.tables` and `first`. where: what the kernel of that layout takes.
    """
    device = tensors[0].device
    named = dict(captured)
    if options.scale is not None:
        named["scale"] = scalar(options.scale, torch.float32, device)
    if options.softcap:
        named["softcap"] = scalar(options.softcap, torch.float32, device)
    form = Form(layout, tuple(named))
    kernel = _kernels.get(form) or _new_kernel(form)
    found: tuple[Tensor, Tensor | None] = kernel(*tensors, *named.values(), **where)
    return found if isinstance(found, tuple) else (found, None)


def _new_kernel(form: Form) -> Callable[..., Any]:
    function = _function(form.names)
    with _lock:
        if form.layout in DENSE:
            is_fixed = form.layout == "deterministic"
            made: Callable[..., Any] = compile_kernel(function, backward=True, deterministic=is_fixed)
        else:
            made = LayoutKernel(function, form.layout)
        return _kernels.setdefault(form, made)


@functools.lru_cache(maxsize=1024)
def scalar(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number as a tensor without dims, made once, so that a call moves nothing to a GPU."""
    with torch.inference_mode(False):
        return torch.tensor(value, dtype=dtype, device=device)


def _function(names: Sequence[str]) -> Callable[..., Tensor]:
    """A plain PyTorch function of q, k, v and the captured tensors of these names."""

    def flash_attention(q: Tensor, k: Tensor, v: Tensor, *captured: Tensor) -> Tensor:
        named = dict(zip(names, captured, strict=True))
        group = q.shape[1] // k.shape[1]
        if group > 1:
            k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        scores = (q @ k.transpose(-1, -2)) * named.get("scale", q.shape[-1] ** -0.5)
        if "softcap" in named:
            scores = named["softcap"] * torch.tanh(scores / named["softcap"])
        b = torch.arange(q.shape[0], device=q.device)
        j = torch.arange(k.shape[2], device=q.device)[None, :]
        diagonal = torch.arange(q.shape[2], device=q.device)[:, None] + (k.shape[2] - q.shape[2])
        if "slopes" in named:
            scores = scores - named["slopes"][b][:, :, None, None] * (diagonal - j).abs()
        if "left" in named:
            keep = (j >= diagonal - named["left"]) & (j <= diagonal + named["right"])
            scores = torch.where(keep, scores, -math.inf)
        if "first" in named:
            scores = torch.where(j >= named["first"][b][:, None, None, None], scores, -math.inf)
        return torch.softmax(scores, dim=-1) @ v

    return flash_attention
