"""The command line: summaries, exit codes, and one message for everything that can be wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tilewright as tw
from tilewright.cli import main
from tilewright.ir.settings import settings

SPECS = """
import torch

print("printed while importing")

def causal(q, k, v):
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    keep = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril()
    return torch.softmax(scores.masked_fill(~keep, float("-inf")), -1) @ v

def full(q, k, v):
    return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, -1) @ v

def biased(q, k, v, bias):
    return torch.softmax(q @ k.transpose(-1, -2) + bias, -1) @ v

def biased_inputs():
    return *(torch.randn(1, 2, 33, 16) for _ in range(3)), torch.randn(33, 33)

def data_dependent(q, k, v):
    if q.sum() > 0:
        return full(q, k, v)
    return full(k, q, v)

def no_attention(q, k, v):
    return q.cumsum(2) + v

def two(q, k):
    return q

def broken_inputs_inputs():
    raise ValueError("no data here")

def broken_inputs(q, k, v):
    return v

not_a_function = 3
"""
SHAPE = ("--shape", "1,2,2,33,33,16")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in a folder that has specs.py: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "specs.py").write_text(SPECS)

    def command(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return command


def summary(result: tuple[int, str, str], code: int = 0) -> dict[str, Any]:
    """The one JSON object on standard output."""
    assert result[0] == code, result[2]
    data = json.loads(result[1])
    assert isinstance(data, dict)
    return data


# generate


def test_generate(run: Run, tmp_path: Path) -> None:
    data = summary(run("generate", "specs.py:causal", *SHAPE, "--target", "cpu", "--out", "made", "--json"))
    contract = {
        "spec", "target", "arch", "dtype", "source", "program", "manifest", "verified", "cases", "max_error",
        "error_budget", "seconds",
    }  # fmt: skip
    assert contract <= set(data)
    assert (data["spec"], data["target"], data["dtype"], data["verified"]) == ("specs.py:causal", "cpu", "f32", True)
    assert data["cases"] >= 20
    assert 0 < data["max_error"] <= data["error_budget"]
    assert set(data["seconds"]) == {"lift", "transfer", "lower", "build", "verify"}
    assert all(seconds > 0 for seconds in data["seconds"].values())
    kernel = tw.load(tmp_path / "made")
    q = torch.randn(2, 3, 70, 16)
    wanted = torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)
    torch.testing.assert_close(kernel(q, q, q), wanted, rtol=1e-5, atol=1e-5)


def test_generate_again_comes_from_memory_until_the_spec_changes(run: Run, tmp_path: Path) -> None:
    words = ("generate", "specs.py:full", *SHAPE, "--target", "cpu", "--json", "--out")
    first = summary(run(*words, "one"))
    again = summary(run(*words, "two"))
    assert sum(first["seconds"].values()) > 0
    assert sum(again["seconds"].values()) == 0
    changing = ("seconds", "source", "program", "manifest", "directory")
    assert all(again[name] == first[name] for name in first if name not in changing)
    for name in ("kernel.cpp", "program.txt", "spec.txt", "manifest.json"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    (tmp_path / "specs.py").write_text(SPECS.replace("** -0.5, -1)", "** -0.25, -1)"))
    changed = summary(run(*words, "three"))
    assert sum(changed["seconds"].values()) > 0
    assert (tmp_path / "three" / "spec.txt").read_text() != (tmp_path / "one" / "spec.txt").read_text()


def test_generate_with_inputs_of_the_module(run: Run) -> None:
    data = summary(run("generate", "specs.py:biased", "--dtype", "bf16", "--target", "cpu", "--json"))
    assert (data["dtype"], data["verified"], data["directory"]) == ("bf16", True, "out/biased-cpu-bf16")
    assert "bias: bf16[M, N]" in Path(data["program"]).read_text()


def test_generate_triton_needs_neither_gpu_nor_compiler(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    words = ("generate", "specs.py:causal", *SHAPE, "--target", "triton", "--arch", "sm_90", "--out", "gpu", "--json")
    data = summary(run(*words))
    assert data["verified"] is True
    assert "triton" in Path(data["source"]).read_text()


def test_generate_without_a_compiler_says_how_to_get_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    code, out, err = run("generate", "specs.py:causal", "--shape", "1,1,1,9,9,24", "--target", "cpu", "--json")
    assert code == 2
    assert json.loads(out)["error"] == "ToolchainMissing"
    assert "no C++ compiler found" in err
    assert "apt install g++" in err


def test_generate_into_a_cache_that_cannot_be_written(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "a_file"
    file.write_text("")
    monkeypatch.setenv("TILEWRIGHT_CACHE", str(file / "below"))
    with pytest.warns(UserWarning, match="cache folder"):
        data = summary(run("generate", "specs.py:causal", *SHAPE, "--target", "cpu", "--out", "made", "--json"))
    assert data["verified"] is True
    assert tw.load("made").spec is not None


def test_a_kernel_that_fails_verification_exits_with_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from tilewright.kernels.report import CaseResult, Report

    bad = Report((CaseResult("B1-Hkv1-M1-N1", "o", float("inf"), 0.5),))
    monkeypatch.setattr("tilewright.kernels.verification.verify_compiled", lambda *args, **options: bad)
    words = ("generate", "specs.py:causal", "--shape", "1,2,2,33,33,8", "--target", "cpu", "--out", "made")
    data = summary(run(*words, "--json"), code=1)
    assert (data["verified"], data["max_error"], data["cases"]) == (False, None, 1)
    code, out, _ = run(*words)
    assert code == 1
    assert "NOT verified" in out
    assert json.loads(Path("made/manifest.json").read_text())["verified"] is False


# The other commands


def test_lift(run: Run) -> None:
    code, out, _ = run("lift", "specs.py:causal", *SHAPE)
    assert code == 0
    text = out.removeprefix("printed while importing\n")
    assert tw.parse_spec(text).name == "causal"
    data = summary(run("lift", "specs.py:causal", *SHAPE, "--out", "spec.txt", "--json"))
    assert Path("spec.txt").read_text() == data["text"] == text


def test_transfer_lower_verify(run: Run) -> None:
    """The program's text is all that lowering reads; an edit changes the kernel, and a broken one is caught."""
    summary(run("lift", "specs.py:causal", *SHAPE, "--out", "spec.txt", "--json"))
    summary(run("transfer", "flash_forward", "spec.txt", "--out", "program.txt", "--json"))
    summary(run("transfer", "program.txt", "specs.py:causal", *SHAPE, "--json"))
    data = summary(run("lower", "program.txt", "--target", "cpu", "--out", "built", "--json"))
    assert data["built"] is True
    report = summary(run("verify", "built", "specs.py:causal", "--json"))
    assert (report["verified"], report["method"]) == (True, "built kernel")
    assert summary(run("verify", "program.txt", "specs.py:causal", "--json"))["method"] == "program in the interpreter"
    text = Path("program.txt").read_text()
    Path("program.txt").write_text(text.replace("into=acc * rescale", "into=acc"))
    summary(run("lower", "program.txt", "--target", "cpu", "--out", "broken", "--json"))
    for broken in ("program.txt", "broken"):
        code, out, _ = run("verify", broken, "specs.py:causal")
        assert code == 1
        assert "NOT verified" in out


