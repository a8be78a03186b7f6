"""The attention functions behind flash-attn's calls: plain PyTorch, one per combination of options, compiled once each.

Three ways of saying which keys a row sees share everything else:

    dense   every sequence has M queries and N keys; the window is two captured numbers
    cache   sequence b has the keys first[b] <= j < last[b] of a longer cache
    rows    sequences lie end to end in one row of tokens; row i sees the keys first[i] <= j < last[i]

Windows, lengths, softcaps and scales are captured tensors: new values never recompile. Only the scale 1/sqrt(D) is a
constant: kernels scale a row's maximum once where they know the factor, which is worth 5-12 % in bfloat16. Tables that
are read by batch or by row have one entry more than needed, so that their size is never 1: kernels are
specialised on that.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels.api import compile as compile_kernel
from ...kernels.kernel import Kernel, Output

__all__ = ["UNLIMITED", "Form", "Options", "attend", "scalar"]

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
        """Window and slopes as forms `dense` and `cache` capture them."""
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
    """Which function serves a call: how keys are found, and the names of its captured tensors in order."""

    keys: str
    names: tuple[str, ...]


_kernels: dict[Form, Kernel] = {}
_lock = threading.Lock()


def attend(
    keys: str, tensors: Sequence[Tensor], tables: Named, options: Options, out: Tensor, return_lse: bool = False
) -> Output:
    """Run the form's kernel on q, k, v [B, H, length, D] into `out` [B, Hq, M, Dv] (and lse [B, Hq, M]).

    keys: dense, cache or rows. tables: the captured tensors that say which keys are seen, and `slopes` where
    there are any.
    """
    q = tensors[0]
    named = dict(tables)
    if options.scale is not None:
        named["scale"] = scalar(options.scale, torch.float32, q.device)
    if options.softcap:
        named["softcap"] = scalar(options.softcap, torch.float32, q.device)
    form = Form(keys, tuple(named))
    kernel = _kernels.get(form) or _new_kernel(form)
    return kernel(*tensors, *named.values(), return_lse=return_lse, out=out)


def _new_kernel(form: Form) -> Kernel:
    with _lock:
        return _kernels.setdefault(form, compile_kernel(_function(form)))


@functools.lru_cache(maxsize=1024)
def scalar(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number as a tensor without dims, made once, so that a call moves nothing to a GPU."""
    with torch.inference_mode(False):
        return torch.tensor(value, dtype=dtype, device=device)


def _function(form: Form) -> Callable[..., Tensor]:
    """The form as a plain PyTorch function of q, k, v and its captured tensors."""

    def flash_attention(q: Tensor, k: Tensor, v: Tensor, *captured: Tensor) -> Tensor:
        named = dict(zip(form.names, captured, strict=True))
        group = q.shape[1] // k.shape[1]
        if group > 1:
            k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        scores = (q @ k.transpose(-1, -2)) * named.get("scale", q.shape[-1] ** -0.5)
        if "softcap" in named:
            scores = named["softcap"] * torch.tanh(scores / named["softcap"])
        bias, keep = KEYS[form.keys](q, k, named)
        if bias is not None:
            scores = scores - bias
        if keep is not None:
            scores = torch.where(keep, scores, -math.inf)
        return torch.softmax(scores, dim=-1) @ v

    return flash_attention


Rules = tuple[Tensor | None, Tensor | None]  # ALiBi's penalty and the mask, broadcasting to [B, Hq, M, N]


def _dense(q: Tensor, k: Tensor, named: Named) -> Rules:
    i, j = _indices(q, k)
    diagonal = i + (k.shape[2] - q.shape[2])
    keep = _band(j, diagonal, named) if "left" in named else None
    return _penalty(q, j, diagonal, named), keep


def _cache(q: Tensor, k: Tensor, named: Named) -> Rules:
    i, j = _indices(q, k)
    b = torch.arange(q.shape[0], device=q.device)
    first, last = (named[name][b][:, None, None, None] for name in ("first", "last"))
    diagonal = i + last - q.shape[2]
    keep = (j >= first) & (j < last)
    if "left" in named:
        keep = keep & _band(j, diagonal, named)
    return _penalty(q, j, diagonal, named), keep


def _rows(q: Tensor, k: Tensor, named: Named) -> Rules:
    _, j = _indices(q, k)
    i = torch.arange(q.shape[2], device=q.device)
    keep = (j >= named["first"][i][:, None]) & (j < named["last"][i][:, None])
    if "slopes" not in named:
        return None, keep
    diagonal = named["diagonal"][i][:, None]
    return named["slopes"][i].transpose(0, 1)[None, :, :, None] * (diagonal - j).abs(), keep


KEYS: Mapping[str, Callable[[Tensor, Tensor, Named], Rules]] = {"dense": _dense, "cache": _cache, "rows": _rows}


def _indices(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Query index [M, 1] and key index [1, N]."""
    return torch.arange(q.shape[2], device=q.device)[:, None], torch.arange(k.shape[2], device=q.device)[None, :]


def _band(j: Tensor, diagonal: Tensor, named: Named) -> Tensor:
    return (j >= diagonal - named["left"]) & (j <= diagonal + named["right"])


def _penalty(q: Tensor, j: Tensor, diagonal: Tensor, named: Named) -> Tensor | None:
    """slope * |distance to the diagonal|, for slopes by batch and head."""
    if "slopes" not in named:
        return None
    b = torch.arange(q.shape[0], device=q.device)
    return named["slopes"][b][:, :, None, None] * (diagonal - j).abs()
