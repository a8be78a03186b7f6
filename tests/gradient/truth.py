"""Gradients of a user's function by torch autograd, everything in fp64, and how far others are from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tilewright.ir.gradient import reference_backward
from tilewright.ir.reference import reference
from tilewright.ir.spec import AttentionSpec
from tilewright.kernels.oracle import _default_float64, _RaisePrecision

SOFTMAX = {torch.softmax, Tensor.softmax, torch.nn.functional.softmax}
Gradients = dict[str, np.ndarray]
TOLERANCE = 1e-10


class DefinedRows(TorchFunctionMode):
    """A softmax over nothing but -inf is zero, as it is by definition of a spec; its gradient is NaN in PyTorch."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func not in SOFTMAX:
            return func(*args, **kwargs)
        x, dim = args[0], kwargs.get("dim", args[1] if len(args) > 1 else -1)
        is_empty = (x == -torch.inf).all(dim, keepdim=True)
        return torch.where(is_empty, 0.0, func(torch.where(is_empty, 0.0, x), *args[1:], **kwargs))


def names_of(spec: AttentionSpec, tensors: Sequence[Tensor]) -> dict[str, int]:
    """Where each floating tensor stands, by the name of its gradient."""
    names = ["dq", "dk", "dv", *(tensor.name for tensor in spec.captured)]
    return {name: n for n, name in enumerate(names) if tensors[n].is_floating_point()}


def upstream(spec: AttentionSpec, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Random gradients of o and of lse; zero in rows that keep nothing, which are the function's own affair."""
    generator = torch.Generator().manual_seed(7)
    _, lse = reference(spec, *arrays_of(tensors))
    is_defined = torch.from_numpy(~np.isneginf(lse))
    do = torch.randn(*lse.shape, spec.value_dim, generator=generator, dtype=torch.float64)
    dlse = torch.randn(lse.shape, generator=generator, dtype=torch.float64)
    return do * is_defined[..., None], dlse * is_defined


def arrays_of(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    return [(x.double() if x.is_floating_point() else x).detach().numpy() for x in tensors]


def autograd(
    function: Callable[..., Any], spec: AttentionSpec, tensors: Sequence[Tensor], do: Tensor, dlse: Tensor | None = None
) -> Gradients:
    """Autograd's gradients; with dlse, the function's second result is the lse that it arrives at."""
    leaves = [x.detach().clone().double().requires_grad_() if x.is_floating_point() else x.clone() for x in tensors]
    with _default_float64(), _RaisePrecision(), DefinedRows():
        result = function(*leaves)
        o, *others = result if isinstance(result, tuple) else (result,)
        outputs, given = ((o, others[0]), (do, dlse)) if dlse is not None else ((o,), (do,))
        named = names_of(spec, tensors)
        wanted = [leaves[n] for n in named.values()]
        found = torch.autograd.grad(outputs, wanted, given, allow_unused=True, materialize_grads=True)
    return {name: x.numpy() for name, x in zip(named, found, strict=True)}


def derived(spec: AttentionSpec, tensors: Sequence[Tensor], do: Tensor, dlse: Tensor | None = None) -> Gradients:
    """The gradients of the derivation, in fp64."""
    return reference_backward(spec, *arrays_of(tensors), do=do.numpy(), dlse=None if dlse is None else dlse.numpy())


def assert_same_gradients(got: Gradients, wanted: Gradients, tolerance: float = TOLERANCE) -> None:
    assert list(got) == list(wanted)
    for name, x in wanted.items():
        scale = max(1.0, float(np.abs(x).max(initial=0.0)))
        np.testing.assert_allclose(got[name], x, rtol=0, atol=tolerance * scale, err_msg=name)


def check(
    function: Callable[..., Any], spec: AttentionSpec, tensors: Sequence[Tensor], has_lse: bool = False
) -> Gradients:
    """The derivation against autograd on one set of tensors; the derivation's gradients."""
    do, dlse = upstream(spec, tensors)
    given = (do, dlse) if has_lse else (do,)
    got = derived(spec, tensors, *given)
    assert_same_gradients(got, autograd(function, spec, tensors, *given))
    return got
