"""Generated Triton files as text and as launchers: golden source, names, what is compiled anew, refusals."""

from __future__ import annotations

import ast
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tilewright.ir.errors import BuildError, DeviceError, LoweringError
from tilewright.ir.parser import parse_program, parse_spec
from tilewright.ir.program import Program
from tilewright.ir.transfer import Orchestration, transfer
from tilewright.kernels.references import reference_program
from tilewright.lowering import TARGETS
from tilewright.lowering.triton import target as triton_target
from tilewright.lowering.triton.interpreter import interpret
from tilewright.lowering.triton.target import import_source

SPEC = """\
@attention(D={d}, Dv={d}, group=2)
def variant(q: bf16[B, Hq, M, D], k: bf16[B, Hkv, N, D], v: bf16[B, Hkv, N, Dv]{captured}):
    def score(s: float, b: int, h: int, i: int, j: int):
        return {score}

    def keep(b: int, h: int, i: int, j: int):
        return {keep}

    return softmax()
"""


def program_of(d: int = 64, score: str = "s * 0.125", keep: str = "j <= i", captured: str = "") -> Program:
    spec = parse_spec(SPEC.format(d=d, score=score, keep=keep, captured=captured))
    return transfer(reference_program(), spec, Orchestration((("m", 128), ("n", 64))))


def source_of(program: Program) -> str:
    return TARGETS["triton"].lower(program, "sm_90").source


def test_a_whole_file(golden: Callable[[str, str], None]) -> None:
    """Softcap, sliding window, ALiBi, heads of 80 elements, two query heads to one of keys."""
    program = program_of(
        80, "30.0 * tanh(s * 0.004) - slopes[h] * f32(i - j)", "(j <= i) & (i - j < 512)", ", slopes: f32[Hq]"
    )
    golden("triton-window-softcap-alibi", source_of(program))


def test_documents(golden: Callable[[str, str], None]) -> None:
    """A mask that depends on data: tile summaries, loads moved out of the loops."""
    program = program_of(keep="(doc[b, i] == doc[b, j]) & (j <= i)", captured=", doc: i32[B, N]")
    golden("triton-documents", source_of(program))


def test_same_program_same_bytes_and_only_torch_and_triton() -> None:
    source = source_of(program_of())
    assert source == source_of(parse_program(str(program_of())))
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {alias.name for node in imports for alias in node.names} == {"torch", "triton", "triton.language"}
    assert not [line for line in source.splitlines() if line != line.rstrip()]


class Recorder:
    """Stands for a kernel: keeps what it is launched with."""

    def __init__(self) -> None:
        self.grid: tuple[int, ...] = ()
        self.arguments: tuple[Any, ...] = ()

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any) -> None:
            self.grid, self.arguments = grid, arguments

        return launch


def module_of(program: Program) -> tuple[types.ModuleType, list[str], set[str], Recorder]:
    """The module with its kernel recorded, the kernel's argument names, and those Triton does not specialise on."""
    module = import_source(source_of(program))
    kernel = next(node for node in ast.parse(source_of(program)).body if getattr(node, "name", "").endswith("_kernel"))
    assert isinstance(kernel, ast.FunctionDef)
    names = [argument.arg for argument in kernel.args.args]
    loose = {text.value for text in ast.walk(kernel.decorator_list[-1]) if isinstance(text, ast.Constant)}
    recorder = Recorder()
    setattr(module, kernel.name, recorder)
    return module, names, {str(name) for name in loose}, recorder


def inputs(batch: int, rows: int, columns: int, d: int = 64) -> list[torch.Tensor]:
    shapes = [(batch, 4, rows, d), (batch, 2, columns, d), (batch, 2, columns, d)]
    return [torch.zeros(shape, dtype=torch.bfloat16) for shape in shapes]


@pytest.mark.parametrize("d", [64, 40])
@pytest.mark.parametrize("captured", ["", "doc: i32[B, N]", "bias: bf16[Hq, M, N]"])
def test_no_compilation_as_lengths_change(d: int, captured: str) -> None:
    """Triton compiles anew when an integer becomes 1 or gains or loses the divisor 16; no argument ever does."""
    parts = {"keep": "doc[b, i] == doc[b, j]"} if "doc" in captured else {}
    parts |= {"score": "s + bias[h, i, j]"} if "bias" in captured else {}
    module, names, loose, recorder = module_of(program_of(d, captured=f", {captured}" if captured else "", **parts))
    seen = set()
    for batch, length in ((1, 1), (1, 17), (2, 64), (3, 200), (1, 1040)):
        extra = [torch.zeros(batch, length, dtype=torch.int32)] if "doc" in captured else []
        extra += [torch.zeros(4, length, length, dtype=torch.bfloat16)] if "bias" in captured else []
        module.variant(*inputs(batch, length, length, d), *extra)
        numbers = [
            (name, value) for name, value in zip(names, recorder.arguments, strict=True) if isinstance(value, int)
        ]
        seen.add(tuple((name, value == 1, value % 16 == 0) for name, value in numbers if name not in loose))
    assert len(seen) == 1


