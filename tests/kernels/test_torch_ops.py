"""Kernels inside torch: compiled, exported, mapped, cast, faked; one operator, and the same bits as eager calls."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import tilewright as tw
from tilewright.ir.dtypes import DType, Kind
from tilewright.ir.errors import TilewrightError
from tilewright.ir.expr import load, var
from tilewright.ir.spec import BATCH, AttentionSpec, S, TensorSpec
from tilewright.kernels.torch_ops import Runner, call_through_op, register

from .conftest import HEAD_DIM, qkv

OP = torch.ops.tilewright.call.default


@pytest.fixture(autouse=True)
def forget_compiled() -> Iterator[None]:
    yield
    torch._dynamo.reset()


class Doubled(torch.nn.Module):
    """A kernel between other operators, as a model has it."""

    def __init__(self, kernel: tw.Kernel) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return self.kernel(q * 2, k, v) + 1


def doubled(kernel: tw.Kernel, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return kernel(q * 2, k, v) + 1


# torch.compile


def test_compiled_code_is_one_graph_for_all_lengths(causal: tw.Kernel) -> None:
    """The second graph is dynamo's own: it makes sizes symbolic when they change for the first time."""
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(Doubled(causal), fullgraph=True, backend=counter)
    for sizes in ((2, 2, 33, 34), (3, 2, 40, 50), (4, 2, 41, 51), (5, 2, 7, 90)):
        tensors = qkv(*sizes)
        assert torch.equal(compiled(*tensors), doubled(causal, *tensors))
    assert counter.frame_count == 2
    assert [node.target for node in counter.graphs[0].graph.nodes if node.op == "call_function"].count(
        torch.ops.tilewright.call
    ) == 1


def test_symbolic_sizes_from_the_start(causal: tw.Kernel) -> None:
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(Doubled(causal), fullgraph=True, backend=counter, dynamic=True)
    for sizes in ((2, 2, 33, 34), (3, 3, 40, 50), (4, 4, 41, 51)):
        tensors = qkv(*sizes)
        assert torch.equal(compiled(*tensors), doubled(causal, *tensors))
    assert counter.frame_count == 1


def test_compiled_lse_and_output_memory(causal: tw.Kernel) -> None:
    tensors = qkv()
    o, lse = torch.compile(lambda *t: causal(*t, return_lse=True), fullgraph=True, backend="aot_eager")(*tensors)
    wanted = causal(*tensors, return_lse=True)
    assert torch.equal(o, wanted[0])
    assert torch.equal(lse, wanted[1])
    room = torch.empty_like(o)
    torch.compile(lambda out, *t: causal(*t, out=out), fullgraph=True, backend="aot_eager")(room, *tensors)
    assert torch.equal(room, o)


def test_a_function_is_traced_when_compiled_code_first_runs() -> None:
    def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.softmax(q @ k.transpose(-1, -2) * 0.25, -1) @ v

    kernel = tw.compile(plain, verify=False)
    tensors = qkv(group=1)
    got = torch.compile(Doubled(kernel), fullgraph=True, backend="eager")(*tensors)
    torch.testing.assert_close(got, plain(tensors[0] * 2, *tensors[1:]) + 1, rtol=1e-5, atol=1e-5)


def test_two_kernels_are_not_confused(causal: tw.Kernel) -> None:
    other = tw.compile(AttentionSpec("full", DType.F32, HEAD_DIM, HEAD_DIM, 2, score=S * 0.25), verify=False)
    compiled = torch.compile(lambda kernel, *t: kernel(*t), fullgraph=True, backend="eager")
    tensors = qkv()
    assert torch.equal(compiled(causal, *tensors), causal(*tensors))
    assert torch.equal(compiled(other, *tensors), other(*tensors))
    assert not torch.equal(other(*tensors), causal(*tensors))


def test_a_misfit_is_told_in_our_words(causal: tw.Kernel) -> None:
    q, k, v = qkv()
    with pytest.raises(Exception, match=r"k: size 8 for D in .*; wanted D=16"):
        torch.compile(causal, fullgraph=True, backend="eager")(q, k[..., :8], v)


