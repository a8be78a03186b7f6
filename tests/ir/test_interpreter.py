"""The interpreter gives programs their meaning: tiles, ragged ends, domains, rounding, and independence of the seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tilewright.ir.errors import OutOfBounds, ProgramError, ShapeError, UninitialisedRead
from tilewright.ir.evaluate import Array, round_bf16
from tilewright.ir.interpreter import explore, interpret
from tilewright.ir.parser import parse_program

PROGRAMS = Path(__file__).parent / "programs"
REFERENCE = Path(__file__).resolve().parents[2] / "kernels" / "programs" / "flash_forward.txt"


def text_of(name: str) -> str:
    return (PROGRAMS / f"{name}.txt").read_text(encoding="utf-8")


def edited(text: str, *edits: tuple[str, str]) -> str:
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new)
    return text


def forward_in_tiles_of_16() -> str:
    text = REFERENCE.read_text(encoding="utf-8")
    return edited(text, ("tiles(M, 64", "tiles(M, 16"), ("tiles(N, 64", "tiles(N, 16"))


def arrays(*shapes: tuple[int, ...], seed: int = 0) -> list[Array]:
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape).astype(np.float32) for shape in shapes]


def dense(q: Array, k: Array, v: Array, scale: float, keep: Array | None = None) -> tuple[Array, Array]:
    """Attention in fp64, rows that keep nothing giving zero and -inf."""
    k, v = (np.repeat(x.astype(np.float64), q.shape[1] // k.shape[1], axis=1) for x in (k, v))
    s = q.astype(np.float64) @ k.swapaxes(-1, -2) * scale
    s = s if keep is None else np.where(keep, s, -np.inf)
    peak = s.max(axis=-1, keepdims=True, initial=-np.inf)
    weights = np.exp(s - np.where(np.isneginf(peak), 0, peak))
    mass = weights.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        lse = np.where(mass == 0, -np.inf, peak + np.log(mass))[..., 0]
    return weights @ v / np.where(mass == 0, 1, mass), lse


@pytest.mark.parametrize(("heads", "groups", "m", "n"), [(2, 2, 130, 130), (4, 1, 1, 65), (2, 1, 64, 17), (2, 2, 3, 0)])
def test_forward_is_dense_attention(heads: int, groups: int, m: int, n: int) -> None:
    q, k, v = arrays((1, heads, m, 64), (1, groups, n, 64), (1, groups, n, 64))
    program = parse_program(REFERENCE.read_text(encoding="utf-8"))
    exact = interpret(program, {"q": q, "k": k, "v": v}, float_type=np.float64)
    o, lse = dense(q, k, v, 1.0)
    np.testing.assert_allclose(exact["o"], o, rtol=0, atol=1e-12)
    np.testing.assert_allclose(exact["lse"], lse, rtol=0, atol=1e-11)
    single = interpret(program, {"q": q, "k": k, "v": v})
    assert single["o"].dtype == np.float32
    np.testing.assert_allclose(single["o"], o, rtol=0, atol=1e-4)


@pytest.mark.parametrize("keep", ["i >= j", "(i - j < 20) & (i >= j)", "False", "(i + h) % 3 != j % 2"])
def test_domain_of_a_mask_is_visited_exactly(keep: str) -> None:
    text = edited(forward_in_tiles_of_16(), ("return True", f"return {keep}"))
    q, k, v = arrays((1, 2, 45, 64), (1, 1, 50, 64), (1, 1, 50, 64))
    got = interpret(parse_program(text), {"q": q, "k": k, "v": v}, float_type=np.float64)
    b, h, i, j = np.ogrid[:1, :2, :45, :50]
    mask = np.broadcast_to(eval(keep, {"b": b, "h": h, "i": i, "j": j}), (1, 2, 45, 50))  # noqa: S307
    o, lse = dense(q, k, v, 1.0, mask)
    np.testing.assert_allclose(got["o"], o, rtol=0, atol=1e-12)
    np.testing.assert_allclose(got["lse"], lse, rtol=0, atol=1e-11)


def test_captured_tensors_read_as_zero_only_past_a_ragged_end() -> None:
    text = edited(
        forward_in_tiles_of_16(),
        ("    o: out", "    documents: i32[B, N],\n    bias: f32[Hq, W],\n    o: out"),
        ("return s\n", "return s + bias[h, i - j + 44]\n"),
        ("return True", "return documents[b, i] == documents[b, j]"),
    )
    q, k, v, bias = arrays((2, 2, 45, 64), (2, 2, 45, 64), (2, 2, 45, 64), (2, 89))
    documents = np.sort(np.random.default_rng(1).integers(0, 4, (2, 45)), axis=1)
    arguments = {"q": q, "k": k, "v": v, "documents": documents, "bias": bias}
    got = interpret(parse_program(text), arguments, float_type=np.float64)
    keep = (documents[:, :, None] == documents[:, None, :])[:, None]
    i, j = np.ogrid[:45, :45]
    s = q.astype(np.float64) @ k.swapaxes(-1, -2) + bias[:, i - j + 44]
    weights = np.where(keep, np.exp(s), 0)
    np.testing.assert_allclose(got["o"], weights @ v / weights.sum(-1, keepdims=True), rtol=0, atol=1e-12)
    arguments["bias"] = bias[:, :50]
    with pytest.raises(OutOfBounds, match=r"loads bias\[\d, \d+\], which has shape \[2, 50\]") as caught:
        interpret(parse_program(text), arguments)
    assert caught.value.lines[1].text == "bias: f32[Hq, W],"


@pytest.mark.parametrize("seed", range(20))
def test_warp_specialised_forward_is_right_under_every_interleaving(seed: int) -> None:
    q, k, v = (round_bf16(x) for x in arrays((1, 2, 25, 16), (1, 1, 37, 16), (1, 1, 37, 16)))
    program = parse_program(text_of("hopper_forward"))
    got = interpret(program, {"q": q, "k": k, "v": v}, seed=seed, float_type=np.float64)
    np.testing.assert_allclose(got["o"], dense(q, k, v, 0.25)[0], rtol=0, atol=1e-12)


def test_outputs_do_not_depend_on_the_seed_or_on_residency() -> None:
    x = arrays((18, 8))[0]
    for name in ("staged", "prefetched"):
        for resident in (None, 1, 2):
            found = explore(parse_program(text_of(name)), {"x": x}, seeds=range(20), resident=resident)
            assert found.is_deterministic
            np.testing.assert_array_equal(found.outputs["y"], 2 * x)


def test_ordered_additions_are_bitwise_equal_and_unordered_ones_are_reported() -> None:
    x, y = arrays((40, 4), (16, 4))
    text = text_of("column_sums")
    ordered = explore(parse_program(text), {"x": x, "y": y}, seeds=range(20))
    assert ordered.is_deterministic
    assert ordered.unordered == ()
    expected = np.zeros((16, 4), np.float32)
    for n in range(0, 40, 8):
        for m in range(0, 16, 8):
            expected[m : m + 8] += (y[m : m + 8] @ x[n : n + 8].T) @ x[n : n + 8]
    np.testing.assert_array_equal(ordered.outputs["total"], expected)

    unordered = explore(parse_program(edited(text, (", after=n)", ")"))), {"x": x, "y": y}, seeds=range(20))
    assert not unordered.is_deterministic
    assert [line.text for line in unordered.unordered] == ["reduce_add(total[m, :], part)"]
    assert unordered.differences[0].output == "total"
    np.testing.assert_allclose(unordered.outputs["total"], expected, rtol=1e-5, atol=1e-4)


PACKED = """
@program(D=8)
def packed(x: bf16[N, D], y: out(bf16[N, D]), z: out(f32[N])):
    x_pack = alloc(bf16[N, D], layout="rows:4")
    for n in grid(tiles(N, 4)):
        x_block = load(x[n, :])
        store(x_pack[n, :], x_block * 3.0)
    for n in grid(tiles(N, 4), order="descending"):
        x_tile = load(x_pack[n, :])
        rounded = bf16(x_tile * 1.01)
        store(y[n, :], x_tile * 1.01)
        i = index(n)
        least = reduce_max(rounded, axis=D)
        if n == 1:
            least = where(i < 6, least, float(i))
        store(z[n], least)
