"""Errors as models and people make them, one kind each: edits of a right program that leave it looking right.

`told`: words that the judge's reason must have, where the error has a plain meaning.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CONTROLS", "KINDS", "Edit", "Kind"]

Edit = tuple[str, str]
MASKED = "where(keep(b, h, i, j) & (j < N), score(s, b, h, i, j) * 1.4426950408889634, -inf)"
UNMASKED = "score(s, b, h, i, j) * 1.4426950408889634"
TAIL = "where(j < N, score(s, b, h, i, j) * 1.4426950408889634, -inf)"
FULL = 'for n in tiles(N, 16, where=keep(b, h, m, n), part="full"):'
PARTIAL = 'for n in tiles(N, 16, where=keep(b, h, m, n), part="partial"):'
WEIGHED = "where(keep(b, h, i, j) & (j < N), weight(x, b, h, i, j), 0.0)"
CAPPED = "score(where(keep(b, h, i, j) & (j < N), s, -inf), b, h, i, j) * 1.4426950408889634"
SUNK = "(peak + log2(mass - exp2(sinks[h] * 1.4426950408889634 - peak))) * 0.6931471805599453"
MASKED_SCORE = "weight(where(keep(b, h, i, j) & (j < N), x, 0.0), b, h, i, j)"
EARLY_SUM = "w = weight(x, b, h, i, j)\n            total = reduce_sum(w, axis=n)"
NATURAL = "(x * 0.6931471805599453 - base * 0.6931471805599453) * 1.4426950408889634"
ADDED = "(s * 0.36067376022224085 + added[h, i, j] * 1.4426950408889634)"
ASYNC = "copy_async(ring[n, :], k[b, g, n, :])\n            commit()\n            wait_group(0)"
QUERIES = "q_tile = load(q[b, h, m, :])"
SCALED_QUERIES = "q_raw = load(q[b, h, m, :])\n        q_tile = q_raw * 0.25"
GUARDED = "where(peak_next == -inf, 0.0, peak_next)"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of error (or of harmless rewrite): its name, the base it is made on, the edits, what must be told."""

    name: str
    base: str
    edits: tuple[Edit, ...]
    told: str = ""


def _kind(name: str, base: str, old: str, new: str, told: str = "") -> Kind:
    return Kind(name, base, ((old, new),), told)


