"""Everything to do on a GPU in one go: `python -m tilewright.bench.gpu [FOLDER [SUITE …]]`.

Runs the tests marked gpu, several processes at once, then one suite after the other with target triton, each in a
process of its own and with seconds of its own. Writes gpu-tests.txt, gpu.json and gpu.html to FOLDER (default: $OUT,
else out), whatever fails or takes too long. Made to end within nine minutes on one GPU. Suites that are named run
alone, without the tests, and share the time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from .implementations import TILEWRIGHT
from .report import write_report
from .rows import Row, read_rows, write_rows
from .suites import SUITES, new_session

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent
MODULE = "tilewright.bench.gpu"
TOTAL_S = 520.0
TEST_S = 200.0
GRACE_S = 20.0  # what a suite may take to finish the case it is in
SUITE_S = {
    "forward": 75.0, "overhead": 20.0, "decode": 45.0, "long": 40.0, "varlen": 35.0, "variants": 45.0,
    "backward": 60.0, "determinism": 40.0,
}  # fmt: skip


class OutOfTime(Exception):
    """A suite has used its seconds."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Test, measure, write; 1 where a test failed or a kernel of ours was not timed, 2 without a GPU."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--suite"]:
        run_suite(given[1], Path(given[2]), float(given[3]))
        return 0
    folder = Path(given[0] if given else os.environ.get("OUT") or "out")
    if not torch.cuda.is_available():
        print("bench.gpu: torch sees no NVIDIA GPU on this machine", file=sys.stderr)
        return 2
    named = given[1:]
    if unknown := [name for name in named if name not in SUITES]:
        print(f"bench.gpu: no suite {', '.join(unknown)}; wanted some of {', '.join(SUITES)}", file=sys.stderr)
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + TOTAL_S
    is_tested = bool(named) or _test(folder / "gpu-tests.txt")
    share = dict.fromkeys(named, (TOTAL_S - GRACE_S) / max(1, len(named))) if named else SUITE_S
    rows, is_whole = _measure(folder, end, share)
    missing = [row for row in rows if row.impl == TILEWRIGHT and row.error]
    for row in missing:
        print(f"{row.suite}: {row.case}: {row.error}", file=sys.stderr)
    return 0 if is_tested and is_whole and not missing else 1


def _measure(folder: Path, end: float, share: Mapping[str, float]) -> tuple[list[Row], bool]:
    """The rows of every suite, written anew after each; whether all suites ended by themselves."""
    rows: list[Row] = []
    is_whole = True
    for suite, seconds in share.items():
        given = min(seconds, end - time.monotonic() - GRACE_S)
        found, is_done = _suite(suite, folder / f"gpu-{suite}.json", given) if given > 0 else ([], False)
        print(f"{suite}: {len(found)} rows{'' if is_done else ', not all: out of time or failed'}", file=sys.stderr)
        rows, is_whole = rows + found, is_whole and is_done
        write_rows(folder / "gpu.json", rows)
        if rows:
            write_report(folder / "gpu.html", rows)
    return rows, is_whole


def _suite(suite: str, file: Path, seconds: float) -> tuple[list[Row], bool]:
    """What a suite measured in its process, and whether it came to its end. Its file is taken away."""
    command = [sys.executable, "-m", MODULE, "--suite", suite, str(file), str(seconds)]
    try:
        code = subprocess.run(command, timeout=seconds + GRACE_S, check=False).returncode
    except subprocess.TimeoutExpired:
        code = 1
    if not file.is_file():
        return [], False
    rows = read_rows(file)
    file.unlink()
    return rows, code == 0


def run_suite(suite: str, file: Path, seconds: float) -> None:
    """Run a suite in this process; what it measured is in the file after every case. Raises OutOfTime."""
    end = time.monotonic() + seconds
    kept: list[Row] = []
    session = new_session("triton", (suite,))

    def say(text: str) -> None:
        write_rows(file, kept)
        if time.monotonic() > end:
            raise OutOfTime(text)
        print(text, file=sys.stderr)

    try:
        kept = SUITES[suite](replace(session, say=say, keep=kept.append))
    finally:
        write_rows(file, kept)


def _test(log: Path) -> bool:
    """Run the gpu-marked tests with their output in a file; whether they passed."""
    tests = _collected()
    if not tests:
        print("gpu tests: none was found", file=sys.stderr)
        return False
    count = min(8, max(1, (os.cpu_count() or 1) // 2), len(tests))
    parts = [log.with_suffix(f".{n}") for n in range(count)]
    end = time.monotonic() + TEST_S
    processes = [_start(tests[n::count], part) for n, part in enumerate(parts)]
    codes = [_wait(process, end) for process in processes]
    log.write_text("\n".join(part.read_text(encoding="utf-8") for part in parts), encoding="utf-8")
    for part in parts:
        part.unlink()
    is_passed = not any(codes)
    print(f"gpu tests: {len(tests)}, {'passed' if is_passed else f'exit codes {codes}'}, see {log}", file=sys.stderr)
    return is_passed


def _collected() -> list[str]:
    """The ids of the gpu-marked tests."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "--collect-only", "-q", str(ROOT / "tests")]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False).stdout
    return [line for line in found.splitlines() if "::" in line]


def _start(tests: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", *tests]
    with log.open("w", encoding="utf-8") as file:
        return subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)


def _wait(process: subprocess.Popen[bytes], end: float) -> int:
    """The exit code; 1 for a process that is not done in time, which is ended."""
    try:
        return process.wait(max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return 1


if __name__ == "__main__":
    sys.exit(main())