def test_rows_are_aligned_without_losing_a_value_or_a_broadcast() -> None:
    """What is aligned stays as it is; what is not is copied once, broadcast dimensions not at all."""
    program = program_of(score="s + bias[b, h, i, j]", captured=", bias: bf16[B, Hq, M, N]")
    module, _, _, _ = module_of(program)
    aligned = torch.randn(2, 3, 5, 32)
    assert module.align_rows(aligned) is aligned
    for tensor in (aligned[..., :7], aligned[..., 1:], aligned[..., ::2], aligned.mT, torch.randn(2, 3, 5, 33)):
        got = module.align_rows(tensor)
        assert torch.equal(got, tensor)
        assert all(stride % 16 == 0 for stride in got.stride()[:-1])
        assert got.stride(-1) == 1
        assert got.data_ptr() % 16 == 0
    broadcast = module.align_rows(torch.randn(1, 1, 5, 33).expand(2, 3, 5, 33))
    assert broadcast.stride()[:2] == (0, 0)
    assert module.align_rows(torch.randn(2, 3, 0, 33)).shape == (2, 3, 0, 33)


def test_a_gather_from_a_tensor_too_large_for_its_offsets() -> None:
    program = program_of(score="s + table[min(max(i - j, 0), 3), h]", captured=", table: f32[4, Hq]")
    module, _, _, _ = module_of(program)
    wide = torch.zeros(1).expand(4, 4).as_strided((4, 4), (0, 0))
    module.check_extent("table", wide)
    meta = torch.empty_strided((4, 4), (2**30, 1), device="meta")
    with pytest.raises(ValueError, match=r"variant: table spans 3221225475 elements, wanted fewer than 2\*\*31"):
        module.check_extent("table", meta)


def test_the_launcher_checks_and_allocates() -> None:
    module, names, _, recorder = module_of(program_of())
    q, k, v = inputs(2, 200, 100)
    o, lse = module.variant(q, k, v)
    assert (o.shape, o.dtype, lse.shape, lse.dtype) == (q.shape, q.dtype, q.shape[:3], torch.float32)
    assert recorder.grid == (2 * 4 * 2,)
    arguments = dict(zip(names, recorder.arguments, strict=True))
    assert (arguments["stride_k_n"], arguments["M"], arguments["N"]) == (64, 200, 100)
    assert module.variant(q, k, v, o=o)[0] is o
    wrong = "variant: v is torch.bfloat16 \\(2, 2, 99, 64\\), wanted torch.bfloat16 \\(2, 2, 100, 64\\)"
    with pytest.raises(ValueError, match=wrong):
        module.variant(q, k, v[:, :, :99])
    with pytest.raises(ValueError, match=r"q is torch\.float32"):
        module.variant(q.float(), k, v)


def test_sizes_that_no_input_has_are_asked_for() -> None:
    """They are keyword arguments without a default, and come from the sizes of a launch."""
    text = str(reference_program("flash_ragged")).replace("Dv=64)", "Dv=64, S=size)").replace("tiles(rows(b), 64, most=M)", "tiles(rows(b), 64, most=M + S - S)")
    module, names, loose, recorder = module_of(parse_program(text))
    q, k = torch.zeros(9, 4, 64), torch.zeros(12, 2, 64)
    starts = torch.tensor([0, 9, 9], dtype=torch.int32)
    with pytest.raises(TypeError, match="missing 4 required keyword-only arguments: 'B', 'M', 'N', and 'S'"):
        module.flash_ragged(q, k, k, starts, starts)
    module.flash_ragged(q, k, k, starts, starts, B=2, M=130, N=12, S=7)
    arguments = dict(zip(names, recorder.arguments, strict=True))
    assert recorder.grid == (2 * 4 * 3,)
    assert (arguments["M"], arguments["S"]) == (130, 7)
    assert {"M", "S", "size_class"} <= loose


def test_nothing_is_launched_for_no_rows() -> None:
    module, _, _, recorder = module_of(program_of())
    module.variant(*inputs(2, 0, 5))
    assert recorder.grid == ()


def test_tile_summaries() -> None:
    program = program_of(keep="doc[b, i] == doc[b, j]", captured=", doc: i32[B, N]")
    module, _, _, _ = module_of(program)
    table = torch.tensor([[5, 3, 9, 1, 7], [2, 2, 8, 6, 4]])
    assert module.tile_summary(table, torch.amin, {1: 2}).tolist() == [[3, 1, 7], [2, 6, 4]]
    assert module.tile_summary(table, torch.amax, {0: 4, 1: 3}).tolist() == [[9, 7]]
    assert module.tile_summary(table > 6, torch.amax, {1: 2}).tolist() == [[False, True, True], [False, True, False]]
    assert module.tile_summary(table[:, :0], torch.amin, {1: 4}).shape == (2, 0)