MASKS = (
    _kind("diagonal left out", "causal", "j <= i", "j < i", "leaves out key j=0, which the function keeps"),
    _kind("one key of the future", "causal", "j <= i", "j <= i + 1", "keeps key j=1, which the function leaves out"),
    _kind("causal the other way", "causal", "j <= i", "i <= j", "row i=0"),
    _kind("tail mask one short", "alibi", "where(j < N,", "where(j < N - 1,", "leaves out key"),
    _kind("no tail mask", "alibi", TAIL, UNMASKED),
    _kind("no tail mask under causal", "causal", MASKED, MASKED.replace(" & (j < N)", "")),
    _kind("partial tiles taken for full", "causal", MASKED, UNMASKED),
    _kind("partial tiles left out", "causal", PARTIAL, PARTIAL.replace("partial", "full")),
    _kind("all tiles in the sweep without a mask", "causal", FULL, FULL.replace('"full"', '"any"')),
    _kind("window wider by one", "window", "i < j + 5", "i <= j + 5", "keeps key j=0, which the function leaves out"),
    _kind("window narrower by one", "window", "i < j + 5", "i < j + 4", "leaves out key j=0, which the function keeps"),
    _kind("window on one side", "window", "(i < j + 5) & (j < i + 5)", "i < j + 5", "keeps key"),
    _kind("documents of the first batch entry", "documents", "ids[b, i] == ids[b, j]", "ids[0, i] == ids[0, j]"),
    _kind("documents compared in order", "documents", "ids[b, i] == ids[b, j]", "ids[b, i] >= ids[b, j]", "keeps key"),
    _kind("documents compared by position", "documents", "ids[b, i] == ids[b, j]", "ids[b, i] == j", "row i="),
    _kind("documents not causal", "documents", " & (j <= i)\n", "\n", "keeps key"),
    _kind("prefix longer by one", "prefix", "j < lengths[b]", "j <= lengths[b]", "keeps key"),
    _kind("prefix and causal", "prefix", ") | (", ") & (", "leaves out key"),
    _kind("prefix of the first batch entry", "prefix", "lengths[b]", "lengths[0]"),
)
SOFTMAX = (
    _kind("sums of values not rescaled", "causal", "into=acc * rescale", "into=acc"),
    _kind("mass not rescaled", "causal", "mass * rescale + total", "mass + total"),
    _kind("stale maximum", "causal", GUARDED, "where(peak == -inf, 0.0, peak)"),
    _kind("maximum never kept", "causal", "            peak = peak_next\n", ""),
    _kind("maximum starts at zero", "causal", "full(f32[m], -inf)", "zeros(f32[m])"),
    _kind("maximum of the last tile alone", "causal", "max(peak, top)", "top"),
    _kind("minimum for maximum", "causal", "max(peak, top)", "min(peak, top)"),
    _kind("no guard for rows without keys yet", "window", GUARDED, "peak_next"),
    _kind("share without a guard for zero", "causal", "where(mass == 0.0, 0.0, 1.0 / mass)", "1.0 / mass"),
    _kind("not divided by the mass", "causal", "acc * share", "acc"),
    _kind("exp for exp2", "causal", "p = exp2(x - base)", "p = exp(x - base)"),
    _kind("exp2 without log2(e)", "causal", " * 1.4426950408889634", ""),
    _kind("log2(e) of three digits", "causal", "1.4426950408889634", "1.443"),
    _kind("weights rounded before the sum", "causal", "p = exp2(x - base)", "p = f16(exp2(x - base))"),
    _kind("a mass of one too many", "alibi", "1.0 / mass", "1.0 / (mass + 1.0)"),
    _kind(
        "maximum over rows of the other tile", "causal", "rescale = exp2(peak - base)", "rescale = exp2(base - peak)"
    ),
    _kind("lse in base 2", "causal", "(peak + log2(mass)) * 0.6931471805599453", "peak + log2(mass)"),
    _kind("lse without the maximum", "causal", "(peak + log2(mass)) * 0.6", "log2(mass) * 0.6"),
    _kind("lse of natural logarithms mixed", "causal", "log2(mass)", "log(mass)"),
)
SCORES = (
    _kind("scale missing", "causal", "s * 0.25", "s"),
    _kind("scale 1/D for 1/sqrt(D)", "causal", "s * 0.25", "s * 0.0625"),
    _kind("scale inverted", "causal", "s * 0.25", "s * 4.0"),
    _kind("softcap not scaled back", "softcap", "tanh(s * 0.05) * 5.0", "tanh(s * 0.05)"),
    _kind("softcap of unscaled scores", "softcap", "s * 0.05", "s * 0.2"),
    _kind("softcap after the mask", "softcap", MASKED, CAPPED, "keeps key"),
    _kind("bias scaled", "bias", "s * 0.25 + added[h, i, j]", "(s + added[h, i, j]) * 0.25"),
    _kind("bias in base 2", "bias", "added[h, i, j]", "added[h, i, j] * 0.6931471805599453"),
    _kind("bias of the first head", "bias", "added[h, i, j]", "added[0, i, j]"),
    _kind("bias with rows and keys swapped", "bias", "added[h, i, j]", "added[h, j, i]"),
    _kind("ALiBi sign", "alibi", "f32(j - i)", "f32(i - j)"),
    _kind("ALiBi distance without direction", "alibi", "f32(j - i)", "f32(-abs(j - i))"),
    _kind("ALiBi slope of the key head", "alibi", "slopes[h]", "slopes[h // (Hq // Hkv)]"),
    _kind("ALiBi slope of the batch entry", "alibi", "slopes[h]", "slopes[b]"),
    _kind("ALiBi of absolute positions", "alibi", "f32(j - i)", "f32(j)"),
)
NORMALISERS = (
    _kind("sink left out", "sink", "where(sinks[h] == -inf, 0.0, 1.0)", "0.0"),
    _kind("sink of the key head", "sink", "sinks[h]", "sinks[h // (Hq // Hkv)]"),
    _kind("sink in base 2", "sink", "sinks[h] * 1.4426950408889634", "sinks[h]"),
    _kind("sink not in lse", "sink", "(peak + log2(mass)) * 0.6931471805599453", SUNK),
    _kind("sink has a value", "sink", "acc = zeros(f32[m, Dv])", "acc = full(f32[m, Dv], 1.0)"),
    _kind("sigmoid of masked scores kept", "sigmoid", WEIGHED, MASKED_SCORE),
    _kind("sigmoid without its bias", "sigmoid", "s * 0.25 - 2.0", "s * 0.25"),
    _kind("sigmoid in base 2", "sigmoid", "return sigmoid(s)", "return 1.0 / (1.0 + exp2(-s))"),
    _kind("sum before the mask", "relu", "total = reduce_sum(p, axis=n)", EARLY_SUM),
    _kind("row sum without epsilon", "relu", "mass + 0.5", "mass"),
    _kind("epsilon as a floor", "relu", "mass + 0.5", "max(mass, 0.5)"),
    _kind("relu of unscaled scores", "relu", "s * 0.25", "s"),
    _kind("absolute value for relu", "relu", "max(s, 0.0)", "abs(s)"),
    _kind("dropped at swapped places", "thinned", "i * 7 + j * 4", "j * 7 + i * 4"),
    _kind("dropped without making up for it", "thinned", "1.25", "1.0"),
)
PLACES = (
    _kind("key head by remainder", "causal", "h // (Hq // Hkv)", "h % Hkv", "reads values of key head"),
    _kind("key head by the count of key heads", "causal", "h // (Hq // Hkv)", "h // Hkv"),
    _kind("always the first key head", "causal", "h // (Hq // Hkv)", "0", "reads values of key head 0"),
    _kind(
        "values of another head", "causal", "load(v[b, g, n, :])", "load(v[b, 0, n, :])", "reads values of key head 0"
    ),
    _kind(
        "values of another batch entry",
        "causal",
        "load(v[b, g, n, :])",
        "load(v[0, g, n, :])",
        "reads values of batch entry 0",
    ),
    _kind("head and batch swapped", "causal", "load(q[b, h, m, :])", "load(q[h, b, m, :])"),
    _kind("rows as many as keys", "causal", "tiles(M, 16)", "tiles(N, 16)"),
    _kind("keys as many as rows", "alibi", "tiles(N, 16", "tiles(M, 16"),
    _kind("keys for values", "causal", "load(v[b, g, n, :])", "load(k[b, g, n, :])"),
    _kind(
        "first tile of keys left out",
        "alibi",
        FULL,
        "for t in range(1, N // 16):\n            n = tile(N, 16, t)",
        "leaves out keys j=0 to 15",
    ),
    _kind(
        "last whole tile left out",
        "alibi",
        FULL,
        "for t in range(0, N // 16 - 1):\n            n = tile(N, 16, t)",
        "leaves out keys j=0 to 15",
    ),
    _kind("stored to another head", "causal", "store(o[b, h, m, :]", "store(o[b, g, m, :]"),
    _kind("lse stored to another head", "causal", "store(lse[b, h, m]", "store(lse[b, g, m]"),
    _kind("does not wait for the copy", "staged", "wait_group(0)", "wait_group(1)"),
    _kind("commits nothing", "staged", "            commit()\n            wait_group(0)\n", ""),
    _kind("parts of sums merged without rescaling", "split", "sums_there * rescale_there", "sums_there * 1.0"),
    _kind("parts of mass merged without rescaling", "split", "mass_there * rescale_there", "mass_there * 1.0"),
    _kind("a key in two parts", "split", "(j < split * length(N) + length(N))", "(j <= split * length(N) + length(N))"),
    _kind(
        "parts that leave out their last key",
        "split",
        "(j < split * length(N) + length(N))",
        "(j < split * length(N) + length(N) - 1)",
        "leaves out key",
    ),
    _kind("rows of packed heads mixed up", "split", "i = index(m) % M", "i = index(m) // (Hq // Hkv)"),
    _kind(
        "parts read before they are written",
        "split",
        "store(mass_split[b, g, split, m], mass_here)",
        "store(mass_split[b, g, 0, m], mass_here)",
    ),
)
KINDS = (*MASKS, *SOFTMAX, *SCORES, *NORMALISERS, *PLACES)

