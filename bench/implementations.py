"""The implementations that are compared: Tilewright and its peers, one row each."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from .cases import Case, Inputs

__all__ = ["IMPLEMENTATIONS", "TILEWRIGHT", "Implementation", "Prepared", "block_mask_of", "implementations_for"]

TILEWRIGHT = "tilewright"


@dataclass(frozen=True, slots=True)
class Prepared:
    """An implementation ready for a case: run() computes o and does nothing else; extra goes into its row."""

    run: Callable[[], Any]
    extra: dict[str, float] = field(default_factory=dict)


Prepare = Callable[[Case, Inputs, str], Prepared | None]


@dataclass(frozen=True, slots=True)
class Implementation:
    """prepare(case, inputs, target): None where this implementation does not cover the case."""

    name: str
    targets: frozenset[str]
    prepare: Prepare


def _tilewright(case: Case, inputs: Inputs, target: str) -> Prepared:
    import tilewright

    start = time.perf_counter()
    kernel = tilewright.compile(case.variant.spec, target=target, example=inputs.tensors)
    extra = {"compile_s": time.perf_counter() - start}
    if kernel.report:
        report = kernel.report
        extra |= {"cases": report.cases, "max_error": report.max_error, "error_budget": report.error_budget}
    return Prepared(functools.partial(kernel, *inputs.tensors), extra)


def _sdpa(case: Case, inputs: Inputs, target: str) -> Prepared | None:
    del target
    is_causal = case.variant.is_causal
    if is_causal is None:
        return None
    q, k, v = inputs.q, inputs.k, inputs.v
    call = functools.partial(
        F.scaled_dot_product_attention, q, k, v, is_causal=is_causal, enable_gqa=q.shape[1] != k.shape[1]
    )
    return Prepared(call)


def _sdpa_backend(backend: SDPBackend) -> Prepare:
    def prepare(case: Case, inputs: Inputs, target: str) -> Prepared | None:
        plain = _sdpa(case, inputs, target)
        if plain is None or inputs.q.dtype == torch.float32:
            return None  # these backends take half-precision types only

        def run() -> Any:
            with sdpa_kernel(backend):
                return plain.run()

        return Prepared(run)

    return prepare


def _flex(case: Case, inputs: Inputs, target: str) -> Prepared | None:
    """FlexAttention under torch.compile; making the block mask is timed apart, once."""
    del target
    if not case.variant.is_flex:
        return None
    torch._dynamo.reset()  # else the limit on recompilations makes it fall back to eager without a word
    variant, (q, k, v) = case.variant, (inputs.q, inputs.k, inputs.v)
    score_mod = variant.score_mod(*inputs.captured) if variant.score_mod else None
    block_mask, extra = block_mask_of(case, inputs)
    compiled = torch.compile(flex_attention, dynamic=False)
    gqa = q.shape[1] != k.shape[1]

    def run() -> Any:
        with torch.no_grad():
            return compiled(q, k, v, score_mod=score_mod, block_mask=block_mask, enable_gqa=gqa)

    return Prepared(run, extra)


def block_mask_of(case: Case, inputs: Inputs) -> tuple[BlockMask | None, dict[str, float]]:
    """FlexAttention's block mask of a case, and how long making it took (extra: block_mask_ms)."""
    if case.variant.mask_mod is None:
        return None, {}
    mask_mod = case.variant.mask_mod(*inputs.captured)
    sizes = (None, None, case.shape.M, case.shape.N)
    make = functools.partial(create_block_mask, mask_mod, *sizes, device=inputs.q.device.type)
    start = time.perf_counter()
    block_mask = make()
    if inputs.q.is_cuda:
        torch.cuda.synchronize()
    return block_mask, {"block_mask_ms": 1e3 * (time.perf_counter() - start)}


def _eager(case: Case, inputs: Inputs, target: str) -> Prepared:
    del target
    return Prepared(functools.partial(case.variant.spec, *inputs.tensors))


CPU, GPU = frozenset({"cpu"}), frozenset({"triton"})
IMPLEMENTATIONS = (
    Implementation(TILEWRIGHT, CPU | GPU, _tilewright),
    Implementation("sdpa", CPU, _sdpa),
    Implementation("sdpa-flash", GPU, _sdpa_backend(SDPBackend.FLASH_ATTENTION)),
    Implementation("sdpa-cudnn", GPU, _sdpa_backend(SDPBackend.CUDNN_ATTENTION)),
    Implementation("flex", CPU | GPU, _flex),
    Implementation("eager", CPU | GPU, _eager),
)


def implementations_for(target: str, *names: str) -> tuple[Implementation, ...]:
    """Those that run on a target, in the table's order; only the named ones if names are given."""
    return tuple(i for i in IMPLEMENTATIONS if target in i.targets and (not names or i.name in names))
