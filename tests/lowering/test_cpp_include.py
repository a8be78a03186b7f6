"""The headers under generated C++, at every instruction set level of this machine: a harness exports them to NumPy."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tilewright.lowering.build import build_shared_library, load_shared_library
from tilewright.lowering.cpp.target import INCLUDES
from tilewright.lowering.toolchain import supported_isas

HARNESS = Path(__file__).with_name("cpp_harness.cpp").read_text()
POINTS = 1 << 18


@pytest.fixture(scope="module", params=supported_isas())
def library(request: pytest.FixtureRequest) -> ctypes.CDLL:
    built = load_shared_library(build_shared_library(HARNESS, request.param, INCLUDES))
    built.start()
    return built


def address(array: np.ndarray) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


def apply(function: Any, *inputs: np.ndarray, out: type = np.float32) -> np.ndarray:
    """function(inputs…, out, n) over arrays of one length, which is kept from being a whole number of vectors."""
    y = np.zeros(inputs[0].shape, out)
    function(*map(address, inputs), address(y), ctypes.c_int(y.size))
    return y


def spread(low: float, high: float) -> np.ndarray:
    return np.linspace(low, high, POINTS + 3).astype(np.float32)


def signed_logspace(low: float, high: float) -> np.ndarray:
    size = np.exp(np.linspace(np.log(low), np.log(high), POINTS // 2 + 1))
    return np.concatenate([-size, size]).astype(np.float32)


def positive() -> np.ndarray:
    return np.concatenate([np.exp(np.linspace(np.log(2e-38), np.log(3e38), POINTS)), spread(0.4, 2.5)]).astype(np.float32)


def ulps(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Errors in units in the last place of the exact value, where that is a normal float."""
    size = np.abs(exact)
    is_normal = (size > np.finfo(np.float32).tiny) & (size < np.finfo(np.float32).max)
    spacing = np.spacing(np.where(is_normal, size, 1).astype(np.float32)).astype(np.float64)
    return np.where(is_normal, np.abs(got.astype(np.float64) - exact) / spacing, 0)


def torch_in_fp64(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: function(torch.from_numpy(x)).numpy()


# function: fp64 formula, arguments, bound in ulp that its header states
FUNCTIONS = {
    "exp2": (np.exp2, np.concatenate([spread(-125, 127.9), signed_logspace(1e-30, 1)]), 3),
    "exp": (np.exp, np.concatenate([spread(-87, 88.7), signed_logspace(1e-30, 1)]), 3),
    "log": (np.log, positive(), 1),
    "log2": (np.log2, positive(), 3),
    "tanh": (np.tanh, np.concatenate([spread(-12, 12), signed_logspace(1e-30, 1)]), 2),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), spread(-87, 30), 5),
    "erf": (torch_in_fp64(torch.erf), np.concatenate([spread(-5, 5), signed_logspace(1e-30, 1)]), 3),
    "sqrt": (np.sqrt, positive(), 0.5001),
    "rsqrt": (lambda x: 1 / np.sqrt(x), positive(), 2),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_of_function_is_within_its_stated_ulps(library: ctypes.CDLL, name: str) -> None:
    formula, x, bound = FUNCTIONS[name]
    errors = ulps(apply(getattr(library, f"vector_{name}"), x), formula(x.astype(np.float64)))
    assert errors.max() <= bound, f"{name}({x[errors.argmax()]!r}) is {errors.max():.2f} ulp off"


def test_coarse_exp2_is_far_below_the_rounding_of_bf16(library: ctypes.CDLL) -> None:
    x = spread(-125, 127.9)
    relative = apply(library.vector_exp2_bf16, x) / np.exp2(x.astype(np.float64)) - 1
    assert np.abs(relative).max() < 2**-9 / 20


@pytest.mark.parametrize("name", ["sin", "cos"])
def test_error_of_sine_and_cosine_is_within_1e_7(library: ctypes.CDLL, name: str) -> None:
    x = np.concatenate([spread(-10, 10), spread(-9e4, 9e4), np.float32([1e6, -3e7, 1e30])])
    exact = getattr(np, name)(x.astype(np.float64))
    assert np.abs(apply(getattr(library, f"vector_{name}"), x) - exact).max() < 1.2e-7


