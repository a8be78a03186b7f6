"""Right and wrong candidates as data: attention variants as specs, and edits of their programs' text that go wrong.

What an edit does to one variant may be nothing (an edge that no row has) or refused by validity; whether a candidate is
right is found by judging it, never taken from this table.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..ir.parser import parse_spec
from ..ir.spec import AttentionSpec

__all__ = ["EDITS", "SPECS", "edited_texts", "spec_of"]

TEXT = """\
@attention(D=16, Dv=16, group=2)
def {name}(q: f32[B, Hq, M, D], k: f32[B, Hkv, N, D], v: f32[B, Hkv, N, Dv]{captured}):
    def score(s: float, b: int, h: int, i: int, j: int):
        return {score}

    def keep(b: int, h: int, i: int, j: int):
        return {keep}

{weight}    return {normaliser}
"""
WEIGHT = "    def weight(s: float, b: int, h: int, i: int, j: int):\n        return {}\n\n"

# name -> score, keep, captured tensors, weight where it is no softmax
SPECS: Mapping[str, tuple[str, str, str, str]] = {
    "causal": ("s * 0.25", "j <= i", "", ""),
    "window": ("s * 0.25", "(j <= i) & (i - j < 20)", "", ""),
    "softcap": ("tanh(s * 0.125) * 2.0", "j <= i", "", ""),
    "alibi": ("s * 0.25 - slopes[h] * f32(i - j)", "j <= i", ", slopes: f32[Hq]", ""),
    "prefix_lm": ("s * 0.25", "(j <= i) | (j < prefix[b])", ", prefix: i32[B]", ""),
    "global_window": ("s * 0.25", "(j <= i) & ((i - j < 20) | (j < 4))", "", ""),
    "share_question": (
        "s * 0.25", "(j <= i) & ((part[b, j] == 0) | (part[b, i] == part[b, j]))", ", part: i32[B, N]", "",
    ),
    "block_causal": ("s * 0.25", "j // 16 <= i // 16", "", ""),
    "relative": ("s * 0.25 + table[min(max(i - j, -8), 8) + 8, h]", "True", ", table: f32[17, Hq]", ""),
    "relu": ("s * 0.25", "True", "", "max(s, 0.0) / f32(N)"),
    "sigmoid": ("s * 0.25", "True", "", "sigmoid(s - log(f32(N)))"),
    "comb": (
        "tanh(s * 0.125) * 2.0", "(j <= i) | (j < prefix[b])", ", prefix: i32[B]", "sigmoid(s - log(f32(N)))",
    ),
}  # fmt: skip

# kind -> what stands in a program's text, and what stands there instead; everywhere where it stands
EDITS: Mapping[str, tuple[str, str]] = {
    "mask without the diagonal": ("j <= i", "j < i"),
    "mask one too far": ("j <= i", "j <= i + 1"),
    "mask from the last row": ("j <= i", "j <= i + N - M"),
    "window one too wide": ("i - j < 20", "i - j <= 20"),
    "window too wide": ("i - j < 20", "i - j < 200"),
    "first keys forgotten": (" | (j < 4)", " | (j < 3)"),
    "prefix one too long": ("j < prefix[b]", "j <= prefix[b]"),
    "batch forgotten": ("[b", "[0"),
    "question of the row": ("part[b, j] == 0", "part[b, i] == 0"),
    "blocks of another size": ("j // 16", "j // 32"),
    "wrong group": ("g = h // (Hq // Hkv)", "g = h % Hkv"),
    "first group": ("g = h // (Hq // Hkv)", "g = h * 0"),
    "scale doubled": ("s * 0.25", "s * 0.5"),
    "scale of another width": ("s * 0.25", "s * 0.125"),
    "cap forgotten": ("tanh(s * 0.125) * 2.0", "s * 0.25"),
    "slope upside down": ("- slopes[h]", "+ slopes[h]"),
    "slope of the first head": ("slopes[h]", "slopes[0]"),
    "distance turned": ("max(i - j, -8)", "max(j - i, -8)"),
    "distance cut": ("max(i - j, -8)", "max(i - j, -4)"),
    "length of the rows": ("f32(N)", "f32(M)"),
    "weights of all keys": ("max(s, 0.0)", "s"),
    "logarithm to base 2": ("- log(f32(N))", "- log2(f32(N))"),
    "end of keys forgotten": (" & (j < N)", ""),
    "end of rows for keys": ("(j < N)", "(j < M)"),
    "sums not rescaled": ("mass * rescale + total", "mass + total"),
    "outputs not rescaled": ("into=acc * rescale", "into=acc"),
    "no peak": ("max(peak, top)", "max(peak, 0.0)"),
    "stale peak": ("            peak = peak_next\n", ""),
    "peak of the tile": ("max(peak, top)", "top"),
    "exponential to base e": (" * 1.4426950408889634", ""),
    "rows without keys": ("where(mass == 0.0, 0.0, 1.0 / mass)", "1.0 / mass"),
    "lse to base 2": ("(peak + log2(mass)) * 0.6931471805599453", "peak + log2(mass)"),
    "full tiles only": ('part="partial"', 'part="full"'),
    "partial tiles only": ('part="full"', 'part="partial"'),
}


def spec_of(name: str) -> AttentionSpec:
    """One of SPECS."""
    score, keep, captured, weight = SPECS[name]
    return parse_spec(
        TEXT.format(
            name=name, score=score, keep=keep, captured=captured, weight=WEIGHT.format(weight) if weight else "",
            normaliser="elementwise()" if weight else "softmax()",
        )
    )  # fmt: skip


def edited_texts(text: str) -> dict[str, str]:
    """The edits that change a program's text, by kind."""
    edited = {kind: text.replace(old, new) for kind, (old, new) in EDITS.items()}
    return {kind: changed for kind, changed in edited.items() if changed != text}
