"""Saved libraries: a machine without a compiler, a damaged library, one for another processor."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tilewright as tw
from tilewright.kernels import binaries
from tilewright.kernels.binaries import BinaryWarning
from tilewright.lowering.toolchain import supported_isas

from .conftest import causal_spec, qkv

RUN = """
import sys
import torch
import tilewright as tw
kernel = tw.load(sys.argv[1], binary=sys.argv[3] == "binary")
q, k, v = torch.load(sys.argv[2])
torch.save(kernel(q, k, v), sys.argv[2])
assert "tilewright.ir.lift" not in sys.modules, "something was traced"
"""


@pytest.fixture
def saved(causal: tw.Kernel, tmp_path: Path) -> Path:
    causal.prepare(*qkv())
    return causal.save(tmp_path / "causal", binary=True)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "no-such-compiler"))
    monkeypatch.setenv("TILEWRIGHT_CACHE", str(tmp_path / "cache"))


def change(folder: Path, **values: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["binaries"] = [row | values for row in manifest["binaries"]]
    (folder / "manifest.json").write_text(json.dumps(manifest))


def library(folder: Path) -> Path:
    return next(folder.glob("kernel.*.so"))


def run(folder: Path, tensors: Path, how: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", RUN, str(folder), str(tensors), how]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, env=os.environ)


def test_a_fresh_process_without_a_compiler(
    causal: tw.Kernel, saved: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    torch.save(qkv(rows=50, columns=70), tmp_path / "tensors.pt")
    request.getfixturevalue("no_compiler")
    refused = run(saved, tmp_path / "tensors.pt", "source")
    assert "no C++ compiler found" in refused.stderr
    done = run(saved, tmp_path / "tensors.pt", "binary")
    assert done.returncode == 0, done.stderr
    assert torch.equal(torch.load(tmp_path / "tensors.pt"), causal(*qkv(rows=50, columns=70)))


def test_a_library_runs_only_where_asked_for(saved: Path) -> None:
    library(saved).write_bytes(b"not a library at all")
    kernel = tw.load(saved)
    assert kernel(*qkv()).shape == (2, 4, 33, 16)


def test_a_changed_library_is_refused(saved: Path) -> None:
    with library(saved).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(tw.TilewrightError, match=r"\.so is not the library that was saved \(its hash differs\)"):
        tw.load(saved, binary=True)
    library(saved).unlink()
    with pytest.raises(tw.TilewrightError, match=r"\.so: No such file"):
        tw.load(saved, binary=True)
    change(saved, file="../kernel.so")
    with pytest.raises(tw.TilewrightError, match=r"names '../kernel.so', which is not a plain file name"):
        tw.load(saved, binary=True)


def test_a_library_for_another_machine_is_told_and_the_source_built(causal: tw.Kernel, saved: Path) -> None:
    for values in ({"isa": "avx1024"}, {"system": "Plan9-vax"}):
        change(saved, **values)
        with pytest.warns(BinaryWarning, match=r"no library for this machine .* it holds: .*; building from source"):
            kernel = tw.load(saved, binary=True)
        assert torch.equal(kernel(*qkv()), causal(*qkv()))


def test_a_library_that_does_not_load_is_told_and_the_source_built(causal: tw.Kernel, saved: Path) -> None:

    library(saved).write_bytes(b"whole, but no library")
    change(saved, sha256=hashlib.sha256(b"whole, but no library").hexdigest())
    with pytest.warns(BinaryWarning, match=r"does not load[\s\S]*building from source"):
        kernel = tw.load(saved, binary=True)
    assert torch.equal(kernel(*qkv()), causal(*qkv()))


def test_another_version_s_library_is_not_used(saved: Path, causal: tw.Kernel) -> None:
    manifest = json.loads((saved / "manifest.json").read_text()) | {"tilewright": "0.0.1"}
    source = saved / manifest["source"]
    source.write_text("// of another version\n" + source.read_text())

    manifest["sha256"][source.name] = hashlib.sha256(source.read_bytes()).hexdigest()
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.warns(BinaryWarning, match=r"saved by Tilewright 0\.0\.1"):
        kernel = tw.load(saved, binary=True)
    assert torch.equal(kernel(*qkv()), causal(*qkv()))


def test_libraries_for_several_levels(saved: Path, causal: tw.Kernel, tmp_path: Path) -> None:
    levels = supported_isas()[0], "portable"
    folder = causal.save(tmp_path / "both", binary=levels)
    rows = json.loads((folder / "manifest.json").read_text())["binaries"]
    assert [row["isa"] for row in rows] == list(levels)
    library(folder).write_bytes(b"")
    (folder / "kernel.portable.so").write_bytes(b"")
    with pytest.raises(tw.TilewrightError, match=rf"kernel\.{levels[0]}\.so is not the library"):
        tw.load(folder, binary=True)  # the best one is taken
    with pytest.raises(tw.TilewrightError, match="level 'avx1024'; wanted some of"):
        causal.save(tmp_path / "none", binary=["avx1024"])


def test_targets_without_libraries_say_so(tmp_path: Path) -> None:
    kernel = tw.compile(causal_spec(), target="triton", example=qkv())
    with pytest.raises(tw.UnsupportedSpec, match="target 'triton' compiles at its first launch"):
        kernel.save(tmp_path / "triton", binary=True)


def test_a_kernel_for_a_better_processor_is_built_for_this_one(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binaries, "supported_isas", lambda: ("portable",))
    monkeypatch.setattr(binaries, "cpu_isa", lambda: "portable")
    kernel = tw.load(saved)
    assert kernel.compiled.lowered.arch == "portable"