@pytest.mark.slow
def test_inductor(causal: tw.Kernel) -> None:
    tensors = qkv()
    got = torch.compile(Doubled(causal), fullgraph=True)(*tensors)
    torch.testing.assert_close(got, doubled(causal, *tensors), rtol=1e-6, atol=1e-6)


# torch.export

RUN_EXPORTED = """
import sys
import torch
import tilewright as tw
if sys.argv[2]:
    tw.load(sys.argv[2])
else:
    tw.Kernel
    import tilewright.kernels.torch_ops
program = torch.export.load(sys.argv[1])
generator = torch.Generator().manual_seed(0)
q, k, v = (torch.randn(shape, generator=generator) for shape in ((3, 4, 40, 16), (3, 2, 40, 16), (3, 2, 40, 16)))
torch.save(program.module()(q, k, v), sys.argv[3])
assert "tilewright.ir.lift" not in sys.modules
"""


def run_exported(program: Path, kernel: Path | str, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", RUN_EXPORTED, str(program), str(kernel), str(out)]
    return subprocess.run(command, check=False, timeout=300, capture_output=True, text=True)


@pytest.fixture
def exported(causal: tw.Kernel, tmp_path: Path) -> Path:
    batch, rows = torch.export.Dim("batch"), torch.export.Dim("rows", max=4096)
    program = torch.export.export(Doubled(causal), tuple(qkv()), dynamic_shapes=({0: batch, 2: rows},) * 3)
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert targets.count(OP) == 1
    assert torch.equal(program.module()(*qkv(5, 2, 60, 60)), doubled(causal, *qkv(5, 2, 60, 60)))
    torch.export.save(program, tmp_path / "program.pt2")
    return tmp_path / "program.pt2"


def test_an_exported_program_runs_elsewhere_with_the_saved_kernel(
    causal: tw.Kernel, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    causal.prepare(*qkv())
    saved = causal.save(tmp_path / "kernel")
    monkeypatch.setenv("TILEWRIGHT_CACHE", str(tmp_path / "another cache"))
    done = run_exported(exported, saved, tmp_path / "o.pt")
    assert done.returncode == 0, done.stderr
    assert torch.equal(torch.load(tmp_path / "o.pt"), doubled(causal, *qkv(3, 2, 40, 40)))
    failed = run_exported(exported, "", tmp_path / "o.pt")
    assert "is not in this process and not in the cache; call tilewright.load(DIRECTORY) first" in failed.stderr


def test_an_exported_program_finds_its_kernel_in_the_cache(causal: tw.Kernel, exported: Path, tmp_path: Path) -> None:
    done = run_exported(exported, "", tmp_path / "o.pt")
    assert done.returncode == 0, done.stderr
    assert torch.equal(torch.load(tmp_path / "o.pt"), doubled(causal, *qkv(3, 2, 40, 40)))


def test_a_key_of_another_process_is_refused_in_words() -> None:
    with pytest.raises(TilewrightError, match=r"belonged to the process that made this graph.*strict=False"):
        OP("local-0123-7", qkv(), [0])
    with pytest.raises(TilewrightError, match="not in this process and not in the cache"):
        OP("../../etc", qkv(), [0])


# Modes, classes, transforms


def test_the_operator_keeps_torch_s_rules(causal: tw.Kernel) -> None:
    register(causal)
    found = torch.library.opcheck(OP, (causal.key, qkv(), [1]))
    assert set(found.values()) == {"SUCCESS"}


def test_fake_and_meta_tensors(causal: tw.Kernel) -> None:
    q, k, v = qkv()
    with FakeTensorMode():
        fakes = [torch.empty(tensor.shape, dtype=torch.bfloat16) for tensor in (q, k, v)]
        fakes[2] = fakes[2][..., :8]
        o, lse = causal(*fakes, return_lse=True)
    assert (o.shape, o.dtype, lse.shape, lse.dtype) == ((2, 4, 33, 8), torch.bfloat16, (2, 4, 33), torch.float32)
    assert causal(*fakes).shape == (2, 4, 33, 8)  # the mode is over
    assert causal(*(tensor.to("meta") for tensor in (q, k, v))).is_meta


def test_a_dispatch_mode_sees_one_call() -> None:
    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            names.append(str(func))
            return func(*args, **(kwargs or {}))

    names: list[str] = []
    tensors = qkv(group=1)
    fresh = tw.compile(lambda q, k, v: torch.softmax(q @ k.transpose(-1, -2) * 0.25, -1) @ v, verify=False)
    with Seen():
        got = fresh(*tensors)
    assert names == ["tilewright.call.default"]
    assert torch.equal(got, fresh(*tensors))


def test_a_class_of_another_library_keeps_its_class(causal: tw.Kernel) -> None:
    class Tagged(torch.Tensor):
        pass

    tensors = qkv()
    got = causal(*(tensor.as_subclass(Tagged) for tensor in tensors))
    assert isinstance(got, Tagged)
    assert torch.equal(got.as_subclass(torch.Tensor), causal(*tensors))


def test_inference_mode(causal: tw.Kernel) -> None:
    with torch.inference_mode():
        assert causal(*qkv()).is_inference()
        fresh = tw.compile(lambda q, k, v: torch.softmax(q @ k.transpose(-1, -2) * 0.25, -1) @ v, verify=False)
        assert fresh(*qkv(group=1)).shape == (2, 2, 33, 16)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_autocast_casts_as_sdpa_does(compiled: bool) -> None:
    def biased(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.softmax((q @ k.transpose(-1, -2)).float() * 0.25 + bias, -1).to(v.dtype) @ v

    kernel = tw.compile(biased, verify=False)
    call = torch.compile(kernel, fullgraph=True, backend="aot_eager") if compiled else kernel
    tensors, bias = qkv(group=1), torch.randn(33, 33)
    halves = [tensor.bfloat16() for tensor in tensors]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert F.scaled_dot_product_attention(*tensors).dtype is torch.bfloat16
        assert torch.equal(call(*tensors, bias), kernel(*halves, bias))
        assert torch.equal(call(tensors[0], *halves[1:], bias), kernel(*halves, bias))
    assert call(*tensors, bias).dtype is torch.float32
    assert kernel.compiled.inputs[3].dtype is DType.F32


# vmap


@pytest.mark.parametrize("in_dims", [(0, 0, 0), (1, 0, 2), (0, None, None), (None, 1, 0)], ids=str)
def test_vmap_is_a_loop(causal: tw.Kernel, in_dims: tuple[int | None, ...]) -> None:
    """Mapped dimensions anywhere, and tensors that all calls share."""
    stacked = [torch.stack([qkv(rows=n)[i] for n in (33,) * 3]) * torch.rand(3, 1, 1, 1, 1) for i in range(3)]
    tensors = [s[0] if dim is None else s.movedim(0, dim) for s, dim in zip(stacked, in_dims, strict=True)]
    o, lse = torch.vmap(lambda *t: causal(*t, return_lse=True), in_dims=in_dims)(*tensors)
    for n in range(3):
        one = [t if dim is None else t.select(dim, n) for t, dim in zip(tensors, in_dims, strict=True)]
        wanted = causal(*one, return_lse=True)
        assert torch.equal(o[n], wanted[0])
        assert torch.equal(lse[n], wanted[1])


def test_vmap_within_vmap_and_under_compile(causal: tw.Kernel) -> None:
    tensors = [tensor.reshape(2, 2, 1, *tensor.shape[1:]) for tensor in qkv(batch=4)]
    wanted = causal(*qkv(batch=4)).reshape(2, 2, 1, 4, 33, 16)
    nested = torch.vmap(torch.vmap(causal))
    assert torch.equal(nested(*tensors), wanted)
    assert torch.equal(torch.compile(nested, fullgraph=True, backend="eager")(*tensors), wanted)


def per_batch(name: str, *dims: str | int) -> tw.Kernel:
    """score + bias[b] with a bias of the given dims."""
    index = tuple(BATCH if dim == "B" else 0 for dim in dims)
    spec = AttentionSpec(name, DType.F32, HEAD_DIM, HEAD_DIM, 2, (TensorSpec("bias", DType.F32, dims),),
                         score=S * load("bias", index, Kind.FLOAT))  # fmt: skip
    return tw.compile(spec, verify=False)


def test_vmap_of_captured_tensors_with_a_batch() -> None:
    kernel, tensors = per_batch("per_batch", 1, "B"), qkv(batch=6)
    bias = torch.rand(3, 1, 2)
    folded = [tensor.unflatten(0, (3, 2)) for tensor in tensors]
    wanted = kernel(*tensors, bias.reshape(1, 6))
    assert torch.equal(torch.vmap(kernel)(*folded, bias).flatten(0, 1), wanted)
    shared = torch.vmap(kernel, in_dims=(0, 0, 0, None))(*folded, bias[0])
    assert torch.equal(shared.flatten(0, 1), kernel(*tensors, bias[0].repeat(1, 3)))


def test_vmap_that_would_change_the_meaning_is_refused() -> None:
    kernel, tensors = per_batch("one_bias", 1), [tensor.unflatten(0, (1, 2)) for tensor in qkv()]
    with pytest.raises(tw.UnsupportedSpec, match=r"vmap: bias is mapped over, but it has no batch[\s\S]*or use a loop"):
        torch.vmap(kernel)(*tensors, torch.rand(1, 1))
    counts = AttentionSpec("counts", DType.F32, HEAD_DIM, HEAD_DIM, 2, score=S * (BATCH * 1.0))
    with pytest.raises(tw.UnsupportedSpec, match="counts computes with the batch index b"):
        torch.vmap(tw.compile(counts, verify=False))(*tensors)
    sized = AttentionSpec("sized", DType.F32, HEAD_DIM, HEAD_DIM, 2, score=S * (var("B") * 1.0))
    with pytest.raises(tw.UnsupportedSpec, match="sized computes with the batch index b"):
        torch.vmap(tw.compile(sized, verify=False))(*tensors)


# Gradients


def test_gradients_are_refused_wherever_they_are_asked_for(causal: tw.Kernel) -> None:
    q, k, v = qkv()
    told = "requires grad, and this kernel has no backward"
    with pytest.raises(tw.UnsupportedSpec, match=told):
        torch.func.grad(lambda x: causal(x, k, v).sum())(q)
    register(causal)
    with pytest.raises(tw.UnsupportedSpec, match=told):
        OP(causal.key, [q.clone().requires_grad_(), k, v], [0])
    compiled = torch.compile(causal, fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match=told):
        compiled(q.clone().requires_grad_(), k, v)
    with torch.no_grad():
        assert torch.equal(compiled(q.clone().requires_grad_(), k, v), causal(q, k, v))


# Other kernels through the same operator


def test_any_runner_can_be_called_through_the_operator() -> None:
    class Concatenated(Runner):
        key = "test-concatenated"

        def describe(self, tensors, sizes):  # type: ignore[no-untyped-def]
            return [((sizes[0],), tensors[0].dtype)]

        def run(self, tensors, sizes):  # type: ignore[no-untyped-def]
            return [torch.cat(list(tensors))[: sizes[0]]. clone()]

    runner = Concatenated()
    call: Callable[..., torch.Tensor] = lambda x, y: call_through_op(runner, (x, y), (x.shape[0] + 1,))[0]  # noqa: E731
    x, y = torch.arange(3.0), torch.arange(4.0)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager", dynamic=True)
    assert torch.equal(compiled(x, y), torch.tensor([0.0, 1, 2, 0]))
    with pytest.raises(tw.UnsupportedSpec, match=r"torch.vmap over this kernel is not available[\s\S]*in a loop"):
        torch.vmap(call)(x[None], y[None])
