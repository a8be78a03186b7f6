"""Functions whose q, k and v are laid out in another way than [B, heads, length, head_dim]: the same with views."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["ARGUMENT_LAYOUTS", "ArgumentLayout"]

Tensors = tuple[torch.Tensor, ...]
View = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class ArgumentLayout:
    """One layout of q, k and v. dims: how many; usual: their view as [B, heads, length, head_dim]; own: the reverse."""

    text: str
    dims: int
    usual: View
    own: View

    def takes(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether three tensors may be laid out so."""
        q, k, v = tensors[:3]
        if any(x.dim() != self.dims for x in (q, k, v)):
            return False
        q, k, v = map(self.usual, (q, k, v))
        heads = bool(k.shape[1]) and q.shape[1] % k.shape[1] == 0
        return heads and k.shape[:3] == v.shape[:3] and q.shape[0] == k.shape[0] and q.shape[3] == k.shape[3]

    def given(self, tensors: Tensors) -> Tensors:
        """The arguments with q, k and v in the usual layout."""
        return (*map(self.usual, tensors[:3]), *tensors[3:])

    def function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function of such arguments."""

        def of_usual(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *captured: torch.Tensor) -> Any:
            return function(*map(self.own, (q, k, v)), *captured)

        of_usual.__wrapped__ = function  # type: ignore[attr-defined]
        of_usual.__name__ = getattr(function, "__name__", type(function).__name__)
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):
            signature = inspect.signature(of_usual, follow_wrapped=False)
        of_usual.__signature__ = signature  # type: ignore[attr-defined]
        return of_usual


ARGUMENT_LAYOUTS = (
    ArgumentLayout("[B, heads, length, head_dim]", 4, lambda x: x, lambda x: x),
    ArgumentLayout("[B, length, heads, head_dim]", 4, lambda x: x.transpose(1, 2), lambda x: x.transpose(1, 2)),
    ArgumentLayout("[B, length, head_dim]", 3, lambda x: x.unsqueeze(1), lambda x: x[:, 0]),
)
"""The usual one first: a function is read with the first with which it is attention."""
