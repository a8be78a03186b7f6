"""Suite `varlen`: a batch of sequences of many lengths, end to end through the flash-attn drop-in.

The peers are SDPA on the padded batch (its tensors padded beforehand, with a boolean mask of the keys; causal needs
none, since what pads comes last), SDPA once a sequence, and, where the mask can be built in reasonable time,
compiled FlexAttention with a document mask. Every row also says what memory a call adds (extra: resident_mb).
"""

from __future__ import annotations

import functools
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from .agreement import reference_of
from .cases import DTYPES, Case, Inputs, Shape
from .implementations import TILEWRIGHT
from .measure import Session
from .rows import Row, Times
from .timing import Run, interleave
from .variants import VARIANTS

__all__ = ["PADDED", "Batch", "prepare", "varlen", "varlen_batches"]

HEADS, HEAD_DIM, SEED = 8, 64, 20
MEMORY_TIMEOUT_S = 600.0
PADDED = "sdpa-padded"
MAX_FLEX_TOKENS = 1 << 14  # building PyTorch's block mask evaluates tokens x tokens


@dataclass(frozen=True, slots=True)
class Batch:
    """`count` sequences of lengths drawn from 1 to `longest`, self-attention; variant: full or causal."""

    count: int
    longest: int
    dtype: str
    variant: str

    def __str__(self) -> str:
        """S64-L2048-H8-D64-f32-causal."""
        return f"S{self.count}-L{self.longest}-H{HEADS}-D{HEAD_DIM}-{self.dtype}-{self.variant}"

    @property
    def lengths(self) -> list[int]:
        """The same at every call; the longest is among them."""
        generator = torch.Generator().manual_seed(SEED)
        drawn = torch.randint(1, self.longest + 1, (self.count - 1,), generator=generator).tolist()
        return [*drawn, self.longest]

    @property
    def starts(self) -> list[int]:
        """Where sequences start, and where the last one ends."""
        return [0, *itertools.accumulate(self.lengths)]

    @property
    def flops(self) -> int:
        """Operations of the two products on the pairs that no mask removes, padding not counted."""
        pairs = sum(VARIANTS[self.variant].pairs(length, length) for length in self.lengths)
        return 4 * HEADS * HEAD_DIM * pairs

    @property
    def is_causal(self) -> bool:
        """Whether later keys are hidden."""
        return self.variant == "causal"

    def inputs(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v [tokens, H, D], standard normal, the same at every call."""
        generator = torch.Generator(device).manual_seed(SEED)
        shape = (3, self.starts[-1], HEADS, HEAD_DIM)
        q, k, v = torch.randn(shape, generator=generator, device=device).to(DTYPES[self.dtype])
        return q, k, v


def varlen_batches() -> list[Batch]:
    """Long batches, and short ones that FlexAttention's mask can be built for."""
    sizes = ((64, 2048), (64, 256))
    return [
        Batch(*size, dtype, variant) for size in sizes for dtype in ("f32", "bf16") for variant in ("full", "causal")
    ]


Prepare = Callable[[Batch, torch.device], Run]


def _tilewright(batch: Batch, device: torch.device) -> Run:
    from ..compat.flash_attn import flash_attn_varlen_func

    starts = torch.tensor(batch.starts, dtype=torch.int32, device=device)
    q, k, v = batch.inputs(device)
    longest = batch.longest
    return lambda: flash_attn_varlen_func(q, k, v, starts, starts, longest, longest, causal=batch.is_causal)


def _padded(batch: Batch, device: torch.device) -> Run:
    """Inputs are padded before; the result stays padded."""
    lengths = torch.tensor(batch.lengths, device=device)
    keep = torch.arange(batch.longest, device=device) < lengths[:, None]
    shape = (3, batch.count, batch.longest, HEADS, HEAD_DIM)
    padded = torch.zeros(shape, dtype=DTYPES[batch.dtype], device=device)
    for room, x in zip(padded, batch.inputs(device), strict=True):
        room[keep] = x
    q, k, v = padded.transpose(2, 3)
    mask = None if batch.is_causal else keep[:, None, None, :]

    def run() -> PaddedOutput:
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=batch.is_causal)
        return PaddedOutput(o.transpose(1, 2), keep)

    return run


class PaddedOutput:
    """[B, longest, H, D] and which positions are tokens; unpadding it is not part of what is timed."""

    def __init__(self, output: Tensor, keep: Tensor) -> None:
        self._output, self._keep = output, keep

    def packed(self) -> Tensor:
        """The tokens, end to end."""
        return self._output[self._keep]


