"""Generated kernels, cross-compiled without a GPU: no spilled registers, tensor cores in use, on every architecture."""

from __future__ import annotations

import pytest

from tilewright.ir.errors import BuildError
from tilewright.ir.parser import parse_program, parse_spec
from tilewright.ir.program import Program
from tilewright.ir.transfer import transfer
from tilewright.kernels.references import reference_program
from tilewright.lowering.triton import report
from tilewright.lowering.triton.report import compile_report
from tilewright.schedules.tuning import choose

SPEC = """\
@attention(D={d}, Dv={d}, group=1)
def variant(q: {t}[B, Hq, M, D], k: {t}[B, Hkv, N, D], v: {t}[B, Hkv, N, Dv]{captured}):
    def score(s: float, b: int, h: int, i: int, j: int):
        return {score}

    def keep(b: int, h: int, i: int, j: int):
        return {keep}

    return softmax()
"""
VARIANTS = {
    "full": ("s * 0.125", "True", ""),
    "causal": ("s * 0.125", "j <= i", ""),
    "softcap": ("50.0 * tanh(s * 0.0025)", "j <= i", ""),
    "window": ("s * 0.125", "(j <= i) & (i - j < 512)", ""),
    "alibi": ("s * 0.125 - slopes[h] * f32(i - j)", "j <= i", ", slopes: f32[Hq]"),
    "bias": ("s * 0.125 + bias[h, i, j]", "True", ", bias: bf16[Hq, M, N]"),
    "table": ("s * 0.125 + table[min(max(i - j, 0), 31), h]", "True", ", table: f32[32, Hq]"),
    "documents": ("s * 0.125", "doc[b, i] == doc[b, j]", ", doc: i64[B, N]"),
    "mask": ("s * 0.125", "mask[b, 0, i, j]", ", mask: bool[B, 1, M, N]"),
}


DENSE, RAGGED, PAGED, SPLIT, SPLIT_PAGED = FORMS = (
    "flash_forward", "flash_ragged", "flash_paged", "flash_split", "flash_split_paged"
)  # fmt: skip
SHARED_BYTES = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "sm_120": 99 << 10}  # a block may have


def program_of(name: str, d: int, arch: str, dtype: str = "bf16", form: str = DENSE) -> Program:
    score, keep, captured = VARIANTS[name]
    spec = parse_spec(SPEC.format(d=d, t=dtype, score=score, keep=keep, captured=captured))
    return transfer(reference_program(form), spec, choose(spec, "triton", arch, form))


def check(name: str, d: int, arch: str, dtype: str = "bf16", form: str = DENSE) -> None:
    """One kernel, which spills nothing, fits, and multiplies on tensor cores where the type has any."""
    (found,) = compile_report(program_of(name, d, arch, dtype, form), arch)
    assert found.spills == 0
    assert 0 < found.registers <= 255
    assert 0 < found.shared_bytes <= SHARED_BYTES[arch]
    assert (found.tensor_core_instructions > 0) == (dtype != "f32")


DEFAULT = [
    ("causal", 64, "sm_80"),
    ("softcap", 128, "sm_80"),
    ("full", 128, "sm_90"),
    ("softcap", 64, "sm_90"),
    ("causal", 128, "sm_100"),
    ("full", 64, "sm_100"),
]
NAMED = ["{}-D{}-{}".format(*case) for case in DEFAULT]


@pytest.mark.parametrize(("name", "d", "arch"), DEFAULT, ids=NAMED)
def test_no_spills_and_tensor_cores(name: str, d: int, arch: str) -> None:
    check(name, d, arch)


@pytest.mark.parametrize(("form", "d", "arch"), [(RAGGED, 64, "sm_90"), (PAGED, 128, "sm_80"), (SPLIT, 128, "sm_90"), (SPLIT_PAGED, 64, "sm_100")])
def test_other_forms_do_not_spill(form: str, d: int, arch: str) -> None:
    check("full", d, arch, form=form)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100", "sm_120"])
@pytest.mark.parametrize("d", [64, 128])
@pytest.mark.parametrize("form", FORMS[1:])
@pytest.mark.parametrize("name", ["causal", "softcap", "window", "alibi"])
def test_other_forms_on_every_architecture(name: str, form: str, d: int, arch: str) -> None:
    check(name, d, arch, form=form)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("form", FORMS)
def test_heads_of_256_fit(form: str, arch: str) -> None:
    check("full", 256, arch, form=form)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("d", "dv"), [(576, 512), (192, 128)])
def test_heads_of_latent_attention_fit(d: int, dv: int, form: str, arch: str) -> None:
    """Keys and values of different widths, no power of two: DeepSeek's, absorbed and not."""
    spec = parse_spec(SPEC.replace("Dv={d}", f"Dv={dv}").format(d=d, t="bf16", score="s * 0.1", keep="True", captured=""))
    (found,) = compile_report(transfer(reference_program(form), spec, choose(spec, "triton", arch, form)), arch)
    assert found.shared_bytes <= SHARED_BYTES[arch]
    assert found.tensor_core_instructions > 0


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100", "sm_120"])
@pytest.mark.parametrize("d", [64, 128])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_on_every_architecture(name: str, d: int, arch: str) -> None:
    check(name, d, arch)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100", "sm_120"])
@pytest.mark.parametrize("d", [64, 128])
def test_float32_does_not_spill(d: int, arch: str) -> None:
    check("causal", d, arch, "f32")


@pytest.mark.slow
@pytest.mark.parametrize("d", [16, 40, 80, 96, 192, 256])
def test_other_head_sizes_compile(d: int) -> None:
    (found,) = compile_report(program_of("causal", d, "sm_90"), "sm_90")
    assert found.tensor_core_instructions > 0


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("dtype", ["bf16", "f32"])
@pytest.mark.parametrize(("d", "dv"), [(192, 128), (256, 256), (576, 512)])
def test_wide_heads_fit_the_shared_memory(d: int, dv: int, dtype: str, arch: str) -> None:
    score, keep, captured = VARIANTS["causal"]
    text = SPEC.replace("Dv={d}", "Dv={dv}").format(d=d, dv=dv, t=dtype, score=score, keep=keep, captured=captured)
    spec = parse_spec(text)
    (found,) = compile_report(transfer(reference_program(), spec, choose(spec, "triton", arch)), arch)
    assert found.shared_bytes <= SHARED_BYTES[arch]


def test_warps_and_stages_of_the_text_are_those_of_the_kernel() -> None:
    text = str(program_of("full", 64, "sm_90"))
    text = text.replace('order="longest_first"', 'order="longest_first", warps=2').replace(
        'part="full"', 'part="full", stages=5'
    )
    (found,) = compile_report(parse_program(text.replace("128", "32")), "sm_90")
    assert (found.warps, found.stages) == (2, 5)


def test_half_precision_additions_are_no_tensor_core_instructions() -> None:
    code = "HFMA2.MMA R1, -RZ, RZ, 0, 0 ;\n HMMA.16816.F32.BF16 R4, R8 ;\n HGMMA.64x64x16 ;\n UTCHMMA gdesc ;\n"
    assert report.TENSOR_CORE.findall(code) == ["HMMA", "HGMMA", "UTCHMMA"]


def test_what_triton_refuses_is_a_build_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triton.compile", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("ptxas died")))
    with pytest.raises(BuildError, match="Triton cannot compile variant_kernel for sm_90: ptxas died"):
        compile_report(program_of("full", 64, "sm_90"), "sm_90")
