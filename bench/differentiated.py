"""The implementations whose gradients are compared: Tilewright in both modes, and its peers through autograd."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention

from .cases import Case, Inputs
from .implementations import TILEWRIGHT, Implementation, Prepared, block_mask_of
from .training import Outcome, Training

__all__ = ["DIFFERENTIATED", "MAKERS", "UNORDERED", "Attention", "differentiated_for", "gradients_of"]

UNORDERED = "-unordered"  # ends the name of a form that adds as it comes, where that is not a form's only one
Forward = Callable[..., Any]  # o as a tensor
Around = Callable[[], AbstractContextManager[object]]
CPU, GPU = frozenset({"cpu"}), frozenset({"triton"})


@dataclass(frozen=True, slots=True)
class Attention:
    """o as a function of the spec's arguments; around: what to be in while it is computed and differentiated."""

    forward: Forward
    around: Around = nullcontext
    block_mask_ms: float | None = None


Make = Callable[[Training, Inputs, str], Attention | None]


def gradients_of(
    case: Training, inputs: Inputs, attention: Attention, d_o: Tensor | None = None
) -> Callable[[], Outcome]:
    """A run that gives o and the gradients, or, where the case has no forward, the gradients alone.

    d_o: the gradient that arrives, the case's own where None is given.
    """
    forward, around = attention.forward, attention.around
    leaves, d_o = case.leaves(inputs), case.output_gradient(inputs) if d_o is None else d_o
    wanted = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}

    def both() -> Outcome:
        with around():
            o = forward(*leaves.values())
            found = torch.autograd.grad(o, tuple(wanted.values()), d_o)
        return {"o": o.detach(), **dict(zip(wanted, found, strict=True))}

    if case.has_forward:
        return both
    with around():
        o = forward(*leaves.values())

    def backward() -> Outcome:
        with around():
            found = torch.autograd.grad(o, tuple(wanted.values()), d_o, retain_graph=True)
        return dict(zip(wanted, found, strict=True))

    return backward


def _prepare(make: Make, case: Case, inputs: Inputs, target: str) -> Prepared | None:
    """Ready to be timed: a first run, in which the backward is compiled, is over."""
    assert isinstance(case, Training), case
    start = time.perf_counter()
    attention = make(case, inputs, target)
    if attention is None:
        return None
    run = gradients_of(case, inputs, attention)
    run()
    extra = {"compile_s": time.perf_counter() - start}
    if attention.block_mask_ms is not None:
        extra["block_mask_ms"] = attention.block_mask_ms
    return Prepared(run, extra)


def _tilewright(case: Training, inputs: Inputs, target: str, *, is_ordered: bool) -> Attention:
    """Not verified when built: the case's own gradients are compared with the reference before they are timed."""
    import tilewright

    spec = case.variant.spec
    return Attention(tilewright.compile(spec, target=target, backward=True, deterministic=is_ordered, verify=False))


def _sdpa(case: Training, inputs: Inputs, target: str) -> Attention | None:
    is_causal = case.variant.is_causal
    if is_causal is None:
        return None
    is_grouped = case.shape.Hq != case.shape.Hkv
    return Attention(functools.partial(F.scaled_dot_product_attention, is_causal=is_causal, enable_gqa=is_grouped))


def _sdpa_backend(
    case: Training, inputs: Inputs, target: str, *, backend: SDPBackend, around: Around = nullcontext
) -> Attention | None:
    plain = _sdpa(case, inputs, target)
    if plain is None or inputs.q.dtype == torch.float32:
        return None  # these backends take half-precision types only

    def forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            o: Tensor = plain.forward(q, k, v)
        return o

    return Attention(forward, around)


def _flex(case: Training, inputs: Inputs, target: str) -> Attention | None:
    """FlexAttention under torch.compile; making the block mask is timed apart, once."""
    if not case.variant.is_flex:
        return None
    torch._dynamo.reset()  # else the limit on recompilations makes it fall back to eager without a word
    variant = case.variant
    score_mod = variant.score_mod(*inputs.captured) if variant.score_mod else None
    block_mask, extra = block_mask_of(case, inputs)
    compiled = torch.compile(flex_attention, dynamic=False)
    is_grouped = case.shape.Hq != case.shape.Hkv

    def forward(q: Tensor, k: Tensor, v: Tensor, *captured: Tensor) -> Tensor:
        # A backward that is run again, as the suite `determinism` does, must not use up what the forward left.
        with torch._functorch.config.patch(donated_buffer=False):
            o: Tensor = compiled(q, k, v, score_mod=score_mod, block_mask=block_mask, enable_gqa=is_grouped)
        return o

    return Attention(forward, block_mask_ms=extra.get("block_mask_ms"))


def _eager(case: Training, inputs: Inputs, target: str) -> Attention:
    return Attention(case.variant.spec)


@contextmanager
def _deterministic() -> Iterator[None]:
    """As after torch.use_deterministic_algorithms(True), less its filling of new memory, which is for finding bugs."""
    filling: Any = torch.utils.deterministic
    was_on, filled = torch.are_deterministic_algorithms_enabled(), filling.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    filling.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_on)
        filling.fill_uninitialized_memory = filled


def _flash(around: Around) -> Make:
    return functools.partial(_sdpa_backend, backend=SDPBackend.FLASH_ATTENTION, around=around)


MAKERS: dict[str, tuple[frozenset[str], Make]] = {
    TILEWRIGHT: (CPU | GPU, functools.partial(_tilewright, is_ordered=True)),
    TILEWRIGHT + UNORDERED: (CPU | GPU, functools.partial(_tilewright, is_ordered=False)),
    "sdpa": (CPU, _sdpa),
    "sdpa-flash": (GPU, _flash(_deterministic)),
    "sdpa-flash" + UNORDERED: (GPU, _flash(nullcontext)),
    "sdpa-cudnn": (GPU, functools.partial(_sdpa_backend, backend=SDPBackend.CUDNN_ATTENTION)),
    "flex": (GPU, _flex),
    "eager": (CPU | GPU, _eager),
}
DIFFERENTIATED = tuple(
    Implementation(name, targets, functools.partial(_prepare, make)) for name, (targets, make) in MAKERS.items()
)


def differentiated_for(target: str, *names: str) -> tuple[Implementation, ...]:
    """Those that run on a target, in the table's order; only the named ones if names are given."""
    return tuple(i for i in DIFFERENTIATED if target in i.targets and (not names or i.name in names))
