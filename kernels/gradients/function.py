"""Attention as a node of torch's autograd graph, for calls that are not recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from ...ir.errors import UnsupportedSpec
from .gradient import Known
from .gradients import Gradients

__all__ = ["attend", "refuse_second_derivative"]

Forward = Callable[[Sequence[torch.Tensor], bool], Any]


@dataclass(frozen=True, slots=True)
class Call:
    """How to compute o (with lse where the flag asks), and the gradients of what went in."""

    forward: Forward
    gradients: Gradients


def attend(forward: Forward, gradients: Gradients, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """(o, lse), or (o,) where there is no lse, with gradients for whichever tensors require them.

    Raises, before anything runs, what making the backward raises.
    """
    gradients.prepare([tensor.requires_grad for tensor in tensors])
    found: tuple[torch.Tensor, ...] = _Attention.apply(Call(forward, gradients), *tensors)  # type: ignore[no-untyped-call]
    return found


class _Attention(torch.autograd.Function):
    """forward: (o, lse); backward: gradients of q, k, v and the captured tensors."""

    @staticmethod
    def forward(call: Call, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        result = call.forward(tensors, call.gradients.has_lse)
        return (result,) if isinstance(result, torch.Tensor) else tuple(result)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        ctx.call = inputs[0]
        ctx.save_for_backward(*inputs[1:], *output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, d_o: torch.Tensor | None, d_lse: torch.Tensor | None = None) -> tuple[Any, ...]:
        if d_o is None and d_lse is None:
            return (None,) * len(ctx.needs_input_grad)
        wanted = tuple(ctx.needs_input_grad[1:])
        saved = ctx.saved_tensors
        run = _Derivative.apply if torch.is_grad_enabled() else _derivative
        return None, *run(ctx.call.gradients, wanted, d_o, d_lse, *saved)


def _derivative(
    gradients: Gradients, wanted: Sequence[bool], d_o: torch.Tensor | None, d_lse: torch.Tensor | None,
    *saved: torch.Tensor,
) -> tuple[torch.Tensor | None, ...]:  # fmt: skip
    tensors, (o, *rest) = saved[: len(wanted)], saved[len(wanted) :]
    d_o = torch.zeros_like(o) if d_o is None else d_o
    return tuple(gradients.run(tensors, Known(o, rest[0] if rest else None, d_o, d_lse), wanted))


class _Derivative(torch.autograd.Function):
    """The gradients, where they are to be differentiated once more: which is refused if it comes to that."""

    @staticmethod
    def forward(*asked: Any) -> tuple[torch.Tensor | None, ...]:
        return _derivative(*asked)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Nothing is kept for what is refused."""

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> NoReturn:
        refuse_second_derivative()


def refuse_second_derivative() -> NoReturn:
    """Say what is missing and what to do."""
    raise UnsupportedSpec(
        "a second derivative of attention (create_graph=True, torch.func.hessian): kernels have first derivatives only",
        hint="use the PyTorch function where you differentiate twice",
    )
