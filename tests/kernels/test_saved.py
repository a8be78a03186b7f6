"""A saved kernel comes back without tracing; a directory that was changed or damaged is refused."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
import torch

import tilewright as tw
from tilewright.lowering.toolchain import find_compiler

from .conftest import causal_eager, qkv


@pytest.fixture
def saved(causal: tw.Kernel, tmp_path: Path) -> Path:
    return causal.save(tmp_path / "causal")


def edit(folder: Path, name: str, change: str, into: str) -> None:
    """Change a file and make the manifest agree, as someone with bad intent would."""
    text = (folder / name).read_text().replace(change, into)
    (folder / name).write_text(text)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"][name] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_round_trip(saved: Path, causal: tw.Kernel) -> None:
    kernel = tw.load(saved)
    tensors = qkv(rows=40, columns=70)
    assert torch.equal(kernel(*tensors), causal(*tensors))
    torch.testing.assert_close(kernel(*tensors), causal_eager(*tensors))
    assert kernel.source == causal.source
    assert kernel.program == causal.program
    assert kernel.spec == causal.spec
    assert str(kernel.report) == str(causal.report)


def test_files_and_manifest(saved: Path, causal: tw.Kernel) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    names = [*manifest["sha256"], "manifest.json", "include"]
    assert sorted(path.name for path in saved.iterdir()) == sorted(names)
    assert (saved / manifest["source"]).read_text() == causal.source
    assert (saved / "program.txt").read_text() == str(causal.program)
    assert manifest["verified"] is True
    assert (manifest["target"], manifest["dtype"], manifest["sizes"]) == ("cpu", "f32", {"D": 16, "Dv": 16})


def test_the_source_builds_on_its_own(saved: Path) -> None:
    """With the command that its header gives."""
    compiler = find_compiler()
    command = [*compiler.command, "-O0", "-std=c++17", "-march=native", "-fopenmp", "-fsyntax-only"]
    subprocess.run([*command, "-I", str(saved / "include"), str(saved / "kernel.cpp")], check=True, timeout=120)


def test_a_changed_file_is_found(saved: Path) -> None:
    path = saved / "program.txt"
    path.write_text(path.read_text().replace("0.25", "0.5"))
    with pytest.raises(tw.TilewrightError, match=r"program\.txt is not the file that was saved"):
        tw.load(saved)


def test_source_that_is_not_the_program_s_never_runs(saved: Path) -> None:
    edit(saved, "kernel.cpp", "#include", "// planted\n#include")
    with pytest.raises(tw.TilewrightError, match=r"kernel\.cpp is not what program\.txt lowers to"):
        tw.load(saved)


def test_a_path_out_of_the_directory_is_refused(saved: Path) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest["sha256"]["../secret.txt"] = "0"
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(tw.TilewrightError, match="not a plain file name"):
        tw.load(saved)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"format": 1}', "[" * 100_000, '{"format": 2, "target": "cpu"}', "\x00"]
)
def test_a_broken_manifest_is_refused(saved: Path, text: str) -> None:
    (saved / "manifest.json").write_text(text)
    with pytest.raises(tw.TilewrightError, match="is not a kernel's manifest"):
        tw.load(saved)


def test_missing_files_are_named(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(tw.TilewrightError, match="No such file or directory; wanted a directory written by"):
        tw.load(tmp_path / "nothing")
    (saved / "program.txt").unlink()
    with pytest.raises(tw.TilewrightError, match=r"program\.txt: No such file"):
        tw.load(saved)


def test_a_huge_file_is_not_read(saved: Path) -> None:
    with (saved / "program.txt").open("ab") as file:
        file.truncate(1 << 30)
    with pytest.raises(tw.TilewrightError, match="larger than"):
        tw.load(saved)


def test_a_manifest_without_the_program_is_refused(saved: Path) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    del manifest["sha256"]["program.txt"]
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(tw.TilewrightError, match=r"does not list program\.txt"):
        tw.load(saved)


def test_another_version_s_kernel_is_lowered_anew(saved: Path) -> None:
    edit(saved, "kernel.cpp", "#include", "// of another version\n#include")
    manifest = json.loads((saved / "manifest.json").read_text()) | {"tilewright": "0.0.1"}
    (saved / "manifest.json").write_text(json.dumps(manifest))
    kernel = tw.load(saved)
    assert "another version" not in kernel.source
    assert kernel.report is None  # what was verified is not what runs
