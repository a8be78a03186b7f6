"""Kernels that are subtly wrong: refused with the line, or understood as what they really compute. Never mended."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from foreign import program

from tilewright.ir.errors import ScheduleError
from tilewright.ir.evaluate import evaluate
from tilewright.ir.transfer import recognise
from tilewright.ir.transfer.confirm import confirm

RESCALED = "rescaled by exactly what the running maximum rose"
WRONG = [
    ("window_gqa", "into=acc * fade", "into=acc", RESCALED),
    ("window_gqa", "mass = mass * fade + more", "mass = mass + more", RESCALED),
    ("window_gqa", "exp2(s - top), 0.0)", "exp2(s - peak), 0.0)", RESCALED),
    ("window_gqa", "            peak = top\n", "", RESCALED),
    ("window_gqa", "most = reduce_max(s, axis=n)", "most = reduce_max(dots, axis=n)", "not the running maximum"),
    ("window_gqa", "k[b, h // (Hq // Hkv), n, :]", "k[b, h % Hkv, n, :]", "other rows or heads"),
    ("window_gqa", "v[b, h // (Hq // Hkv), n, :]", "v[b, h % Hkv, n, :]", "other rows or heads"),
    ("window_gqa", "h // (Hq // Hkv)", "h % Hkv", "is not h // group"),
    ("window_gqa", "(peak + log2(mass)) *", "(peak + mass) *", "expected the logarithm of the sums"),
    ("window_gqa", "acc / mass)", "acc)", "does not cancel"),
    ("window_gqa", "o[b, h, block, :], acc", "o[b, 0, block, :], acc", "its queries are at"),
    ("window_gqa", "tiles(N, 32)", "tiles(N // 32 * 32, 32)", "are stored, of N"),
    ("causal_two_loops", "range(start_m * 128 // 64, (", "range(start_m * 128 // 64 - 1, (", "counts once"),
    ("causal_two_loops", "range(0, start_m * 128 // 64)", "range(0, start_m * 128 // 64 + 1)", "counts once"),
    ("causal_two_loops", "masked = qk * 0.18033688", "masked = qk * 0.125", "weights differ from loop to loop"),
    ("causal_two_loops", "m_ij = max(m_i, top * 0.18033688)", "m_ij = max(m_i, top)", "not the running maximum"),
    ("bias_descending", "            mi = mn\n            acc = acc * rise", "            acc = acc * rise\n            mi = tops",
     RESCALED),
    ("softcap_alibi", "fade = exp2((top - new) * 1.4426950408889634)", "fade = exp2(top - new)", "not the running maximum"),
    ("softcap_alibi", "g = h * Hkv // Hq", "g = h * Hkv % Hq", "is not h // group"),
    ("sigmoid_bnhd", "acc = zeros(f32[tile_q, Dv])", "acc = full(f32[tile_q, Dv], 1.0)", "plain sums over keys"),
    ("split_lse", "(N + 3) // 4 + 31) // 32)", "N // 4 + 31) // 32)", "counts once"),
    ("split_lse", "weight = exp(l - base)", "weight = exp(l - base) * 2.0", "merged by their own maxima"),
    ("split_lse", "top + log(den))", "top)", "merged by their own maxima"),
    ("split_lse", "for part in range(0, 4)", "for part in range(0, 3)", "counts once"),
    ("two_pass", "x - safe", "x * 0.5 - safe", "not the running maximum"),
    ("two_pass", "(doc[b, index(m)] == doc[b, index(n2)]) & ", "", "multiply v, but"),
    ("two_pass", "lse = m_i + log(l_i)", "lse = m_i", "does not cancel"),
    ("varlen_causal", "K[starts_k[b] + j", "K[starts_q[b] + j", "other rows or heads"),
    ("varlen_causal", "_k[b] + j,", "_q[b] + j,", "begin where"),
    ("varlen_causal", "where=j < klen)\n                s =", "where=j + 1 < klen)\n                s =", "rows are left out"),
    ("varlen_causal", "if m * 64 < qlen:", "if m * 64 + 64 < qlen:", "rows are stored only where"),
    ("varlen_lengths", "index(n) <= index(m), s", "index(n) <= index(m) + 99, s", "expected a number that its rows"),
    ("varlen_lengths", "store(Out[first[b]", "store(Out[first[b] + 1", "its queries are at"),
    ("if_mask", "r = exp(mi - new)", "r = exp(mi - where(new > 0.0, new, 0.0))", RESCALED),
    ("if_mask", "acc = gemm(p, vt, into=acc * r)", "acc = gemm(p, vt, into=acc * exp(mi - max(new, 0.0)))", RESCALED),
    ("if_mask", "            li = li * r + ls\n", "            if t > 0:\n                li = li * r + ls\n",
     "under a condition that others are not"),
    ("sink_start", "num / den", "num / (den + exp(1.0 - top))", "expected one extra logit"),
    ("mask_tensor", "load(mask[b, m, n])", "load(mask[b, m, n], where=index(m) > 3)", "rows are left out"),
    ("window_three", "for t in range(m, m + 1)", "for t in range(m - 1, m + 1)", "counts once"),
    ("relu_squared", "part = reduce_sum(w, axis=n)", "part = reduce_sum(r, axis=n)", "are not those that multiply v"),
    ("normalised_steps", "p * (new / grown)", "p * (new / sum)", RESCALED),
    ("normalised_steps", "(sum / grown * old)", "(sum / grown)", RESCALED),
    ("normalised_steps", "(sum / grown * old)", "(1.0 / grown * old)", RESCALED),
    ("normalised_steps", "p * (new / grown)", "p / grown", RESCALED),
    ("normalised_steps", "acc = zeros(f32[m, Dv])", "acc = full(f32[m, Dv], 1.0)", RESCALED),
    ("running_lse", "l_i_new = exp(lse_i - m_ij) + l_ij", "l_i_new = exp(m_i - m_ij) + l_ij", RESCALED),
    ("running_lse", "o_scale = exp(m_i - lse_i)", "o_scale = exp(lse_i - m_i)", "does not cancel"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new", "reason"), WRONG, ids=lambda text: text[:24].strip())
def test_wrong_kernels_are_refused_with_the_line(name: str, old: str, new: str, reason: str) -> None:
    with pytest.raises(ScheduleError, match="recognise: ") as caught:
        recognise(program(name, (old, new)))
    assert reason in str(caught.value)
    assert "\n    line " in str(caught.value)


DIFFERENT = {
    "strictly causal": ("causal_two_loops", "index(start_m) >= index(n)", "index(start_m) > index(n)"),
    "one tile too few": ("window_gqa", "(min((block + 1) * 32, N) + 15) // 16", "block * 32 // 16"),
    "one tile too late": ("window_gqa", "max(block * 32 - 20, 0) // 16", "max(block * 32 - 20, 0) // 16 + 1"),
    "no ragged tile": ("window_gqa", "(min((block + 1) * 32, N) + 15) // 16", "min((block + 1) * 32, N) // 16"),
    "no first tile": ("causal_two_loops", "range(0, start_m * 128 // 64)", "range(1, start_m * 128 // 64)"),
    "a bias of the batch": ("bias_descending", "Bias[h, m, n]", "Bias[b % 2, m, n]"),
    "a sink of half a key": ("no_maximum", "den = zeros(f32[m])", "den = full(f32[m], 0.5)"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_different_kernels_are_what_they_compute(name: str) -> None:
    base, old, new = DIFFERENT[name]
    raw, whole = program(base, (old, new)), recognise(program(base)).spec
    found = recognise(raw)
    own, other = ((s.score, s.keep, s.normaliser) for s in (found.spec, whole))
    assert own != other
    assert confirm(raw, found) < 1e-5


def test_loops_that_leave_tiles_out_say_so() -> None:
    found = recognise(program(*_one_tile_too_few()))
    assert any("their bounds are part of the mask" in note for note in found.notes)
    keep = found.spec.keep
    for i, j in product(range(0, 96, 7), range(0, 96, 5)):
        visited = max(i // 32 * 32 - 20, 0) // 16 <= j // 16 < i // 32 * 2
        env = {"b": 0, "h": 0, "i": i, "j": j, "M": 96, "N": 96}
        assert bool(np.all(evaluate(keep, env, {}))) == (visited and j <= i <= j + 20)


def _one_tile_too_few() -> tuple[str, tuple[str, str]]:
    name, old, new = DIFFERENT["one tile too few"]
    return name, (old, new)


def test_scores_without_a_test_of_the_end_need_whole_tiles() -> None:
    found = recognise(program("running_lse", (" + where(index(n) < N, 0.0, -inf)", " + 0.0")))
    assert str(found.spec.requires) == "0 == N % 64"
    assert any("scores past the last key are not masked" in note for note in found.notes)


def test_a_causal_mask_makes_the_test_of_the_end_needless() -> None:
    found = recognise(program("window_gqa", (" & (j < N)", "")))
    assert str(found.spec.requires) == "M == N"


def test_a_program_that_is_no_attention_is_refused() -> None:
    with pytest.raises(ScheduleError, match="sums of weighted rows of v"):
        recognise(
            program("window_gqa", ("acc / mass", "mass * 2.0"), ("acc = gemm(p, v_rows, into=acc * fade)", "acc = acc"))
        )
