"""The specs that every target is tested on, as text, and tensors for them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tilewright.ir.parser import parse_spec
from tilewright.ir.spec import AttentionSpec
from tilewright.kernels.dtypes import as_array, to_torch
from tilewright.kernels.oracle import distance, expect

TEXT = """\
@attention(D={d}, Dv={dv}, group={group})
def variant(q: {t}[B, Hq, M, D], k: {t}[B, Hkv, N, D], v: {t}[B, Hkv, N, Dv]{captured}):
    def score(s: float, b: int, h: int, i: int, j: int):
        return {score}

    def keep(b: int, h: int, i: int, j: int):
        return {keep}

{weight}{after}    return {normaliser}
"""
WEIGHT = "    def weight(s: float, b: int, h: int, i: int, j: int):\n        return {}\n\n"
AFTER = "    def after(b: int, h: int, i: int, j: int):\n        return {}\n\n"


@dataclass(frozen=True)
class Variant:
    """One spec: expressions as text, captured tensors as parameters of the spec."""

    score: str = "s * 0.2"
    keep: str = "True"
    captured: str = ""
    normaliser: str = "softmax()"
    weight: str = ""
    after: str = ""

    def spec(self, d: int = 40, dv: int = 32, group: int = 2, dtype: str = "f32") -> AttentionSpec:
        weight = WEIGHT.format(self.weight) if self.weight else ""
        after = AFTER.format(self.after) if self.after else ""
        captured = f", {self.captured}" if self.captured else ""
        return parse_spec(
            TEXT.format(d=d, dv=dv, group=group, t=dtype, captured=captured, score=self.score, keep=self.keep,
                        weight=weight, after=after, normaliser=self.normaliser)
        )  # fmt: skip


ELEMENTWISE = "elementwise()"
HASH = "i32(i32(i * 1664525 + 1013904223) * i32(j * 22695477 + seed[()]) + h * 747796405)"
VARIANTS = {
    "full": Variant(),
    "causal": Variant(keep="j <= i"),
    "causal-bottom-right": Variant(keep="j <= i + N - M"),
    "window": Variant(keep="(j <= i) & (i - j < 20)"),
    "softcap": Variant(score="20.0 * tanh(s * 0.05)", keep="j <= i"),
    "alibi": Variant(score="s * 0.2 - slopes[h] * f32(i - j)", keep="j <= i", captured="slopes: f32[Hq]"),
    "alibi-by-formula": Variant(score="s * 0.2 - exp2(0.0 - 8.0 * f32(h + 1) / f32(Hq)) * f32(abs(i - j))"),
    "bias": Variant(score="s * 0.2 + bias[h, i, j]", captured="bias: f32[Hq, M, N]"),
    "bias-bf16": Variant(score="s * 0.2 + bias[0, i, j]", captured="bias: bf16[1, M, N]"),
    "relative-table": Variant(score="s * 0.2 + table[min(max(i - j, 0 - 8), 8) + 8, h]", captured="table: f32[17, Hq]"),
    "buckets": Variant(score="s * 0.2 + table[min(max((i - j) // 16 + 4, 0), 8)]", captured="table: f32[9]"),
    "documents": Variant(keep="(doc[b, i] == doc[b, j]) & (j <= i)", captured="doc: i32[B, N]"),
    "share-question": Variant(
        keep="(j <= i) & ((doc[b, j] == 0) | (doc[b, i] == doc[b, j]))", captured="doc: i32[B, N]"
    ),
    "captured-mask": Variant(keep="mask[b, 0, i, j]", captured="mask: bool[B, 1, M, N]"),
    "packed-words": Variant(keep="(words[0, i, j // 32] >> j % 32 & 1) == 1", captured="words: i32[1, M, Words]"),
    "packed-bytes": Variant(keep="(words[i, j // 8] >> j % 8 & 1) == 1", captured="words: u8[M, Bytes]"),
    "blocks": Variant(keep="blocks[h, i // 16, j // 16]", captured="blocks: bool[Hq, Rows, Columns]"),
    "tree": Variant(keep="(j < 5) | ((words[i] >> max(j - 5, 0) & 1) == 1)", captured="words: i32[M]"),
    "padding": Variant(keep="j < lengths[b]", captured="lengths: i64[B]"),
    "prefix": Variant(keep="(j <= i) | (j < prefix[b])", captured="prefix: i32[B]"),
    "prefix-scalar": Variant(keep="(j <= i) | (j < prefix[()])", captured="prefix: i64[()]"),
    "dilated": Variant(keep="(j <= i) & ((i - j) % 3 == 0)"),
    "dilated-window": Variant(keep="(j <= i) & (i - j < 40) & ((i - j) % 4 == 0)"),
    "neighbourhood": Variant(keep="(abs(i // 8 - j // 8) <= 2) & (abs(i % 8 - j % 8) <= 2)"),
    "block-causal": Variant(keep="j // 16 <= i // 16"),
    "global-window": Variant(keep="(j <= i) & ((i - j < 20) | (j < 4))"),
    "sink": Variant(normaliser="softmax(sink=sinks[h])", keep="j <= i", captured="sinks: f32[Hq]"),
    "sigmoid": Variant(normaliser=ELEMENTWISE, weight="sigmoid(s - log(f32(N)))", keep="j <= i"),
    "relu": Variant(normaliser=ELEMENTWISE, weight="max(s, 0.0) / f32(N)"),
    "relu2": Variant(normaliser=ELEMENTWISE, weight="max(s, 0.0) * max(s, 0.0) / f32(N)"),
    "no-normaliser": Variant(normaliser=ELEMENTWISE, weight="s", keep="j <= i"),
    "powers": Variant(normaliser=ELEMENTWISE, weight="pow(abs(s), 1.5) * erf(s) + pow(s, 3.0)"),
    "row-sum": Variant(normaliser="row_sum(epsilon=0.001)", weight="exp(s)"),
    "nothing-kept": Variant(keep="(j <= i) & (i % 2 == 0)"),
    "dropout": Variant(
        keep="j <= i", captured="seed: i64[()]", after=f"where(6000000 <= {HASH} >> 8 & 16777215, 1.5, 0.0)"
    ),
    "gate-after": Variant(keep="j <= i", captured="gate: f32[Hq, M, N]", after="gate[h, i, j]"),
    "mask-after": Variant(captured="mask: bool[B, 1, M, N]", after="where(mask[b, 0, i, j], 1.0, 0.0) / f32(j + 1)"),
    "gate-after-sum": Variant(
        normaliser="row_sum(epsilon=0.5)", weight="exp(s)", keep="j <= i + 3", after="f32(i + 1) / f32(i + 7 - j)"
    ),
}
QUICK = ("causal", "causal-bottom-right", "window", "softcap", "alibi", "bias-bf16", "relative-table", "documents", "captured-mask",
         "packed-words", "packed-bytes", "blocks", "tree", "padding", "prefix", "dilated-window", "sink", "sigmoid", "relu2",
         "row-sum", "nothing-kept", "dropout", "gate-after", "gate-after-sum")  # fmt: skip
SLOW = tuple(name for name in VARIANTS if name not in QUICK)


def named_sizes(spec: AttentionSpec, batch: int, heads: int, rows: int, columns: int) -> dict[str, int]:
    """Sizes by name; documents are over one sequence, so they need as many rows as columns."""
    rows = columns if "doc" in {tensor.name for tensor in spec.captured} else rows
    sizes = {"B": batch, "Hq": heads, "Hkv": heads // spec.group, "M": rows, "N": columns}
    sizes |= {"D": spec.head_dim, "Dv": spec.value_dim, "Words": columns // 32 + 1, "Bytes": columns // 8 + 1}
    return sizes | {"Rows": rows // 16 + 1, "Columns": columns // 16 + 1}


def arguments(spec: AttentionSpec, sizes: dict[str, int]) -> list[torch.Tensor]:
    """Random tensors of a spec, the same at every call."""
    torch.manual_seed(0)
    tensors = []
    for t in spec.tensors:
        shape = [d if isinstance(d, int) else sizes[d] for d in t.dims]
        drawn = torch.randn(shape).to(to_torch(t.dtype))
        tensors.append(drawn if t.name in "qkv" else _captured(t.name, shape, drawn.dtype, sizes["N"]))
    return tensors


def _captured(name: str, shape: list[int], dtype: torch.dtype, columns: int) -> torch.Tensor:
    if name == "doc":
        return (torch.arange(shape[-1]) // 19).expand(shape).to(dtype).contiguous()
    if dtype is torch.bool:
        return torch.rand(shape) < 0.6
    if name == "words":
        limits = torch.iinfo(dtype)
        return torch.randint(limits.min, limits.max + 1, shape, dtype=torch.int64).to(dtype)
    if not dtype.is_floating_point:
        return torch.randint(1, columns + 1, shape, dtype=dtype)
    return torch.randn(shape).to(dtype)


def check(spec: AttentionSpec, tensors: list[torch.Tensor], outputs: list[torch.Tensor]) -> None:
    """Output and lse within the budget of the low-precision reference."""
    expected = expect(None, spec, tensors)
    assert distance(as_array(outputs[0]), expected.o.exact) <= expected.o.budget
    if len(outputs) > 1:
        assert distance(as_array(outputs[1]), expected.lse.exact) <= expected.lse.budget
