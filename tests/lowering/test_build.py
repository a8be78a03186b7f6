"""C++ becomes a library that loads and computes, or an error that says why not."""

from __future__ import annotations

import ctypes
import math
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tilewright.ir.errors import BuildError, ToolchainMissing
from tilewright.lowering import build, toolchain
from tilewright.lowering.build import build_shared_library, load_shared_library
from tilewright.lowering.cache import Cache, CacheWarning

SOURCE = """
#include <cmath>
#include "factor.hpp"
extern "C" int threads_used(int wanted) {
    int used = 0;
    #pragma omp parallel for num_threads(wanted) reduction(+ : used)
    for (int i = 0; i < wanted; ++i) used += 1;
    return used;
}
extern "C" double scaled(double x) { return FACTOR * x; }
extern "C" double multiply_add(double a, double b, double c) { return a * b + c; }
extern "C" int is_nan(double x) { return x != x && std::isnan(x); }
"""
BROKEN = "int f() { return no_such_name; }\nint g() { return 1 }\n"


@pytest.fixture
def includes(tmp_path: Path) -> Path:
    folder = tmp_path / "include"
    folder.mkdir()
    (folder / "factor.hpp").write_text("#define FACTOR 2.0\n")
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def call(path: Path, name: str, *arguments: float) -> float:
    function = load_shared_library(path)[name]
    function.argtypes = [ctypes.c_double] * len(arguments)
    function.restype = ctypes.c_double
    return float(function(*arguments))


def stand_in(path: Path, body: str) -> str:
    """A compiler that knows its version and otherwise does what body says."""
    path.write_text(f'#!/bin/sh\ncase "$1" in --version) echo stand-in 1.0; exit 0;; esac\n{body}\n')
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("isa", toolchain.supported_isas())
def test_builds_and_computes(includes: Path, cache: Cache, isa: str) -> None:
    path = build_shared_library(SOURCE, isa, includes, cache=cache)
    assert call(path, "scaled", 21.0) == 42.0
    library = load_shared_library(path)
    assert library.threads_used(2) == 2
    library.is_nan.argtypes = [ctypes.c_double]
    assert [bool(library.is_nan(x)) for x in (math.nan, math.inf, 0.0)] == [True, False, False]


@pytest.mark.skipif("avx2" not in toolchain.supported_isas(), reason="no fused multiply-add to use")
def test_multiply_add_is_fused(includes: Path, cache: Cache) -> None:
    path = build_shared_library(SOURCE, "avx2", includes, cache=cache)
    small = 2.0**-30
    assert call(path, "multiply_add", 1 + small, 1 + small, -(1 + 2 * small)) == small**2


