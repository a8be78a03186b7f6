"""What README tells a new user to type works as it stands there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    """The tilewright command lines of README, in order."""
    lines = [line.split("#")[0] for line in README.splitlines() if line.startswith("    tilewright ")]
    return [shlex.split(line)[1:] for line in lines]


def examples(document: str) -> list[str]:
    """The Python blocks of a document, in order."""
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL)


def test_the_python_example_verifies() -> None:
    first, gradients = examples("README.md")
    checks = "\nassert kernel.report.verified\nassert o.shape == q.shape\n"
    done = run(first + checks + gradients + "\nassert q.grad is not None\nassert q.grad.shape == q.shape\n")
    assert done.returncode == 0, f"README.md: {done.stderr}"
    assert "verified" in done.stdout


@pytest.mark.parametrize("document", ["docs/interfaces.md", "docs/functions.md", "docs/determinism.md", "docs/cubridge.md"])
def test_every_python_example_runs(document: str) -> None:
    found = examples(document)
    assert found
    for number, example in enumerate(found):
        done = run(example)
        assert done.returncode == 0, f"{document}, example {number}: {done.stderr}"


def run(script: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _as_file(script)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, check=False)


def _as_file(script: str) -> str:
    """Run the script from a file, as a user would, so that errors can quote its lines."""
    return (
        "import pathlib, runpy, tempfile\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    path = pathlib.Path(folder) / 'example.py'\n"
        f"    path.write_text({script!r})\n"
        "    runpy.run_path(str(path))\n"
    )


def test_the_commands_work_in_their_order(tmp_path: Path) -> None:
    words = ["generate", "verify", "lower", "generate", "schedule", "doctor", "lift", "transfer", "verify"]
    assert [command[0] for command in commands()] == words
    for command in commands():
        typed = [str(ROOT / word) if word.startswith("examples/") else word for word in command]
        done = subprocess.run(
            [sys.executable, "-m", "tilewright.cli", *typed],
            capture_output=True, text=True, timeout=300, cwd=tmp_path, check=False,
        )
        assert done.returncode == 0, f"tilewright {shlex.join(command)}: {done.stderr}"
    assert (tmp_path / "kernel" / "program.txt").exists()
    assert list((tmp_path / "mine").glob("*.py"))


def test_the_walk_through_a_kernel(tmp_path: Path) -> None:
    """The console commands of docs/cubridge.md, in order, and its pipe: three processes, text between them."""
    text = (ROOT / "docs/cubridge.md").read_text(encoding="utf-8")
    lines = [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ tilewright ")]
    assert [line.split()[1] for line in lines] == ["lift", "lift", "transfer", "verify", "lower"]
    pipe = next(line.strip().removeprefix("$ ") for line in text.splitlines() if line.startswith("    $ tilewright lift"))
    for line in [*lines, pipe.replace("SPEC", "examples/sliding_window.py:sliding_window") + " --out piped"]:
        typed = line.replace("examples/", f"{ROOT}/examples/").replace("tilewright ", f"{sys.executable} -m tilewright.cli ")
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {typed}"],
            capture_output=True, text=True, timeout=300, cwd=tmp_path, check=False,
        )
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
    before, after = ((tmp_path / name).read_text().splitlines() for name in ("expert.txt", "window.txt"))
    changed = [line for line in after if line not in before]
    assert [line.strip() for line in changed] == ["def sliding_window(", "return (j <= i) & (i < j + 32)"], changed
    assert (tmp_path / "piped" / "program.txt").exists()
    broken = (tmp_path / "window.txt").read_text().replace("i < j + 32", "i < j + 33")
    (tmp_path / "window.txt").write_text(broken)
    done = subprocess.run(
        [sys.executable, "-m", "tilewright.cli", "verify", "window.txt", f"{ROOT}/examples/sliding_window.py:sliding_window"],
        capture_output=True, text=True, timeout=300, cwd=tmp_path, check=False,
    )
    assert done.returncode == 1
    assert "row i=32 keeps key j=0, which the function leaves out" in done.stdout


@pytest.mark.parametrize("document", ["README.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")))])
def test_links_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert ((ROOT / document).parent / target).exists(), f"{document}: {target}"
