"""Backward kernels, cross-compiled without a GPU: registers, tensor cores, and what a processor may reorder."""

from __future__ import annotations

import re

import pytest

from tilewright.ir.dtypes import DType
from tilewright.lowering.triton import report
from tilewright.lowering.triton.module import write_module
from tilewright.lowering.triton.report import Report, compile_report
from tilewright.lowering.triton.target import import_source
from tilewright.schedules.backward_tuning import backward_tiles
from tilewright.schedules.tuning import choose_backward

from .backward import program_of
from .variants import VARIANTS

SHARED_BYTES = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "sm_120": 99 << 10}  # a block may have
ARCHES = ("sm_80", "sm_90", "sm_100")
SPLIT = "flash_backward_split"


def compiled(name: str, d: int, arch: str, dtype: str = "bf16", *, is_ordered: bool = True) -> Report:
    """The kernel of jobs, with the tiles of its table; it fits, and multiplies on tensor cores where the type has any."""
    tiles = backward_tiles(DType(dtype), d, arch)
    program = program_of(VARIANTS[name].spec(d=d, dv=d, dtype=dtype), tiles, is_ordered=is_ordered)
    before, found, after = compile_report(program, arch)
    assert before.spills == after.spills == 0
    assert found.shared_bytes <= SHARED_BYTES[arch]
    assert (found.tensor_core_instructions > 0) == (dtype != "f32")
    return found


@pytest.mark.parametrize("arch", ARCHES)
def test_heads_of_64_do_not_spill(arch: str) -> None:
    assert compiled("causal", 64, arch).spills == 0


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("d", [64, 128])
def test_kernels_without_sums_of_several_instances(d: int, arch: str) -> None:
    """flash_backward_split: dK and dV, then dQ."""
    tiles = backward_tiles(DType.BF16, d, arch, SPLIT)
    program = program_of(VARIANTS["causal"].spec(d=d, dv=d, dtype="bf16"), tiles, form=SPLIT)
    for found in compile_report(program, arch)[1:]:
        assert found.spills == 0
        assert found.shared_bytes <= SHARED_BYTES[arch]
        assert found.tensor_core_instructions > 0


@pytest.mark.slow
@pytest.mark.parametrize("is_ordered", [True, False])
@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("name", ["full", "causal", "window", "softcap", "alibi"])
def test_other_variants_with_heads_of_64_do_not_spill(name: str, arch: str, is_ordered: bool) -> None:
    assert compiled(name, 64, arch, is_ordered=is_ordered).spills == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bias", "bias-bf16", "relative-table"])
def test_scores_that_read_an_element_a_pair_do_not_spill(name: str) -> None:
    """Addresses take registers, so tiles are smaller than those of the same width that read none."""
    spec = VARIANTS[name].spec(d=64, dv=64, dtype="bf16")
    tiles = dict(choose_backward(spec, "triton", "sm_80").tiles)
    assert (tiles["m"], tiles["n"]) != backward_tiles(DType.BF16, 64, "sm_80")
    reports = compile_report(program_of(spec, (tiles["m"], tiles["n"])), "sm_80")
    assert [report.spills for report in reports] == [0, 0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("name", ["full", "causal", "softcap"])
def test_heads_of_128_keep_their_loops_in_registers(name: str, arch: str) -> None:
    """A few values that live through the loop of visits, and are used once a job, may be spilled; products are not."""
    assert compiled(name, 128, arch).spills <= 8


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("d", [16, 40, 80, 256])
def test_other_head_sizes_compile(d: int, dtype: str) -> None:
    compiled("causal", d, "sm_90", dtype)


def ptx_of(arch: str, most_spins: int = 0) -> str:
    """The ordered kernel as text."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    module = write_module(program_of(VARIANTS["causal"].spec(d=64, dv=64, dtype="bf16"), (64, 64)), arch)
    kernel = module.kernels[1]
    function = getattr(import_source(module.source), kernel.name).fn
    types, constants, attributes = report._signature(module, kernel, function.arg_names)
    constants[(function.arg_names.index("most_spins"),)] = most_spins
    source = ASTSource(function, types, constants, attributes)
    target = GPUTarget("cuda", int(arch.removeprefix("sm_")), 32)
    text = triton.compile(source, target=target, options={"num_warps": 4, "num_stages": 3}).asm["ptx"]
    return re.sub(r"^\s*//.*$", "", str(text), flags=re.MULTILINE)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_sums_are_seen_in_their_order(arch: str) -> None:
    """Look (acquire), all threads meet, add, all threads meet, release: nothing of it is missing or has moved.

    The interpreter cannot see this: it runs one thread.
    """
    text = ptx_of(arch)
    look = text.index("ld.acquire.gpu.global.b32")
    release = text.index("red.release.gpu.global.add.s32")
    assert text.count("ld.acquire") == text.count("red.release") == 1
    parts = re.findall(r"\b(?:bar\.sync|red\.|atom\.|ld\.global|st\.global|cp\.async\.c)", text[look:release])
    adds = [n for n, part in enumerate(parts) if part in ("red.", "atom.")]
    assert adds
    assert "bar.sync" in parts[: adds[0]]
    assert "bar.sync" in parts[adds[-1] :]
    assert not {"ld.global", "st.global"} & set(parts)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_rows_of_queries_are_copied_asynchronously(arch: str) -> None:
    """Waits do not keep the loop of visits from being pipelined: a loop or a barrier of Triton's language would."""
    text = ptx_of(arch)
    assert "cp.async.cg.shared.global" in text[: text.index("ld.acquire.gpu.global.b32")]
    assert "cp.async.cg.shared.global" in text[text.index("red.release.gpu.global") :]


def test_waits_that_may_give_up_compile() -> None:
    """most_spins > 0 is another kernel: waits in Triton's own language, which look and release alike."""
    text = ptx_of("sm_90", 1000)
    assert re.search(r"(?:ld|atom)\.\S*acquire", text)
    assert re.search(r"(?:atom|red)\.\S*release", text)
    assert "cp.async.cg.shared.global" not in text