def test_is_built_once_for_the_same_input(
    includes: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = build_shared_library(SOURCE, "portable", includes, cache=cache)
    monkeypatch.setattr(build, "_call", lambda *_: pytest.fail("compiled again"))
    assert build_shared_library(SOURCE, "portable", includes, cache=cache) == path


def test_every_input_is_in_the_key(includes: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = toolchain.find_compiler()
    job = build._Job(SOURCE, includes, compiler, ("-O3",), ("-shared",))
    other = toolchain.Compiler(compiler.command, compiler.version + " patched", compiler.openmp_symbol)
    keys = {
        job.key(),
        build._Job(SOURCE + " ", includes, compiler, ("-O3",), ("-shared",)).key(),
        build._Job(SOURCE, includes, compiler, ("-O2",), ("-shared",)).key(),
        build._Job(SOURCE, includes, compiler, ("-O3",), ("-shared", "-fopenmp")).key(),
        build._Job(SOURCE, includes, other, ("-O3",), ("-shared",)).key(),
    }
    (includes / "factor.hpp").write_text("#define FACTOR 3.0\n")
    keys.add(job.key())
    (includes / "factor.hpp").rename(includes / "renamed.hpp")
    keys.add(job.key())
    assert len(keys) == 7


def test_a_changed_header_changes_the_library(includes: Path, cache: Cache) -> None:
    assert call(build_shared_library(SOURCE, "portable", includes, cache=cache), "scaled", 1.0) == 2.0
    (includes / "factor.hpp").write_text("#define FACTOR 3.0\n")
    assert call(build_shared_library(SOURCE, "portable", includes, cache=cache), "scaled", 1.0) == 3.0


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not list loaded libraries")
def test_one_openmp_runtime_in_the_process(includes: Path, cache: Cache) -> None:
    path = build_shared_library(SOURCE, "portable", includes, cache=cache)
    assert load_shared_library(path).threads_used(2) == 2
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line}
    runtimes = {name for name in mapped if Path(name).name.startswith(("libgomp", "libomp", "libiomp"))}
    assert len(runtimes) == 1, runtimes
    assert b"libgomp.so" not in path.read_bytes()


def test_brings_a_runtime_where_torch_has_none(
    includes: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_is_in_process", lambda symbol: False)
    path = build_shared_library(SOURCE, "portable", includes, cache=cache)
    assert b"omp.so" in path.read_bytes()


def test_a_refusal_shows_the_error_and_keeps_the_source(includes: Path, cache: Cache) -> None:
    with pytest.raises(BuildError, match="no_such_name") as caught:
        build_shared_library(BROKEN, "portable", includes, cache=cache)
    text = str(caught.value)
    kept = Path(text.partition("source kept at ")[2].splitlines()[0])
    assert kept.read_text() == BROKEN
    assert "kernel.cpp:1" in text
    assert len(text.splitlines()) < 20


def test_a_library_that_does_not_load(tmp_path: Path) -> None:
    (tmp_path / "empty.so").write_bytes(b"")
    with pytest.raises(BuildError, match=r"empty\.so does not load: .*; delete it"):
        load_shared_library(tmp_path / "empty.so")


@pytest.mark.parametrize("size", [0, 64, 5000])
def test_a_truncated_library_is_built_again(includes: Path, cache: Cache, size: int) -> None:
    path = build_shared_library(SOURCE, "portable", includes, cache=cache)
    os.truncate(path, size)
    assert call(build_shared_library(SOURCE, "portable", includes, cache=cache), "scaled", 2.0) == 4.0


def test_a_cache_that_cannot_be_written(includes: Path, cache: Cache) -> None:
    (cache.root / "blobs").write_text("not a folder")
    with pytest.warns(CacheWarning, match="cannot be written"):
        path = build_shared_library(SOURCE, "portable", includes, cache=cache)
    assert call(path, "scaled", 2.0) == 4.0


@pytest.mark.parametrize("cxx", ["", "no-such-compiler", "/no/such/compiler -O1"])
def test_no_compiler_says_how_to_get_one(
    includes: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch, cxx: str
) -> None:
    monkeypatch.setenv("CXX", cxx)
    monkeypatch.setenv("PATH", str(includes))
    with pytest.raises(ToolchainMissing, match=r"(?s)no C\+\+ compiler found.*apt.*dnf.*conda.*xcode"):
        build_shared_library(SOURCE, "portable", includes, cache=cache)


def test_a_compiler_that_does_not_run(
    includes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "c++"
    script.write_text("#!/bin/sh\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    with pytest.raises(ToolchainMissing, match=r"does not run .*exit status 3(?s:.*)apt"):
        build_shared_library(SOURCE, "portable", includes)


def test_a_compiler_that_is_killed(
    includes: Path, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", stand_in(tmp_path / "c++", "kill -9 $$"))
    with pytest.raises(BuildError, match=r"was killed \(SIGKILL\)"):
        build_shared_library(SOURCE, "portable", includes, cache=cache)


def test_a_compiler_that_hangs_is_ended_with_its_children(
    includes: Path, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = stand_in(tmp_path / "c++", f"sleep 600 & echo $! > {shlex.quote(str(tmp_path / 'child'))}; wait")
    monkeypatch.setenv("CXX", script)
    with pytest.raises(BuildError, match="did not finish within 1 s"):
        build_shared_library(SOURCE, "portable", includes, timeout_s=1.0, cache=cache)
    assert is_gone(int((tmp_path / "child").read_text()))


def is_gone(pid: int, patience_s: float = 10.0) -> bool:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False


BUILDER = """
import sys
from pathlib import Path
from tilewright.lowering.build import build_shared_library, load_shared_library
path = build_shared_library(Path(sys.argv[1]).read_text(), "portable", Path(sys.argv[2]))
print(path, load_shared_library(path).threads_used(2))
"""


@pytest.fixture
def builder(includes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command of a process that builds SOURCE into the cache at tmp_path / "cache"."""
    (tmp_path / "kernel.cpp").write_text(SOURCE)
    monkeypatch.setenv("TILEWRIGHT_CACHE", str(tmp_path / "cache"))
    return [sys.executable, "-c", BUILDER, str(tmp_path / "kernel.cpp"), str(includes)]


def test_two_processes_build_one_library(builder: list[str], tmp_path: Path) -> None:
    rivals = [subprocess.Popen(builder, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=300)[0] for process in rivals]
    assert [process.returncode for process in rivals] == [0, 0]
    assert answers[0] == answers[1]
    assert answers[0].endswith(" 2\n")
    assert len(list((tmp_path / "cache" / "blobs").iterdir())) == 1


def test_a_killed_process_harms_no_later_build(
    builder: list[str], includes: Path, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kill a process in the middle of a compile; the same key builds at once in the next one."""
    real = shlex.join(toolchain.find_compiler().command)
    slow, child = tmp_path / "slow", tmp_path / "child"
    slow.touch()
    wait = f"if [ -e {shlex.quote(str(slow))} ]; then echo $$ > {shlex.quote(str(child))}; exec sleep 600; fi"
    monkeypatch.setenv("CXX", stand_in(tmp_path / "c++", f'{wait}\nexec {real} "$@"'))
    victim = subprocess.Popen(builder)
    deadline = time.monotonic() + 120
    while not (child.exists() and child.read_text().strip()):
        assert time.monotonic() < deadline, "the other process never started to compile"
        time.sleep(0.05)
    victim.send_signal(signal.SIGKILL)
    victim.wait(60)
    os.kill(int(child.read_text()), signal.SIGKILL)
    slow.unlink()
    assert call(build_shared_library(SOURCE, "portable", includes), "scaled", 2.0) == 4.0


def test_the_folder_of_a_compile_goes_away(
    includes: Path, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    build_shared_library(SOURCE, "portable", includes, cache=cache)
    with pytest.raises(BuildError):
        build_shared_library(BROKEN, "portable", includes, cache=cache)
    assert list((tmp_path / "scratch").iterdir()) == []
