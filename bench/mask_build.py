"""Suite `mask-build`: making a block mask for 32k x 32k, and the first attention call with a mask just made."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch.nn.attention import flex_attention as peer

from .cases import Case
from .forward import case_of
from .implementations import TILEWRIGHT
from .measure import Session
from .rows import Row, Times

__all__ = ["MASK_LENGTH", "MASK_VARIANTS", "mask_build", "mask_case"]

MASK_LENGTH = 32768
MASK_VARIANTS = ("documents", "window")
HEAD_DIM = 64
ROUNDS = {TILEWRIGHT: 20, "flex": 1}  # a mask of PyTorch's takes a minute and gigabytes at this length
Build = Callable[[], Any]
Call = Callable[[Any], None]


def mask_case(variant: str) -> Case:
    """One head of float32 at the suite's length."""
    return case_of(variant, "f32", (1, 1, MASK_LENGTH), HEAD_DIM)


def mask_build(session: Session) -> list[Row]:
    """Times of create_block_mask alone; extra: first_call_ms, the first call with the mask, of a kernel that exists."""
    return [row for variant in MASK_VARIANTS for row in _rows(session, mask_case(variant))]


def _rows(session: Session, case: Case) -> Iterator[Row]:
    for impl, rounds in ROUNDS.items():
        session.say(f"mask-build: {case} {impl}")
        try:
            build, call = _prepare(case, impl, session.device)
            seconds, first = _measured(build, call, rounds)
        except Exception as error:  # noqa: BLE001 - whatever one implementation does, the others are measured
            yield session.row("mask-build", case, impl, error=f"{type(error).__name__}: {error}")
            continue
        yield session.row("mask-build", case, impl, **asdict(Times.of(seconds)), extra={"first_call_ms": 1e3 * first})


def _prepare(case: Case, impl: str, device: torch.device) -> tuple[Build, Call]:
    from ..compat import flex_attention as ours

    torch._dynamo.reset()
    inputs = case.inputs(device)
    attend = ours.flex_attention if impl == TILEWRIGHT else torch.compile(peer.flex_attention, dynamic=False)
    create = ours.create_block_mask if impl == TILEWRIGHT else peer.create_block_mask
    make = case.variant.mask_mod
    assert make is not None, case
    lengths = (case.shape.M, case.shape.N)

    def build() -> Any:
        return create(make(*(x.clone() for x in inputs.captured)), None, None, *lengths, device=device)

    def call(mask: Any) -> None:
        with torch.no_grad():
            attend(inputs.q, inputs.k, inputs.v, block_mask=mask)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return build, call


def _measured(build: Build, call: Call, rounds: int) -> tuple[list[float], float]:
    """Seconds of each build, and of a call with the last mask, of the kernel that a call with the first has made."""
    seconds = []
    masks = []
    for _ in range(rounds):
        start = time.perf_counter()
        masks.append(build())
        seconds.append(time.perf_counter() - start)
    call(masks[0])
    start = time.perf_counter()
    call(masks[-1])
    return seconds, time.perf_counter() - start
