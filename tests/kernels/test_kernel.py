"""The call: one compiled form for all lengths and layouts, empty ones defined, refusals in words."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import tilewright as tw
from tilewright.ir.errors import DeviceError, DTypeError, ShapeError
from tilewright.kernels.plan import refuse_capture

from .conftest import HEAD_DIM, causal_eager, causal_spec, qkv


def assert_close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (3, 1, 17, 130), (2, 2, 130, 17), (1, 4, 97, 97)])
def test_one_form_serves_all_sizes(causal: tw.Kernel, sizes: tuple[int, int, int, int]) -> None:
    before = causal.compiled
    tensors = qkv(*sizes)
    assert_close(causal(*tensors), causal_eager(*tensors))
    assert causal.compiled is before


def test_strides_are_free(causal: tw.Kernel) -> None:
    tensors = qkv()
    wanted = causal(*tensors)
    moved = [tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in tensors]
    assert torch.equal(causal(*moved), wanted)
    assert torch.equal(causal(*tensors), wanted)  # the plan of these shapes is not tied to strides


def test_the_output_goes_where_it_is_asked_to(causal: tw.Kernel) -> None:
    tensors = qkv()
    wanted = causal(*tensors)
    room = torch.full((*wanted.shape[:2], 2 * wanted.shape[2], wanted.shape[3]), float("nan")).transpose(1, 2)
    out = room[:, ::2].transpose(1, 2)
    assert causal(*tensors, out=out) is out
    assert torch.equal(out, wanted)
    assert room[:, 1::2].isnan().all()


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        (lambda o: o[:, :, 1:], ShapeError, r"out: shape \(2, 4, 32, 16\); wanted \(2, 4, 33, 16\)"),
        (lambda o: o.double(), DTypeError, "out: got torch.float64, wanted torch.float32"),
        (lambda o: o.to("meta"), DeviceError, "out: on meta, but q is on cpu"),
    ],
)
def test_memory_that_does_not_fit_the_output_is_refused(causal: tw.Kernel, change, error: type, told: str) -> None:
    tensors = qkv()
    out = change(torch.empty_like(causal(*tensors)))
    with pytest.raises(error, match=told):
        causal(*tensors, out=out)


def test_lse(causal: tw.Kernel) -> None:
    q, k, v = qkv(rows=5, columns=5, group=2)
    _, lse = causal(q, k, v, return_lse=True)
    scores = q @ k.repeat_interleave(2, 1).transpose(-1, -2) * 0.25
    hidden = torch.ones(5, 5, dtype=torch.bool).triu(1)
    assert_close(lse, torch.logsumexp(scores.masked_fill(hidden, float("-inf")), -1))


def test_empty_sequences_are_defined(causal: tw.Kernel) -> None:
    q, k, v = qkv(rows=0)
    assert causal(q, k, v).shape == (2, 4, 0, HEAD_DIM)
    q, k, v = qkv(columns=0)
    o, lse = causal(q, k, v, return_lse=True)
    assert torch.equal(o, torch.zeros(2, 4, 33, HEAD_DIM))
    assert torch.equal(lse, torch.full((2, 4, 33), float("-inf")))
    q, k, v = qkv(batch=0)
    assert causal(q, k, v).shape == (0, 4, 33, HEAD_DIM)


def test_the_forward_gives_the_same_bits(causal: tw.Kernel) -> None:
    tensors = qkv(rows=130, columns=130)
    wanted = causal(*tensors)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3, threads):
            torch.set_num_threads(count)
            assert torch.equal(causal(*tensors), wanted)
    finally:
        torch.set_num_threads(threads)
    alone = causal(*(tensor[1:] for tensor in tensors))
    assert torch.equal(alone, wanted[1:])


def test_gradients_are_refused_in_words(causal: tw.Kernel) -> None:
    q, k, v = qkv()
    q.requires_grad_()
    with pytest.raises(tw.UnsupportedSpec, match=r"requires grad, and this kernel has no backward[\s\S]*no_grad"):
        causal(q, k, v)
    with torch.no_grad():
        assert causal(q, k, v).shape == q.shape


def test_other_sizes_than_the_spec_s_are_refused(causal: tw.Kernel) -> None:
    q, k, v = qkv()
    with pytest.raises(tw.ShapeError, match="q: D=8; this kernel was made for D=16"):
        causal(q[..., :8], k[..., :8], v)
    with pytest.raises(tw.ShapeError, match="v: Dv=8; this kernel was made for Dv=16"):
        causal(q, k, v[..., :8])
    with pytest.raises(tw.ShapeError, match="Hq=2, k: Hkv=2; this kernel was made for Hq = 2 x Hkv"):
        causal(q[:, :2], k, v)
    with pytest.raises(tw.DTypeError, match=r"q: got torch.bfloat16; this kernel was made for torch.float32"):
        causal(*(tensor.bfloat16() for tensor in qkv()))
    with pytest.raises(tw.DTypeError, match="q: got list"):
        causal([1.0], k, v)


def test_attributes(causal: tw.Kernel) -> None:
    assert "causal" in causal.source
    assert tw.parse_program(str(causal.program)) == causal.program
    assert causal.spec == causal_spec()
    assert causal.report is not None
    assert causal.report.verified
    assert causal.report.cases >= 20


def test_nothing_to_show_before_the_first_call() -> None:
    with pytest.raises(tw.TilewrightError, match="call the kernel once, or compile with example="):
        _ = tw.compile(causal_spec()).source


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"target": "cuda"}, "target 'cuda' is not available in this release; .* use target='triton'"),
        ({"target": "tpu"}, "target 'tpu': wanted one of auto, cpu, triton"),
        ({"engine": "magic"}, "engine 'magic': wanted one of rules, llm, auto"),
    ],
)
def test_options_that_do_not_exist_are_refused(options: dict[str, object], text: str) -> None:
    with pytest.raises(tw.UnsupportedSpec, match=text):
        tw.compile(causal_spec(), **options)


def test_something_that_is_no_function_is_refused() -> None:
    with pytest.raises(tw.UnsupportedSpec, match=r"takes a function .* or an AttentionSpec; got int"):
        tw.compile(3)


def test_triton_source_needs_no_gpu_but_a_call_does() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    kernel = tw.compile(causal_spec(), target="triton", example=qkv())
    assert "triton" in kernel.source
    with pytest.raises(tw.DeviceError, match="q: on cpu; target 'triton' computes on cuda"):
        kernel(*qkv())


def test_threads_share_a_kernel() -> None:
    """Also while it is made: two threads, many shapes, one form."""
    kernel = tw.compile(causal_spec(), verify=False)
    inputs = [qkv(rows=rows, columns=rows) for rows in range(20, 40)] * 3
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda tensors: kernel(*tensors), inputs))
    for got, tensors in zip(found, inputs, strict=True):
        assert_close(got, causal_eager(*tensors))


def test_the_lse_that_nobody_wants_overwrites_nothing(causal: tw.Kernel) -> None:
    """It goes to workspace: of the same thread's next call, not of this one's operands."""
    for rows in (1, 33, 700):
        q, k, v = qkv(batch=1, rows=rows, columns=rows)
        o, lse = causal(q, k, v, return_lse=True)
        assert torch.equal(causal(q, k, v), o)
        assert torch.equal(causal(q, k, v, return_lse=True)[1], lse)


@pytest.mark.parametrize("copy_it", [pickle.dumps, copy.deepcopy, copy.copy], ids=lambda f: f.__name__)
def test_kernels_are_saved_not_pickled(causal: tw.Kernel, copy_it: Callable[[object], object]) -> None:
    with pytest.raises(tw.TilewrightError, match=r"not pickled or deep-copied; .*kernel\.save\(DIRECTORY\) and .*load"):
        copy_it(causal)


def test_a_cuda_graph_is_captured_after_a_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_capture(torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    refuse_capture(torch.device("cpu"))
    with pytest.raises(tw.UnsupportedSpec, match=r"while a CUDA graph is captured[\s\S]*once .* before the capture"):
        refuse_capture(torch.device("cuda"))


@pytest.mark.gpu
def test_a_cuda_graph_replays_the_kernel() -> None:
    kernel, tensors = tw.compile(causal_spec()), [tensor.cuda() for tensor in qkv()]
    wanted = kernel(*tensors)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = kernel(*tensors)
    got.zero_()
    graph.replay()
    assert torch.equal(got, wanted)


def test_repr(causal: tw.Kernel) -> None:
    causal(*qkv())
    assert repr(causal) == "<Kernel causal for cpu, f32>"
    assert repr(tw.compile(causal_spec())) == "<Kernel, compiled at its first call>"