def test_verify_refuses_a_function_of_other_tensors(run: Run) -> None:
    summary(run("transfer", "flash_forward", "specs.py:causal", *SHAPE, "--out", "program.txt", "--json"))
    code, _, err = run("verify", "program.txt", "specs.py:biased")
    assert (code, err) == (2, "tilewright: program causal takes 3 tensors, function biased 4\n")
    code, _, err = run("verify", "program.txt", "specs.py:causal", "--shape", "1,2,2,33,33,32")
    assert code == 2
    assert "program causal has D=16, function causal was traced with D=32" in err
    code, _, err = run("verify", "program.txt", "specs.py:causal", "--dtype", "bf16")
    assert code == 2
    assert "q: program causal takes f32[B, Hq, M, D], function causal bf16[B, Hq, M, D]" in err


def test_doctor(run: Run) -> None:
    data = summary(run("doctor", "--json"))
    assert data["ready"] is True
    names = [finding["name"] for finding in data["findings"]]
    assert {"python", "torch", "triton", "C++ compiler", "instruction set", "cache", "GPU", "extra llm"} <= set(names)
    code, out, _ = run("doctor")
    assert code == 0
    assert str(settings().cache) in out


def test_doctor_without_a_compiler(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    data = summary(run("doctor", "--json"), code=1)
    (finding,) = [finding for finding in data["findings"] if finding["name"] == "C++ compiler"]
    assert finding["is_ok"] is False
    assert "apt install g++" in finding["advice"]


@pytest.mark.parametrize("words", [["--help"], ["doctor"]])
def test_start_up_does_not_import_torch(words: list[str], tmp_path: Path) -> None:
    code = "import sys, tilewright.cli as c; r = c.main(sys.argv[1:]); sys.exit(3 if 'torch' in sys.modules else r)"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_generate_with_a_backward(run: Run) -> None:
    code, out, _ = run("generate", "specs.py:causal", "--backward", "--deterministic", "--json", "--out", "kernel")
    answer = json.loads(out)
    assert code == 0
    assert answer["verified"]
    assert "_backward(" in Path("kernel/backward.txt").read_text()
    assert "after=visits[step, 2]" in Path("kernel/backward.txt").read_text()
    manifest = json.loads(Path("kernel/manifest.json").read_text())
    assert manifest["backward"]["deterministic"]
    assert manifest["backward"]["verified"]
    outputs = {row["output"] for row in manifest["backward"]["report"]["rows"] if not row["skipped"]}
    assert outputs == {"dq", "dk", "dv"}


def test_a_backward_for_a_target_that_is_not_here(run: Run) -> None:
    """Its meaning is checked in the interpreter."""
    words = ("--shape", "1,2,1,20,20,16", "--target", "triton", "--arch", "sm_90")
    code, out, _ = run("generate", "specs.py:causal", "--backward", "--json", "--out", "kernel", *words)
    assert code == 0
    assert json.loads(out)["verified"]
    assert "def causal_backward(" in Path("kernel/backward.py").read_text()


# Bad input: one message, exit code 2


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["generate", "specs.py"], "'specs.py': wanted path/to/file.py:function or package.module:function"),
        (["generate", "missing.py:f"], "missing.py: no such file"),
        (["generate", "no.such.module:f"], "importing no.such.module failed: ModuleNotFoundError"),
        (["generate", "not a module:f"], "'not a module' is neither a .py file nor a module's name"),
        (["generate", "specs.py:casual"], "specs.py has no function 'casual'; did you mean 'causal'?"),
        (["generate", "specs.py:zzz"], "specs.py has no function 'zzz'; it has: causal, full, biased"),
        (["generate", "specs.py:not_a_function"], "specs.py has no function 'not_a_function'"),
        (["generate", "broken.py:f"], "does not parse"),
        (["generate", "raises.py:f"], "importing raises.py failed: KeyError: 'gone'"),
        (["generate", "exits.py:f"], "importing exits.py failed: SystemExit: 7"),
        (["generate", "specs.py:two"], "two(q, k) does not take 3 tensors: too many positional arguments"),
        (["generate", "specs.py:broken_inputs"], "importing broken_inputs_inputs() failed: ValueError: no data here"),
        (["generate", "specs.py:data_dependent"], "if q.sum() > 0:"),
        (["generate", "specs.py:no_attention"], "return q.cumsum(2) + v"),
        (["generate", "specs.py:causal", "--shape", "1,2,3"], "--shape '1,2,3': wanted B,H,Hkv,M,N,D[,Dv]"),
        (["generate", "specs.py:causal", "--shape", "1,3,2,9,9,8"], "H=3 is not a multiple of Hkv=2"),
        (["generate", "specs.py:causal", "--shape", "1,1,1,0,9,8"], "wanted sizes from 1 to"),
        (["generate", "specs.py:causal", "--dtype", "f64"], "--dtype 'f64': wanted one of f32, bf16, f16"),
        (["generate", "specs.py:causal", "--target", "cuda"], "target 'cuda' is not available in this release"),
        (["generate", "specs.py:causal", "--target", "abacus"], "target 'abacus': wanted one of auto, cpu, triton"),
        (["generate", "specs.py:causal", "--out", "specs.py/x"], "specs.py/x: Not a directory; name a folder"),
        (["lift", "kernel.cu"], "CUDA C++ is lifted by language models, which need to be told what it computes"),
        (["lift", "specs.py"], "specs.py launches no Triton kernels; wanted path/to/file.py:function"),
        (["transfer", "kernel.cu", "specs.py:causal"], "kernel.cu: CUDA C++ is read by language models: --engine llm"),
        (["transfer", "flash_forward", "specs.py:causal", "--engine", "llm"], "engine 'llm' needs the names of models"),
        (["transfer", "flash_forward", "specs.py:causal", "--price", "m=1"], "--price 'm=1': wanted NAME=PROMPT,COMPLETION"),
        (["transfer", "flash_forward", "specs.py:causal", "--samples", "3"], "--samples is of no use with --engine rules"),
        (["transfer", "nothing.txt", "specs.py:causal"], "nothing.txt: No such file or directory"),
        (["transfer", "flash_forward", "nothing.txt"], "nothing.txt: No such file or directory"),
        (["lower", "nothing.txt", "--target", "cpu"], "nothing.txt: No such file or directory"),
        (["lower", "nothing.txt", "--target", "cuda"], "target 'cuda' is not available in this release"),
        (["lower", "nothing.txt", "--target", "abacus"], "target 'abacus': wanted one of cpu, triton"),
        (["lower", "specs.py", "--target", "cpu"], "line 4, column 1"),
        (["lower", "binary.txt", "--target", "cpu"], "binary.txt: not UTF-8 text"),
        (["verify", "nothing.txt", "specs.py:causal"], "nothing.txt: No such file or directory"),
        (["verify", ".", "specs.py:causal"], "manifest.json: No such file or directory"),
        (["bench", "no_suite"], "no suite no_suite"),
    ],
)
def test_bad_input(run: Run, words: list[str], text: str) -> None:
    Path("broken.py").write_text("def f(q, k, v:\n    return q\n")
    Path("raises.py").write_text("{}['gone']\n")
    Path("exits.py").write_text("import sys\nsys.exit(7)\n")
    Path("binary.txt").write_bytes(b"\xff\xfe")
    code, _, err = run(*words)
    assert text in err
    assert code == 2
    assert "Traceback" not in err


@pytest.mark.parametrize("words", [[], ["generate"], ["no_such_command"], ["generate", "specs.py:causal", "--no"]])
def test_wrong_use(run: Run, words: list[str]) -> None:
    code, out, err = run(*words)
    assert code == 2
    assert "Usage: tilewright" in out + err


def test_errors_as_json_and_with_a_traceback(run: Run) -> None:
    data = summary(run("generate", "missing.py:f", "--json"), code=2)
    assert data == {"error": "UnsupportedSpec", "message": "missing.py: no such file"}
    _, _, err = run("generate", "missing.py:f", "--debug")
    assert "Traceback" in err
    assert "UnsupportedSpec: missing.py: no such file" in err


def test_a_defect_of_ours_is_one_message_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def defect() -> None:
        raise RuntimeError("oops")

    monkeypatch.setattr("tilewright.kernels.doctor.examine", defect)
    code, _, err = run("doctor")
    assert (code, err) == (2, "tilewright: internal error, please report it: RuntimeError: oops\n")


def test_interruption(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tilewright.kernels.doctor.examine", interrupted)
    assert run("doctor")[0] == 130