INF, NAN = np.inf, np.nan
# function: (argument, value) pairs that must hold exactly
SPECIAL = {
    "exp2": [(-INF, 0), (INF, INF), (128, INF), (-200, 0), (0, 1), (-3, 0.125), (127, 2.0**127)],
    "exp2_bf16": [(-INF, 0), (INF, INF), (0, 1), (-7, 2.0**-7)],
    "exp": [(-INF, 0), (INF, INF), (89, INF), (-200, 0), (0, 1)],
    "log": [(0, -INF), (-0.0, -INF), (INF, INF), (-1, NAN), (1, 0)],
    "log2": [(0, -INF), (INF, INF), (-INF, NAN), (1, 0), (8, 3), (2.0**-149, -149)],
    "tanh": [(-INF, -1), (INF, 1), (20, 1), (0, 0), (-0.0, -0.0)],
    "sigmoid": [(-INF, 0), (INF, 1), (0, 0.5)],
    "erf": [(-INF, -1), (INF, 1), (5, 1), (-0.0, -0.0)],
    "sqrt": [(INF, INF), (-1, NAN), (4, 2)],
    "rsqrt": [(0, INF), (INF, 0), (4, 0.5)],
    "sin": [(0, 0), (INF, NAN)],
    "cos": [(0, 1), (-INF, NAN)],
    "floor": [(-1.5, -2), (2.5, 2), (-INF, -INF)],
    "ceil": [(-1.5, -1), (2.5, 3)],
    "trunc": [(-1.5, -1), (2.5, 2), (-0.5, -0.0)],
    "rint": [(-1.5, -2), (2.5, 2), (0.5, 0)],
    "abs": [(-1.5, 1.5), (-0.0, 0.0), (-INF, INF)],
}


@pytest.mark.parametrize("name", SPECIAL)
def test_special_values_are_exact(library: ctypes.CDLL, name: str) -> None:
    x, want = np.array([*SPECIAL[name], (NAN, NAN)], np.float32).T.copy()
    got = apply(getattr(library, f"vector_{name}"), x)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(np.signbit(got[want == want]), np.signbit(want[want == want]))


