"""Suite `decode`: few queries over many keys, against SDPA and against reading the keys and values alone.

The peak's rows time the reading of as many bytes as the case's keys and values have, in the same rounds:
fraction_of_peak is the share of the machine's bandwidth. Fixed costs of a call show in the short cases.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from .cases import DTYPES, Case, Shape
from .implementations import TILEWRIGHT, implementations_for
from .measure import Session, measure
from .peak import reading_peak
from .rows import Row
from .variants import Variant, all_pairs

__all__ = ["LENGTHS", "decode", "decode_case", "decode_cases"]

LENGTHS = (16, 256, 1024, 4096, 32768)
HEAD_DIM = 64
HEADS = {1: (8, 8), 4: (32, 8)}  # query heads that share keys: heads of queries, of keys
PEERS = {"cpu": ("sdpa",), "triton": ("sdpa-flash", "sdpa-cudnn")}


def grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of every query to every key, with fewer heads of keys than of queries."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    return torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]), dim=-1) @ v


GROUPED = Variant("full", grouped, all_pairs, is_causal=False)


def decode_case(dtype: str, length: int, group: int = 1, queries: int = 1) -> Case:
    """One sequence of `length` keys."""
    query_heads, key_heads = HEADS[group]
    return Case(GROUPED, dtype, Shape(1, query_heads, key_heads, queries, length, HEAD_DIM, HEAD_DIM))


def decode_cases() -> list[Case]:
    """One query at every length; the longest also in float16, with heads that share keys, and with more queries."""
    longest = LENGTHS[-1]
    plain = [decode_case(dtype, length) for dtype in ("bf16", "f32") for length in LENGTHS]
    more = [decode_case("f16", longest), decode_case("bf16", longest, group=4), decode_case("f32", longest, group=4)]
    return [*plain, *more, decode_case("bf16", longest, queries=8), decode_case("bf16", longest, 4, queries=4)]


def decode(session: Session) -> list[Row]:
    """Tilewright and SDPA on every case; extra: gigabytes of keys and values per second."""
    implementations = implementations_for(session.target, TILEWRIGHT, *PEERS[session.target])
    rows = []
    for case in decode_cases():
        peak = reading_peak(session.target, _bytes(case), case.flops)
        measured = measure("decode", case, implementations, replace(session, peaks=lambda *_: peak))  # noqa: B023
        rows += [_with_bandwidth(row, case) for row in measured]
    return rows


def _bytes(case: Case) -> int:
    """Bytes of keys and values."""
    s = case.shape
    return s.B * s.Hkv * s.N * (s.D + s.Dv) * DTYPES[case.dtype].itemsize


def _with_bandwidth(row: Row, case: Case) -> Row:
    if row.median_ms is None:
        return row
    return replace(row, extra={**row.extra, "gigabytes_per_s": _bytes(case) / row.median_ms / 1e6})