"""


def test_memory_and_casts_round_and_exact_arithmetic_does_not() -> None:
    text = PACKED.replace("float(i)", "f32(i)")
    x = round_bf16(arrays((10, 8))[0])
    got = interpret(parse_program(text), {"x": x})
    tripled = round_bf16(x * 3)
    np.testing.assert_array_equal(got["y"], round_bf16(tripled * np.float32(1.01)))
    rows = np.arange(10)
    top = got["y"].max(axis=1)
    np.testing.assert_array_equal(got["z"], np.where((rows == 6) | (rows == 7), rows, top))
    exact = interpret(parse_program(text), {"x": x}, float_type=np.float64)
    np.testing.assert_array_equal(exact["y"], x.astype(np.float64) * 3 * 1.01)
    np.testing.assert_array_equal(exact["z"][:6], exact["y"].max(axis=1)[:6])


def test_arguments_that_do_not_fit_are_refused() -> None:
    program = parse_program(text_of("hopper_forward"))
    q, k, v = arrays((1, 2, 8, 16), (1, 1, 8, 16), (1, 1, 8, 16))
    with pytest.raises(ShapeError, match="argument v is missing"):
        interpret(program, {"q": q, "k": k})
    with pytest.raises(ShapeError, match=r"k has shape \(8, 16\), wanted dims"):
        interpret(program, {"q": q, "k": k[0, 0], "v": v})
    with pytest.raises(ShapeError, match=r"v has N=9 in \(1, 1, 9, 16\), wanted 8"):
        interpret(program, {"q": q, "k": k, "v": arrays((1, 1, 9, 16))[0]})
    lonely = parse_program(edited(text_of("staged"), ("y: out(f32[N, D])", "y: out(f32[N, D]),\n    z: out(f32[K])")))
    with pytest.raises(ShapeError, match="output z has size K, which no input has"):
        interpret(lonely, {"x": arrays((4, 8))[0]})


@pytest.mark.parametrize(
    ("edits", "reason"),
    [
        ([("gemm(y_tile, x_tile)", "gemm(y_tile, y_tile)")], "exactly one must be shared"),
        ([("gemm(w, x_tile)", "gemm(w, x_tile, into=w)")], "into= has axes"),
        ([("store(total[m, :], zero)", "store(y[m, :], zero)")], "y is an input"),
        ([("reduce_add(total[m, :], part", "reduce_add(total[m, :], w")], "written to a place with axes"),
        ([("load(y[m, :])", "load(y[m])")], "2 dimensions, but 1 indices"),
    ],
)
def test_statements_whose_types_do_not_fit_are_refused(edits: list[tuple[str, str]], reason: str) -> None:
    x, y = arrays((8, 4), (8, 4))
    with pytest.raises(ProgramError, match=reason) as caught:
        interpret(parse_program(edited(text_of("column_sums"), *edits)), {"x": x, "y": y})
    assert caught.value.line is not None


def test_an_output_that_is_not_written_everywhere_is_reported() -> None:
    program = parse_program(edited(text_of("staged"), ("grid(tiles(N, 4))", "grid(tiles(N - 6, 4))")))
    with pytest.raises(
        UninitialisedRead, match=r"never writes 48 of the 80 elements of output y, the first at \[4, 0\]"
    ):
        interpret(program, {"x": arrays((10, 8))[0]})
