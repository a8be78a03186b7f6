"""How functions lay out their results: heads before or after rows, merged with the elements, or with the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ...expr import Expr, const

if TYPE_CHECKING:
    from ..tracer import Tracer

ONE = const(1)
Four = tuple[Expr, Expr, Expr, Expr]


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to lay out [B, H, M, E]. shape: from those sizes; index: from b, h, i, e and the sizes."""

    text: str
    shape: Callable[[Four], Sequence[Expr]]
    index: Callable[[Four, Four], Sequence[Expr]]
    laid_out: Callable[[torch.Tensor], torch.Tensor]


LAYOUTS = (
    Layout("[B, H, M, E]", lambda s: s, lambda x, s: x, lambda o: o),
    Layout("[B, M, H, E]", lambda s: (s[0], s[2], s[1], s[3]), lambda x, s: (x[0], x[2], x[1], x[3]),
           lambda o: o.transpose(1, 2)),
    Layout("[B, M, E]", lambda s: (s[0], s[2], s[3]) if s[1] is ONE else (), lambda x, s: (x[0], x[2], x[3]),
           lambda o: o[:, 0]),
    Layout("[B, M, H * E]", lambda s: (s[0], s[2], s[1] * s[3]), lambda x, s: (x[0], x[2], x[1] * s[3] + x[3]),
           lambda o: o.transpose(1, 2).flatten(2)),
    Layout("[B * H, M, E]", lambda s: (s[0] * s[1], s[2], s[3]), lambda x, s: (x[0] * s[1] + x[1], x[2], x[3]),
           lambda o: o.flatten(0, 1)),
    Layout("[M, B, H * E]", lambda s: (s[2], s[0], s[1] * s[3]), lambda x, s: (x[2], x[0], x[1] * s[3] + x[3]),
           lambda o: o.permute(2, 0, 1, 3).flatten(2)),
    Layout("[M, B, H, E]", lambda s: (s[2], s[0], s[1], s[3]), lambda x, s: (x[2], x[0], x[1], x[3]),
           lambda o: o.permute(2, 0, 1, 3)),
    Layout("[B, H * E, M]", lambda s: (s[0], s[1] * s[3], s[2]), lambda x, s: (x[0], x[1] * s[3] + x[3], x[2]),
           lambda o: o.transpose(2, 3).flatten(1, 2)),
    Layout("[B, H, E, M]", lambda s: (s[0], s[1], s[3], s[2]), lambda x, s: (x[0], x[1], x[3], x[2]),
           lambda o: o.transpose(2, 3)),
    Layout("[B * M, H * E]", lambda s: (s[0] * s[2], s[1] * s[3]),
           lambda x, s: (x[0] * s[2] + x[2], x[1] * s[3] + x[3]), lambda o: o.transpose(1, 2).flatten(2).flatten(0, 1)),
)  # fmt: skip


def layout_of(t: Tracer, shape: Sequence[Expr], sizes: Four) -> Layout | None:
    """The first layout of that shape."""
    for layout in LAYOUTS:
        wanted = [t.simplified(size) for size in layout.shape(sizes)]
        if len(wanted) == len(shape) and all(t.same(a, b) for a, b in zip(shape, wanted, strict=True)):
            return layout
    return None
