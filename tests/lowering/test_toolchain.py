"""The right instruction set for a processor, the right flags for an instruction set."""

from __future__ import annotations

from pathlib import Path

import pytest

from tilewright.ir.errors import SettingError
from tilewright.ir.settings import ISAS
from tilewright.lowering import toolchain

SKYLAKE = frozenset({"avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"})
SAPPHIRE_RAPIDS = SKYLAKE | {"avx512_bf16", "amx_tile", "amx_bf16", "amx_int8"}


@pytest.mark.parametrize(
    ("flags", "best"),
    [
        (SAPPHIRE_RAPIDS, "amx"),
        (SAPPHIRE_RAPIDS - {"amx_bf16"}, "avx512bf16"),
        (SKYLAKE | {"avx512_bf16"}, "avx512bf16"),
        (SKYLAKE, "avx512"),
        (SKYLAKE - {"avx512vl"}, "avx2"),
        (SKYLAKE - {"fma"}, "portable"),
        (frozenset({"avx512_bf16"}), "portable"),
        (frozenset(), "portable"),
    ],
    ids=["amx", "amx-without-bf16", "bf16", "avx512", "no-vl", "no-fma", "bf16-alone", "nothing"],
)
def test_level_of_a_processor(monkeypatch: pytest.MonkeyPatch, flags: frozenset[str], best: str) -> None:
    monkeypatch.setattr(toolchain, "_amx_permitted", lambda: True)
    found = toolchain._supported(flags)
    assert found[0] == best
    assert found == ISAS[ISAS.index(best) :]


def test_tile_registers_need_the_systems_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "_amx_permitted", lambda: False)
    assert toolchain._supported(SAPPHIRE_RAPIDS)[0] == "avx512bf16"


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
    with pytest.raises(SettingError, match="TILEWRIGHT_ISA='mmx': wanted one of amx, avx512bf16, avx512"):
        toolchain.cpu_isa()


def test_an_older_compiler_lowers_the_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that refuses every flag it does not know gets the best level it does know."""
    script = tmp_path / "c++"
    script.write_text('#!/bin/sh\ncase "$*" in *-mamx*|*bf16*) exit 1;; *) echo old 9.4;; esac\n')
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.setattr(toolchain, "supported_isas", lambda: ISAS)
    assert toolchain.cpu_isa() == "avx512"


def test_the_level_needs_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert toolchain.cpu_isa() == toolchain.supported_isas()[0]


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
