"""Specs on sequences of any length: what transfer makes of the ragged and paged references, against the formula."""

from __future__ import annotations

import numpy as np
import pytest

from tilewright.ir.evaluate import Array
from tilewright.ir.interpreter import interpret
from tilewright.ir.parser import parse_spec
from tilewright.ir.reference import reference
from tilewright.ir.spec import AttentionSpec
from tilewright.ir.transfer import Orchestration, transfer
from tilewright.ir.verify import verify
from tilewright.kernels.references import reference_program

SPECS = {
    "window-softcap": ("", "20.0 * tanh(s * 0.05)", "(j <= i + N - M) & (i + N - M - j < 20)", "softmax()"),
    "alibi": ("slopes: f32[Hq]", "s * 0.2 - slopes[h] * f32(i + N - M - j)", "j <= i + N - M", "softmax()"),
    "sink": ("sinks: f32[B, Hq]", "s * 0.2", "j < N - b", "softmax(sink=sinks[b, h])"),
    "row-sum": ("", "s * 0.2", "i + j < N", "row_sum(epsilon=0.001)"),
}
ROWS, COLUMNS = [5, 0, 40, 33], [7, 3, 41, 66]
HOWS = {
    "as it is": None,
    "packed": Orchestration((("m", 32), ("n", 16)), is_packed=True),
}


def spec_of(name: str) -> AttentionSpec:
    captured, score, keep, normaliser = SPECS[name]
    weight = "    def weight(s: float, b: int, h: int, i: int, j: int):\n        return exp(s) / f32(M + N)\n\n"
    return parse_spec(f"""@attention(D=8, Dv=6, group=3)
def variant(q: f32[B, Hq, M, D], k: f32[B, Hkv, N, D], v: f32[B, Hkv, N, Dv], {captured}):
    def score(s: float, b: int, h: int, i: int, j: int):
        return {score}

    def keep(b: int, h: int, i: int, j: int):
        return {keep}

{weight if "row_sum" in normaliser else ""}    return {normaliser}
""")


def draw(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape)


def captured_of(spec: AttentionSpec, batch: int) -> dict[str, Array]:
    return {t.name: draw(*({"B": batch, "Hq": 6}[str(dim)] for dim in t.dims)) / 4 for t in spec.captured}


def expect_of(spec: AttentionSpec, b: int, q: Array, k: Array, v: Array, captured: dict[str, Array]) -> list[Array]:
    """The formula on sequence b; the others of the batch hold the same, so that b keeps its number."""
    repeated = [np.repeat(x.swapaxes(0, 1)[None], b + 1, axis=0) for x in (q, k, v)]
    own = [x[: b + 1] if spec.captured[n].dims[0] == "B" else x for n, x in enumerate(captured.values())]
    return [x[b] for x in reference(spec, *repeated, *own)]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", SPECS)
def test_sequences_end_to_end(name: str, how: str) -> None:
    spec = spec_of(name)
    program = transfer(reference_program("flash_ragged"), spec, HOWS[how])
    verify(program)
    q, k, v = draw(sum(ROWS), 6, 8), draw(sum(COLUMNS), 2, 8), draw(sum(COLUMNS), 2, 6)
    captured = captured_of(spec, len(ROWS))
    starts = [np.concatenate([[0], np.cumsum(x)]).astype(np.int32) for x in (ROWS, COLUMNS)]
    given = {"q": q, "k": k, "v": v, "cu_q": starts[0], "cu_k": starts[1], **captured}
    out = interpret(program, given, float_type=np.float64, sizes={"B": len(ROWS), "M": 64, "N": 80})
    for b in range(len(ROWS)):
        at, keys = (slice(*x[b : b + 2]) for x in starts)
        o, lse = expect_of(spec, b, q[at], k[keys], v[keys], captured)
        np.testing.assert_allclose(out["o"][at].swapaxes(0, 1), o, rtol=0, atol=1e-12)
        if "lse" in out:
            np.testing.assert_allclose(out["lse"][:, at], lse, rtol=0, atol=1e-12)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", SPECS)
def test_pages(name: str, how: str) -> None:
    spec, rows, page = spec_of(name), 37, 6
    program = transfer(reference_program("flash_paged"), spec, HOWS[how])
    verify(program)
    table = np.random.default_rng(0).permutation(48).reshape(4, 12).astype(np.int32)
    q, k, v = draw(4, rows, 6, 8), draw(48, page, 2, 8), draw(48, page, 2, 6)
    captured, lengths = captured_of(spec, 4), np.array(COLUMNS, np.int32)
    given = {"q": q, "k": k, "v": v, "block_table": table, "lengths": lengths, **captured}
    out = interpret(program, given, float_type=np.float64, sizes={"N": 72})
    for b, n in enumerate(COLUMNS):
        keys, values = (x[table[b]].reshape(-1, *x.shape[2:])[:n] for x in (k, v))
        o, lse = expect_of(spec, b, q[b], keys, values, captured)
        np.testing.assert_allclose(out["o"][b].swapaxes(0, 1), o, rtol=0, atol=1e-12)
        if "lse" in out:
            np.testing.assert_allclose(out["lse"][b], lse, rtol=0, atol=1e-12)