MERGED = 'for n in tiles(N, 16, where=keep(b, h, m, n), part="any"):'


def _controls() -> tuple[Kind, ...]:
    """Rewrites that keep the meaning."""
    tiles = tuple(
        Kind(f"{name} in tiles of {size}", name, ((", 16,", f", {size},"), (", 16)", f", {size})")))
        for name, size in (("causal", 8), ("window", 32), ("alibi", 64))
    )
    return (
        *tiles,
        _kind("keys in descending order", "causal", 'part="partial"', 'part="partial", order="descending"'),
        _kind("instances in another order", "bias", 'order="longest_first"', 'order="descending"'),
        _kind("exp for exp2, and a factor", "causal", "exp2(x - base)", "exp((x - base) * 0.6931471805599453)"),
        _kind("scores in natural units", "alibi", "x - base", NATURAL),
        Kind("scale on the queries", "causal", ((QUERIES, SCALED_QUERIES), ("s * 0.25", "s"))),
        _kind("a mask written the other way", "window", "(i < j + 5) & (j < i + 5)", "abs(i - j) <= 4"),
        _kind("a mask by choice", "causal", "return j <= i", "return where(i < j, False, True)"),
        _kind("division at the end", "softcap", "acc * share", "where(mass == 0.0, 0.0, acc / mass)"),
        _kind("the bias added in base 2", "bias", "score(s, b, h, i, j) * 1.4426950408889634", ADDED),
        _kind("other names", "prefix", "peak", "highest"),
        _kind("a mass that starts at one", "causal", "mass = zeros(f32[m])", "mass = full(f32[m], 1.0)"),
        _kind("mass as a product with ones", "causal", "mass * rescale + total", "total + mass * rescale"),
        _kind(
            "a floor below any score",
            "sink",
            "where(peak_next == -inf, 0.0, peak_next)",
            "where(peak_next == -inf, 1.0, peak_next)",
        ),
        _kind("sigmoid by tanh", "sigmoid", "return sigmoid(s)", "return tanh(s * 0.5) * 0.5 + 0.5"),
        _kind("relu by choice", "relu", "max(s, 0.0)", "where(s < 0.0, 0.0, s)"),
        Kind("one sweep for two", "causal", ((FULL, "ONE"), (PARTIAL, MERGED)), "merged"),
        _kind("no copy in flight", "staged", ASYNC, "copy(ring[n, :], k[b, g, n, :])"),
        _kind("parts of another length", "split", "* 16, 32)", "* 16, 48)"),
    )


CONTROLS = _controls()
