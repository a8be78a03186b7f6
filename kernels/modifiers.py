"""FlexAttention's callables on whole tensors: each takes one score and its indices, and is mapped over all of them.

The mapping is PyTorch's own (`torch.vmap`, four times), so a callable means exactly what it means in PyTorch.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ..ir.errors import UnsupportedSpec

__all__ = ["Modifier", "mapped"]

Modifier = Callable[..., torch.Tensor]
AXES: tuple[tuple[int | None, ...], ...] = (
    (None, None, None, 0), (None, None, 0, None), (None, 0, None, None), (0, None, None, None),
)  # fmt: skip
PACKAGE = Path(__file__).parent.parent
NOT_THE_USERS = (str(Path(torch.__file__).parent), *(str(PACKAGE / folder) for folder in ("ir", "kernels", "compat")))
DATA_DEPENDENT = ("data-dependent control flow", "calling .item() on a Tensor")


def mapped(function: Modifier, index: Sequence[torch.Tensor], *scores: torch.Tensor) -> torch.Tensor:
    """[B, H, M, N] of the callable at every combination of four vectors b, h, q_idx, kv_idx (scores go first).

    Raises UnsupportedSpec, with the callable's line, for Python control flow on tensor values.
    """
    whole: Modifier = function
    for axes in AXES:
        whole = torch.vmap(whole, in_dims=(*(0 for _ in scores), *axes), out_dims=0)
    try:
        with Indexing():
            return whole(*scores, *index)
    except RuntimeError as error:
        if any(sign in str(error) for sign in DATA_DEPENDENT):
            raise _depends_on_data(error) from None
        raise


def _depends_on_data(error: RuntimeError) -> UnsupportedSpec:
    frames = traceback.extract_tb(error.__traceback__)
    users = [frame for frame in frames if not frame.filename.startswith(NOT_THE_USERS)]
    frame = (users or list(frames))[-1]
    return UnsupportedSpec(
        "the function's Python code depends on the data in a tensor",
        f"{frame.filename}:{frame.lineno}",
        frame.line or "",
        "write the choice with torch.where; `and`, `or`, `not` of tensors are &, |, ~",
    )


class Indexing(TorchFunctionMode):
    """`table[h, i - j]` with scalar tensors is a gather, as in FlexAttention; PyTorch would read their values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Tensor.__getitem__ with any scalar tensor among its indices, as an index operator."""
        if func is torch.Tensor.__getitem__:
            items = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(item, torch.Tensor) and item.dtype is not torch.bool for item in items):
                return _gather(args[0], items)
        return func(*args, **(kwargs or {}))


def _gather(table: torch.Tensor, items: tuple[Any, ...]) -> torch.Tensor:
    """table[items] where some items are index tensors, others integers, slices, None or an ellipsis."""
    indices: list[torch.Tensor | None] = []
    for place, item in enumerate(items):
        at = len(indices)
        if isinstance(item, torch.Tensor):
            indices.append(item)
        elif item is Ellipsis:
            indices += [None] * (table.dim() - at - sum(later is not None for later in items[place + 1 :]))
        elif item is None:
            table = table.unsqueeze(at)
            indices.append(None)
        elif isinstance(item, slice):
            table = table[(slice(None),) * at + (item,)]
            indices.append(None)
        else:
            table = table.select(at, item)
    return torch.ops.aten.index.Tensor(table, indices)  # type: ignore[no-any-return]