def _loop(batch: Batch, device: torch.device) -> Run:
    tensors, pairs = batch.inputs(device), list(itertools.pairwise(batch.starts))

    def run() -> Tensor:
        out = torch.empty_like(tensors[0])
        for start, end in pairs:
            q, k, v = (x[None, start:end].transpose(1, 2) for x in tensors)
            out[start:end] = F.scaled_dot_product_attention(q, k, v, is_causal=batch.is_causal)[0].transpose(0, 1)
        return out

    return run


def _flex(batch: Batch, device: torch.device) -> Run:
    torch._dynamo.reset()
    tokens = batch.starts[-1]
    document = torch.repeat_interleave(torch.arange(batch.count), torch.tensor(batch.lengths)).to(device)

    def keep(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        same = document[i] == document[j]
        return same & (j <= i) if batch.is_causal else same

    mask = create_block_mask(keep, None, None, tokens, tokens, device=device.type)
    q, k, v = (x[None].transpose(1, 2) for x in batch.inputs(device))
    call = torch.compile(flex_attention, dynamic=False)

    def run() -> Tensor:
        with torch.no_grad():
            out: Tensor = call(q, k, v, block_mask=mask)[0].transpose(0, 1)
            return out

    return run


IMPLEMENTATIONS: dict[str, Prepare] = {TILEWRIGHT: _tilewright, PADDED: _padded, "sdpa-loop": _loop, "flex": _flex}


def prepare(impl: str, batch: Batch, device: torch.device) -> Run:
    """A call that computes the batch and does nothing else."""
    return IMPLEMENTATIONS[impl](batch, device)


def varlen(session: Session) -> list[Row]:
    """A row per implementation and batch; what disagrees with the reference is an error row."""
    quick = replace(session, rounds=replace(session.rounds, least=3, warmups=1))
    return [row for batch in varlen_batches() for row in _rows(quick, batch)]


def _rows(session: Session, batch: Batch) -> list[Row]:
    session.say(f"varlen: {batch}")
    names = [name for name in IMPLEMENTATIONS if name != "flex" or batch.starts[-1] <= MAX_FLEX_TOKENS]
    runs: dict[str, Run] = {}
    errors: dict[str, str] = {}
    for name in names:
        try:
            run = prepare(name, batch, session.device)
            found = complaint(batch, run())
        except Exception as error:  # noqa: BLE001 - whatever one implementation does, the others are measured
            found = f"{type(error).__name__}: {error}"
        if found is None:
            runs[name] = run
        else:
            errors[name] = found
    samples = interleave(runs, session.rounds, session.timer)
    make = functools.partial(session.row, "varlen", str(batch), dtype=batch.dtype)
    rows = []
    for name, seconds in samples.items():
        times = Times.of(seconds)
        extra, failed = _memory(batch, name) if session.target == "cpu" else ({}, None)
        gflops = batch.flops / times.median_ms / 1e6
        rows.append(make(impl=name, **asdict(times), gflops=gflops, extra=extra, error=failed))
    return rows + [make(impl=name, error=why) for name, why in errors.items()]


def complaint(batch: Batch, output: object) -> str | None:
    """Why an output is wrong on a short, a middling and a longer sequence, or None."""
    packed = output.packed() if isinstance(output, PaddedOutput) else output
    assert isinstance(packed, Tensor), type(output)
    by_length = sorted(range(batch.count), key=lambda s: batch.lengths[s])
    for s in by_length[:: max(1, batch.count // 4)][:3]:
        part = slice(*batch.starts[s : s + 2])
        case = Case(
            VARIANTS[batch.variant], batch.dtype, Shape(1, HEADS, HEADS, *[batch.lengths[s]] * 2, *[HEAD_DIM] * 2)
        )
        q, k, v = (x[None, part].transpose(1, 2) for x in batch.inputs(packed.device))
        found = reference_of(case, Inputs(q, k, v, ())).complaint(packed[None, part].transpose(1, 2))
        if found:
            return f"sequence {s}: {found}"
    return None


def _memory(batch: Batch, impl: str) -> tuple[dict[str, float], str | None]:
    """What a call adds, and what its inputs take, in a process of its own."""
    arguments = [impl, str(batch.count), str(batch.longest), batch.dtype, batch.variant]
    command = [sys.executable, "-m", "tilewright.bench.varlen_memory", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=MEMORY_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return {}, f"memory: not done within {MEMORY_TIMEOUT_S:g} s"
    if done.returncode:
        return {}, done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
    found: dict[str, float] = json.loads(done.stdout)
    return found, None
