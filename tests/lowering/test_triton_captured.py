"""Gradients of captured tensors on the triton target: generated sources in Triton's interpreter against fp64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tilewright.ir.gradient import differentiate, reference_backward
from tilewright.ir.lift import lift
from tilewright.ir.program import ScatterAdd, statements
from tilewright.ir.reference import reference
from tilewright.kernels.dtypes import as_array
from tilewright.kernels.gradients.captured import compile_term
from tilewright.lowering.triton.interpreter import interpret

from ..kernels import captured_variants as variants
from ..kernels.captured_variants import SQUARE, VARIANTS, draw

WIDTH = 16
QUICK = (variants.grouped_bias, variants.turned_bias, variants.key_bias, variants.slopes, variants.sinks, variants.relu_share, variants.buckets)
SLOW = (
    variants.whole_bias, variants.shared_bias, variants.both_ways, variants.row_temperature, variants.row_and_key,
    variants.grouped_slopes, variants.softcap, variants.coefficients, variants.gate, variants.mixed_gate,
    variants.sigmoid_bias, variants.relative,
)  # fmt: skip


@pytest.mark.parametrize(
    "function", [*QUICK, *(pytest.param(f, marks=pytest.mark.slow) for f in SLOW)], ids=lambda f: f.__name__
)
def test_gradients(function):
    m, n = (53, 53) if function in SQUARE else (37, 53)
    qkv = draw(2, 4, m, WIDTH), draw(2, 2, n, WIDTH, seed=1), draw(2, 2, n, WIDTH, seed=2)
    tensors = [*qkv, *VARIANTS[function](2, 4, m, n)]
    backward = differentiate(lift(function, tensors))
    o, lse = reference(backward.spec, *map(as_array, tensors))
    d_o = draw(*o.shape, seed=3)
    wanted = reference_backward(backward.spec, *map(as_array, tensors), do=as_array(d_o))
    left = {"o": torch.from_numpy(o).float(), "lse": torch.from_numpy(lse).float(), "d_o": d_o}
    left["d_lse"] = torch.zeros(lse.shape)
    for tensor, gradient in enumerate(backward.captured):
        total: object = 0
        for term in range(len(gradient.terms)):
            program = compile_term(backward, (tensor, term), "triton", "sm_80").program
            assert not any(isinstance(s, ScatterAdd) for s in statements(program.body))
            inputs = [param.name for param in program.params if not param.is_output]
            named = dict(zip(inputs, tensors, strict=False)) | left
            (found,) = interpret(program, [named[name] for name in inputs])
            total = total + found.double().numpy()
        exact = wanted[gradient.tensor.name]
        np.testing.assert_allclose(total, exact, rtol=0, atol=1e-5 * max(1.0, float(np.abs(exact).max())))