@pytest.mark.parametrize("name", ["exp2", "exp", "log", "log2", "tanh", "sigmoid", "erf", "rsqrt"])
def test_scalar_overload_agrees_with_formula(library: ctypes.CDLL, name: str) -> None:
    formula, x, _ = FUNCTIONS[name]
    x = x[:: POINTS // 1000].copy()
    assert ulps(apply(getattr(library, f"scalar_{name}"), x), formula(x.astype(np.float64))).max() <= 3


def test_pow_is_the_c_librarys(library: ctypes.CDLL) -> None:
    x = np.float32([2, -2, 0, INF, 0.5, -8, NAN, 1] * 4)
    y = np.float32([0.5, 3, 0, -1, 10, 1 / 3, 0, NAN] * 4)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(apply(library.vector_pow, x, y), np.power(x.astype(np.float64), y), rtol=1e-6)


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_maximum_and_minimum_carry_nan_from_either_side(library: ctypes.CDLL, name: str) -> None:
    x, y = np.float32([1, NAN, 2, NAN] * 8), np.float32([2, 1, NAN, NAN] * 8)
    np.testing.assert_array_equal(apply(getattr(library, f"vector_{name}"), x, y), getattr(np, name)(x, y))


def all_patterns(dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Every value of a 16-bit type: its bits, and its value as a float."""
    bits = np.arange(1 << 16, dtype=np.uint16)[:-1]
    return bits, torch.from_numpy(bits.view(np.int16)).view(dtype).float().numpy()


TYPES = {"bf16": torch.bfloat16, "f16": torch.float16}


@pytest.mark.parametrize("form", ["vector", "scalar"])
@pytest.mark.parametrize("name", TYPES)
def test_every_narrow_value_widens_exactly(library: ctypes.CDLL, name: str, form: str) -> None:
    bits, values = all_patterns(TYPES[name])
    np.testing.assert_array_equal(apply(getattr(library, f"{form}_from_{name}"), bits), values)


def between_neighbours(dtype: torch.dtype) -> np.ndarray:
    """Floats at, just below and just above every midpoint of two neighbours of a type, and its values themselves."""
    values = np.sort(all_patterns(dtype)[1])
    values = values[np.isfinite(values)].astype(np.float64)
    middle = ((values[1:] + values[:-1]) / 2).astype(np.float32)
    around = [middle, np.nextafter(middle, -INF, dtype=np.float32), np.nextafter(middle, INF, dtype=np.float32)]
    return np.concatenate([*around, values.astype(np.float32), np.float32([NAN, INF, -INF, 3.4e38, 65519.9, 65520])])


@pytest.mark.parametrize("form", ["vector", "scalar"])
@pytest.mark.parametrize("name", TYPES)
def test_narrowing_rounds_to_nearest_even_and_keeps_nan(library: ctypes.CDLL, name: str, form: str) -> None:
    x = between_neighbours(TYPES[name])
    if name == "bf16":
        x = x[~(np.abs(x) < 2.0**-126)]  # the BF16 instruction flushes subnormals
    got = apply(getattr(library, f"{form}_to_{name}"), x, out=np.uint16)
    want = torch.from_numpy(x).to(TYPES[name])
    got_values = torch.from_numpy(got.view(np.int16)).view(TYPES[name])
    np.testing.assert_array_equal(got_values.float().numpy(), want.float().numpy())


# gather: element type of the base, of the result, values
BASES = {
    "float": (np.float32, np.float32),
    "bf16": (np.uint16, np.float32),
    "f16": (np.uint16, np.float32),
    "bool": (np.bool_, np.int32),
    "long": (np.int64, np.int32),
}


@pytest.mark.parametrize("offset", [0, 1, 3])
@pytest.mark.parametrize("name", BASES)
def test_gather_reads_wanted_lanes_only(library: ctypes.CDLL, name: str, offset: int) -> None:
    stored, result = BASES[name]
    rng = np.random.default_rng(offset)
    base = rng.integers(0, 2 if name == "bool" else 0x7000, 100).astype(stored)[offset:]
    width = library.width()
    at = rng.integers(0, base.size, width).astype(np.int32)
    at[width - 3 :] = 1 << 24  # outside: must not be read
    got = np.full(width, 77, result)
    getattr(library, f"gather_{name}")(address(base), address(at), address(got), width - 3)
    picked = base[at[: width - 3]]
    if name in TYPES:
        picked = torch.from_numpy(picked.view(np.int16)).view(TYPES[name]).float().numpy()
    np.testing.assert_array_equal(got, [*picked.astype(result), 0, 0, 0])


def test_integer_division_is_floor_division(library: ctypes.CDLL) -> None:
    rng = np.random.default_rng(0)
    extremes = np.array([2**31 - 1, -(2**31), 1, -1, 0, 3, -3, 2**30], np.int32)
    a = np.concatenate([extremes, rng.integers(-(2**31), 2**31, 4088)]).astype(np.int32)
    b = np.concatenate([[3, 7, 2, 2, 5, -2, -2, 2**30 - 1], rng.integers(2, 5000, 4088) * rng.choice([1, -1], 4088)])
    b = b.astype(np.int32)
    quotient, rest = np.zeros_like(a), np.zeros_like(a)
    library.int_divide(address(a), address(b), address(quotient), address(rest), a.size)
    np.testing.assert_array_equal(quotient, a.astype(np.int64) // b)
    np.testing.assert_array_equal(rest, a.astype(np.int64) % b)


def test_reductions_across_put_row_r_in_lane_r(library: ctypes.CDLL) -> None:
    width = library.width()
    x = np.random.default_rng(0).permutation(width * width).astype(np.float32).reshape(width, width)
    largest, sums = np.zeros(width, np.float32), np.zeros(width, np.float32)
    library.across_rows(address(x), address(largest), address(sums))
    np.testing.assert_array_equal(largest, x.max(1))
    np.testing.assert_array_equal(sums, x.sum(1))


# element type, M, N, D of the products in the harness
PRODUCTS = [
    ("float", 96, 64, 64), ("float", 16, 32, 40), ("float", 32, 80, 7), ("f16", 32, 64, 40),
    ("bf16", 32, 128, 64), ("bf16", 48, 48, 40), ("bf16", 16, 80, 97),
]  # fmt: skip
TORCH_TYPE = {"float": torch.float32, **TYPES}
LAYOUTS = {"row-major": (1, 1), "strided-rows": (3, 1), "strided-columns": (2, 2)}


class Piece:
    """Small whole numbers of a type (so that sums are exact) in a tensor of NaN, at the given distances."""

    def __init__(self, rng: np.random.Generator, name: str, rows: int, columns: int, layout: str) -> None:
        row_step, column_step = LAYOUTS[layout]
        self.memory = torch.full((rows * row_step, columns * column_step + 5), NAN, dtype=TORCH_TYPE[name])
        view = self.memory[::row_step, : columns * column_step : column_step]
        self.values = rng.integers(-4, 5, (rows, columns)).astype(np.float32)
        view.copy_(torch.from_numpy(self.values))
        self.data = ctypes.c_void_p(view.data_ptr())
        self.strides = (ctypes.c_long * 2)(*view.stride())


def poisoned(*shape: int) -> np.ndarray:
    """A result in memory on a cache line, full of NaN."""
    memory = np.full(prod(shape) + 16, NAN, np.float32)
    skip = -memory.ctypes.data % 64 // 4
    return memory[skip : skip + prod(shape)].reshape(shape)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("name", "m", "n", "d"), PRODUCTS)
def test_scores_of_a_ragged_tile_are_exact(
    library: ctypes.CDLL, name: str, m: int, n: int, d: int, layout: str
) -> None:
    rng = np.random.default_rng(0)
    for rows, columns in [(m, n), (m - 5, n - 9), (1, 1)]:
        q, k = Piece(rng, name, rows, d, layout), Piece(rng, name, columns, d, layout)
        out = poisoned(m, n)
        function = getattr(library, f"scores_{name}_{m}_{n}_{d}")
        function(q.data, q.strides, k.data, k.strides, rows, columns, address(out), rows)
        want = np.zeros((rows, n), np.float32)
        want[:, :columns] = q.values @ k.values.T
        np.testing.assert_array_equal(out[:rows], want)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("name", "m", "n", "d"), PRODUCTS)
def test_values_are_added_to_scaled_sums(
    library: ctypes.CDLL, name: str, m: int, n: int, d: int, layout: str
) -> None:
    rng = np.random.default_rng(1)
    width = -(-d // 16) * 16
    for rows, columns in [(m, n), (m - 3, n - 7)]:
        p, v = Piece(rng, name, rows, columns, layout), Piece(rng, name, columns, d, layout)
        out = poisoned(m, width)
        out[:] = before = rng.integers(-9, 9, (m, width))
        scale = poisoned(m)
        scale[:] = rng.choice([1, 0, 0.5], m)
        function = getattr(library, f"values_{name}_{m}_{n}_{d}")
        function(p.data, p.strides, v.data, v.strides, rows, columns, address(scale), address(out))
        want = before * scale[:, None]
        want[:rows, :d] += p.values @ v.values
        np.testing.assert_array_equal(out, want)


# element type, N, D of the products of few rows in the harness
FEW = [
    ("float", 64, 64), ("float", 32, 40), ("float", 48, 7), ("float", 16, 272), ("f16", 32, 72),
    ("bf16", 64, 64), ("bf16", 96, 80), ("bf16", 32, 97), ("bf16", 64, 256),
]  # fmt: skip
FEW_ROWS = (1, 3, 16)
ORDERS = {"rows": 0, "list": 1, "reversed-list": 2}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("name", "n", "d"), FEW)
def test_scores_of_few_rows_are_exact(
    library: ctypes.CDLL, name: str, n: int, d: int, layout: str, order: str
) -> None:
    rng = np.random.default_rng(2)
    for rows in FEW_ROWS:
        for columns in (n, n - 7, 1):
            q, k = Piece(rng, name, rows, d, layout), Piece(rng, name, columns, d, layout)
            out = poisoned(16, n)
            function = getattr(library, f"few_scores_{name}_{n}_{d}")
            function(q.data, q.strides, k.data, k.strides, rows, columns, ORDERS[order], address(out))
            want = np.zeros((rows, n), np.float32)
            want[:, :columns] = q.values @ (k.values[::-1] if order == "reversed-list" else k.values).T
            np.testing.assert_array_equal(out[:rows], want)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("name", "n", "d"), FEW)
def test_values_of_few_rows_are_added_to_scaled_sums(
    library: ctypes.CDLL, name: str, n: int, d: int, layout: str, order: str
) -> None:
    rng = np.random.default_rng(3)
    width = -(-d // 16) * 16
    for rows in FEW_ROWS:
        for columns, is_added in ((n, True), (n - 7, True), (1, True), (n - 16, False)):
            p, v = Piece(rng, name, rows, columns, layout), Piece(rng, name, columns, d, layout)
            out, scale = poisoned(16, width), poisoned(16)
            before = np.zeros((rows, width))
            if is_added:
                out[:rows] = before = rng.integers(-9, 9, (rows, width))
            scale[:] = rng.choice([1, 0, 0.5], 16)
            function = getattr(library, f"few_values_{name}_{n}_{d}")
            given = address(scale) if is_added else None
            function(p.data, p.strides, v.data, v.strides, rows, columns, ORDERS[order], given, address(out))
            want = (before * scale[:rows, None])[:, :d]
            want += p.values @ (v.values[::-1] if order == "reversed-list" else v.values)
            np.testing.assert_array_equal(out[:rows, :d], want)