CLASHING = """\
@program(D=16)
def tl(
    q: f32[R, D],
    check: f32[R],
    size_class: out(f32[R, D]),
):
    def maximum(s: float, torch: int):
        return s + f32(torch)

    for step in grid(tiles(R, 16)):
        span_step = index(step)
        pid = load(q[step, :])
        strides = load(check[step])
        triton = maximum(pid, span_step)
        TILE_STEP = triton * strides
        store(size_class[step, :], TILE_STEP)
"""


def test_names_of_the_program_win() -> None:
    q, factor = torch.randn(20, 16), torch.randn(20)
    (out,) = interpret(parse_program(CLASHING), [q, factor])
    assert torch.allclose(out, (q + torch.arange(20)[:, None]) * factor[:, None], atol=1e-5)
    with pytest.raises(LoweringError, match="a size named 'triton', which the generated file needs; rename it"):
        source_of(
            parse_program(
                CLASHING.replace("[R", "[triton")
                .replace("(R", "(triton")
                .replace("triton = max", "y = max")
                .replace("= triton *", "= y *")
            )
        )


BODY = """\
@program(D=64, E=16)
def refused(
    q: f32[R, D],
    w: f32[D, E],
    ids: i32[D, E],
    pages: i32[R],
    o: out(f32[R, D]),
):
    for r in grid(tiles(R, 64)):
        x = load(q[r, :])
        {line}
        store(o[r, :], x)
"""
LINES = {
    "alloc inside a grid": 'ring = alloc(f32[2, 64], space="shared")',
    "copy between memories": "copy(o[r, :], q[r, :])",
    "a copy that is asynchronous": "copy_async(o[r, :], q[r, :])",
    "barriers": "filled = barriers(2, arrivals=1)",
    "commit": "commit()",
    "wait_group": "wait_group(0)",
    "sync": "sync()",
    "roles": 'with role("producer", warps=4):\n            commit()',
    "gemm_async": "y = gemm_async(x, w[:, :])",
    "a grid inside a grid": "for t in grid(4):\n            sync()",
    "a product of i32 tiles": "y = gemm(x, ids[:, :])",
}


@pytest.mark.parametrize("what", LINES)
def test_refused_statements(what: str) -> None:
    line = LINES[what].partition("\n")[0]
    text = BODY.format(line=LINES[what])
    reason = "copy between memories" if "asynchronous" in what else what
    with pytest.raises(LoweringError) as caught:
        source_of(parse_program(text))
    message = str(caught.value)
    assert message.startswith(f"target triton: {reason}")
    assert f"line {text.splitlines().index('        ' + line) + 1}: {line}" in message
    assert "hint: " in message


@pytest.mark.parametrize("line", ["wait(ready[0], phase=0)", "arrive(ready[0])"])
def test_refused_uses_of_barriers(line: str) -> None:
    text = BODY.format(line=line).replace("    for r", "    ready = barriers(1, arrivals=1)\n    for r", 1)
    with pytest.raises(LoweringError, match="outside every grid"):
        source_of(parse_program(text))


OTHERS = {
    "Triton's tiles are powers of two: write 64 or 128": ("tiles(M, 128)", "tiles(M, 96)"),
    "a product over 8 elements of n": ("tiles(N, 64", "tiles(N, 8"),
}


@pytest.mark.parametrize("reason", OTHERS)
def test_other_refusals(reason: str) -> None:
    old, new = OTHERS[reason]
    text = str(program_of())
    assert old in text
    with pytest.raises(LoweringError, match=reason):
        source_of(parse_program(text.replace(old, new)))


def test_a_program_without_inputs() -> None:
    text = "@program(D=16)\ndef ones(\n    o: out(f32[D]),\n):\n    for t in grid(1):\n        store(o[:], 1.0)\n"
    with pytest.raises(LoweringError, match="ones has no input"):
        source_of(parse_program(text))


def test_unknown_architecture() -> None:
    with pytest.raises(LoweringError, match="unknown architecture 'sm_70'; wanted one of sm_80, sm_90"):
        TARGETS["triton"].lower(program_of(), "sm_70")


def test_architecture_without_a_gpu() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert TARGETS["triton"].default_arch() == "sm_90"


def test_tensors_on_the_cpu_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    program = program_of()
    launch = TARGETS["triton"].load(TARGETS["triton"].lower(program, "sm_90"), program)
    with pytest.raises(DeviceError, match="the tensors are on cpu, wanted an NVIDIA GPU"):
        launch([*inputs(1, 5, 5), torch.zeros(1), torch.zeros(1)], {})


def test_a_machine_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Source is still generated; loading it says what to install."""
    monkeypatch.setattr(triton_target.importlib.util, "find_spec", lambda name: None)
    program = program_of()
    lowered = TARGETS["triton"].lower(program, "sm_90")
    with pytest.raises(BuildError, match=r"pip install 'triton>=3\.6'"):
        TARGETS["triton"].load(lowered, program)
