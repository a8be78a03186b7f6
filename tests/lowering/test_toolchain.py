"""The right instruction set for a processor, the right flags for an instruction set."""

from __future__ import annotations

from pathlib import Path

import pytest

from tilewright.ir.errors import SettingError
from tilewright.ir.settings import ISAS
from tilewright.lowering import toolchain

SKYLAKE = frozenset({"avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"})


@pytest.mark.parametrize(
    ("flags", "best"),
    [
        (SKYLAKE | {"avx512_bf16"}, "avx512bf16"),
        (SKYLAKE, "avx512"),
        (SKYLAKE - {"avx512vl"}, "avx2"),
        (SKYLAKE - {"fma"}, "portable"),
        (frozenset({"avx512_bf16"}), "portable"),
        (frozenset(), "portable"),
    ],
    ids=["bf16", "avx512", "no-vl", "no-fma", "bf16-alone", "nothing"],
)
def test_level_of_a_processor(flags: frozenset[str], best: str) -> None:
    found = toolchain._supported(flags)
    assert found[0] == best
    assert found == ISAS[ISAS.index(best) :]


@pytest.mark.parametrize(
    ("capability", "best"),
    [("AVX512", "avx512"), ("AVX2", "avx2"), ("DEFAULT", "portable"), ("SVE", "portable")],
)
def test_torch_is_asked_where_the_system_is_silent(
    monkeypatch: pytest.MonkeyPatch, capability: str, best: str
) -> None:
    monkeypatch.setattr(toolchain, "_torch_capability", lambda: capability)
    assert toolchain._supported(None) == ISAS[ISAS.index(best) :]


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEWRIGHT_ISA", "portable")
    assert toolchain.cpu_isa() == "portable"
    monkeypatch.setenv("TILEWRIGHT_ISA", "")
    assert toolchain.cpu_isa() == toolchain.supported_isas()[0]
    monkeypatch.setenv("TILEWRIGHT_ISA", "mmx")
    with pytest.raises(SettingError, match="TILEWRIGHT_ISA='mmx': wanted one of avx512bf16, avx512"):
        toolchain.cpu_isa()


@pytest.mark.parametrize("isa", ISAS)
def test_flags_keep_nan_and_infinity(isa: str) -> None:
    flags = toolchain.compile_flags(isa)
    assert "-O3" in flags
    assert "-ffp-contract=fast" in flags
    assert not {"-ffast-math", "-Ofast", "-ffinite-math-only", "-funsafe-math-optimizations"} & set(flags)


def test_the_named_compiler_is_taken_with_its_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "my c++"
    script.write_text("#!/bin/sh\necho Stand-in clang version 99\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", f"'{script}' -march=native")
    compiler = toolchain.find_compiler()
    assert compiler.command == (str(script), "-march=native")
    assert compiler.version == "Stand-in clang version 99"
    assert compiler.openmp_symbol == "__kmpc_fork_call"
