"""What gradients a case should give, in fp64, and how far a kernel may be off.

The truth is torch's autograd through the user's own function in fp64; without a function, or where it gives no number,
the spec's formula. Rows that keep no key have no gradient, by definition. The budget is twice the sum of the error that
the same mathematics makes in low precision and of one rounding of the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ...ir.evaluate import Array
from ...ir.gradient import reference_backward
from ...ir.reference import reference
from ...ir.spec import AttentionSpec
from ..dtypes import as_array, to_torch
from ..lowprecision import one_by_one
from ..oracle import Function, Truth, distance, in_fp64
from .lowprecision import low_precision_backward

__all__ = ["expect_gradients", "output_gradient"]

ORDERS = 3
FLOAT32_EPSILON = float(torch.finfo(torch.float32).eps)


def output_gradient(spec: AttentionSpec, tensors: Sequence[torch.Tensor], seed: int) -> torch.Tensor:
    """A drawn gradient of o in its element type; zero where a row keeps nothing."""
    arrays = [as_array(tensor.detach()) for tensor in tensors]
    _, lse = reference(spec, *arrays)
    q, v = tensors[0], tensors[2]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn((*q.shape[:3], v.shape[3]), generator=generator)
    return (drawn * torch.from_numpy(~np.isneginf(lse))[..., None]).to(q.dtype).to(q.device)


def expect_gradients(
    function: Function | None, spec: AttentionSpec, tensors: Sequence[torch.Tensor], d_o: torch.Tensor
) -> dict[str, Truth]:
    """The truth of dq, dk, dv and of every floating captured tensor's gradient, by name."""
    arrays = [as_array(tensor.detach()) for tensor in tensors]
    formula = reference_backward(spec, *arrays, do=as_array(d_o))
    exact = dict(formula)
    if function is not None:
        for name, gradient in _by_autograd(function, spec, tensors, d_o).items():
            exact[name] = np.where(np.isfinite(gradient), gradient, formula[name])
    runs = [low_precision_backward(spec, arrays, as_array(d_o), product) for product in (np.matmul, one_by_one)]
    runs += [_in_another_order(spec, arrays, as_array(d_o), seed) for seed in range(ORDERS)]
    return {name: _truth(name, exact, formula, runs, spec) for name in formula}


def _in_another_order(spec: AttentionSpec, arrays: Sequence[Array], d_o: Array, seed: int) -> dict[str, Array]:
    """The same in low precision with the terms of q · k in another order: what rounding does is a matter of luck."""
    order = np.random.default_rng(seed).permutation(spec.head_dim)
    q, k, *rest = arrays
    found = low_precision_backward(spec, [q[..., order], k[..., order], *rest], d_o, seed=seed)
    for name in ("dq", "dk"):
        found[name] = found[name][..., np.argsort(order)]
    return found


def _by_autograd(
    function: Function, spec: AttentionSpec, tensors: Sequence[torch.Tensor], d_o: torch.Tensor
) -> Mapping[str, Array]:
    names = ["dq", "dk", "dv", *(tensor.name for tensor in spec.captured)]
    raised = [
        t.detach().to(torch.float64).contiguous().requires_grad_() if t.is_floating_point() else t.detach().clone()
        for t in tensors
    ]
    wanted = [n for n, tensor in enumerate(raised) if tensor.requires_grad]
    with torch.enable_grad(), in_fp64():
        result = function(*raised)
        o = result[0] if isinstance(result, (tuple, list)) else result
        found = torch.autograd.grad(o, [raised[n] for n in wanted], d_o.to(o.dtype), allow_unused=True)
    pairs = zip(wanted, found, strict=True)
    return {names[n]: np.zeros(raised[n].shape) if g is None else g.numpy() for n, g in pairs}


def _distances(name: str, runs: Sequence[Mapping[str, Array]], formula: Mapping[str, Array]) -> list[float]:
    return [distance(run[name], formula[name]) for run in runs]


def _spread(runs: Sequence[Array], formula: Array) -> float:
    """Three standard deviations of the error: the largest of a few errors may be small by luck, where all are sums."""
    errors = np.stack(runs) - formula
    found = errors[np.isfinite(errors)]
    return 3 * float(np.sqrt(np.mean(found**2))) if found.size else 0.0


def _truth(
    name: str, exact: Mapping[str, Array], formula: Mapping[str, Array], runs: Sequence[Mapping[str, Array]],
    spec: AttentionSpec,
) -> Truth:  # fmt: skip
    dtypes = {"dq": spec.dtype, "dk": spec.dtype, "dv": spec.dtype} | {t.name: t.dtype for t in spec.captured}
    epsilon = float(torch.finfo(to_torch(dtypes[name])).eps)
    low_error = max(_spread([run[name] for run in runs], formula[name]), *_distances(name, runs, formula))
    magnitude = float(np.abs(exact[name][np.isfinite(exact[name])]).max(initial=0.0))
    judged = np.ones(exact[name].shape, np.bool_)
    return Truth(exact[name], low_error, (epsilon + FLOAT32_EPSILON) * magnitude, judged)
