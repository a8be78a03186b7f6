"""Launchers are told from PyTorch functions, and get examples whose sizes can be told apart."""

from __future__ import annotations

import textwrap
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tilewright.ir.errors import UnsupportedKernel, UnsupportedSpec, VerificationError
from tilewright.ir.lift.triton import selfcheck
from tilewright.kernels.commands import Example
from tilewright.kernels.launchers import is_launcher, launchers_of, lifting_examples, scaled, size_keywords
from tilewright.kernels.lifting import lift_source
from tilewright.kernels.spec_source import SpecSource, load_module

KERNEL = """
    import torch
    import triton
    import triton.language as tl

    @triton.jit
    def _copy(x, y, n, BLOCK: tl.constexpr):
        i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        tl.store(y + i, tl.load(x + i, mask=i < n), mask=i < n)

    def _inner(q, o):
        _copy[(triton.cdiv(q.numel(), 64),)](q, o, q.numel(), BLOCK=64)

    def launch(q, k, v):
        o = torch.empty_like(q)
        _inner(q, o)
        return o

    def plain(q, k, v):
        return torch.softmax(q @ k.transpose(-1, -2), -1) @ v
"""

WEIGHTED = """
    import torch
    import triton
    import triton.language as tl

    @triton.jit
    def weighted(q, k, v, o, M, N, D: tl.constexpr, TILE: tl.constexpr):
        head = tl.program_id(1)
        i, d = tl.program_id(0) * TILE + tl.arange(0, TILE), tl.arange(0, D)
        q_tile = tl.load(q + (head * M + i[:, None]) * D + d[None, :], mask=i[:, None] < M, other=0.0)
        acc = tl.zeros([TILE, D], tl.float32)
        for start in range(0, N, TILE):
            j = start + tl.arange(0, TILE)
            k_tile = tl.load(k + (head * N + j[:, None]) * D + d[None, :], mask=j[:, None] < N, other=0.0)
            v_tile = tl.load(v + (head * N + j[:, None]) * D + d[None, :], mask=j[:, None] < N, other=0.0)
            s = tl.dot(q_tile, k_tile.T) * 0.125
            acc += tl.dot((s * s).to(v_tile.dtype), v_tile)
        tl.store(o + (head * M + i[:, None]) * D + d[None, :], acc.to(tl.bfloat16), mask=i[:, None] < M)

    def launch(q, k, v):
        o = torch.empty_like(q)
        B, H, M, D = q.shape
        weighted[(triton.cdiv(M, 32), B * H)](q, k, v, o, M, k.shape[2], D=D, TILE=32)
        return o

    def inputs(B=1, H=1, M=37, N=40, D=16):
        return tuple(torch.randn(B, H, n, D, dtype=torch.bfloat16) for n in (M, N, N))
"""


@pytest.fixture
def module(tmp_path: Path) -> ModuleType:
    path = tmp_path / "copying.py"
    path.write_text(textwrap.dedent(KERNEL))
    return load_module(str(path))


def test_a_launcher_is_one_that_reaches_a_kernel(module: ModuleType) -> None:
    assert is_launcher(module.launch)
    assert is_launcher(module._inner)
    assert not is_launcher(module.plain)
    assert launchers_of(module) == ["launch"]


def test_kernels_are_reached_through_modules(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def through(q, k, v):
        return kernels.launch(q, k, v)  # type: ignore[name-defined]  # noqa: F821

    def beside(q, k, v):
        return kernels.plain(q, k, v)  # type: ignore[name-defined]  # noqa: F821

    monkeypatch.setitem(through.__globals__, "kernels", module)
    assert is_launcher(through)
    assert not is_launcher(beside)


def test_two_launchers_must_be_named(tmp_path: Path) -> None:
    path = tmp_path / "pair.py"
    path.write_text(textwrap.dedent(KERNEL).replace("def plain(q, k, v):", "def again(q, k, v):\n    return _inner(q, k)\n\ndef plain(q, k, v):"))
    with pytest.raises(UnsupportedSpec, match=r"several launchers of Triton kernels: .*pair.py:launch, .*pair.py:again"):
        lift_source(str(path), Example())


def test_keywords_of_sizes() -> None:
    def inputs(B=2, Hq=4, Hkv=2, N=90, D=64, page=16, pages=40, lengths=(5, 9), seed=0, causal=True, dtype=None):
        return ()

    found = size_keywords(inputs)
    assert set(found) == {"B", "Hq", "Hkv", "N", "pages", "lengths"}
    assert {q // kv for q, kv in zip(found["Hq"], found["Hkv"], strict=True)} == {2}
    assert len({tuple(row) for row in found.values()}) == len(found), "two sizes take the same values"
    assert len({(n + 127) // 128 for n in found["N"]}) > 2, "counts of tiles do not tell sizes apart"
    assert [len(row) for row in found["lengths"]] == [2, 3, 4, 5]
    assert found["lengths"][0] == (5, 9)


def test_tensors_grow_where_sizes_are_not_head_dimensions() -> None:
    q = torch.zeros(2, 90, 8, 64, dtype=torch.bfloat16).transpose(1, 2)
    k, v, bias = torch.zeros(2, 2, 70, 64), torch.zeros(2, 2, 70, 32), torch.zeros(8, 90, 70)
    grown = scaled((q, k, v, bias, 0.5))
    assert grown[0][0].shape == q.shape
    for one in grown:
        a, b, c, d, scale = one
        assert (a.shape[3], b.shape[3], c.shape[3], scale) == (64, 64, 32, 0.5)
        assert a.shape[1] == 4 * b.shape[1]
        assert b.shape[:3] == c.shape[:3]
        assert d.shape == (a.shape[1], a.shape[2], b.shape[2])
        assert a.stride(1) == 64, "memory order is not that of the example"
        assert a.dtype == torch.bfloat16
    sizes = {(one[0].shape[0], one[0].shape[1], one[0].shape[2], one[1].shape[2]) for one in grown}
    assert all(len({row[place] for row in sizes}) == len(grown) for place in range(4))


def test_integers_need_keywords() -> None:
    with pytest.raises(UnsupportedKernel, match="argument 3 holds integers"):
        scaled((torch.zeros(1, 1, 4, 4),) * 3 + (torch.zeros(3, dtype=torch.int32),))


def test_more_than_three_arguments_need_inputs(module: ModuleType) -> None:
    with pytest.raises(UnsupportedKernel, match="with no inputs"):
        lifting_examples(SpecSource(module._inner, module, "_inner"))


def test_a_lift_is_verified_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16, which Triton's interpreter by itself multiplies as integers."""
    path = tmp_path / "tokens.py"
    path.write_text(textwrap.dedent(WEIGHTED))
    found = lift_source(str(path), Example(), verify=True)
    assert any(note.startswith("verified: kernel and program agree on 2 examples") for note in found.notes)
    real = selfcheck.interpret
    wrong = lambda *args, **options: {name: x + 1 for name, x in real(*args, **options).items()}  # noqa: E731
    monkeypatch.setattr(selfcheck, "interpret", wrong)
    with pytest.raises(VerificationError, match="example 0, output o"):
        lift_source(str(path), Example(), verify=True)
