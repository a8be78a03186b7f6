"""Everything to do on a GPU in one go: `python -m tilewright.bench.gpu [FOLDER]`.

Runs the tests marked gpu, then the suites with target triton, and writes gpu-tests.txt, gpu.json and
gpu.html to FOLDER (default: $OUT, else out). Made to end within five minutes on one GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from .implementations import TILEWRIGHT
from .suites import run_bench

__all__ = ["main"]

SUITES = ("forward", "long", "overhead")
TEST_TIMEOUT_S = 240.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Test, measure, write; 1 where a test failed or a kernel of ours was not timed, 2 without a GPU."""
    paths = list(sys.argv[1:] if arguments is None else arguments)
    folder = Path(paths[0] if paths else os.environ.get("OUT") or "out")
    if not torch.cuda.is_available():
        print("bench.gpu: torch sees no NVIDIA GPU on this machine", file=sys.stderr)
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    is_tested = _test(folder / "gpu-tests.txt")
    rows = run_bench(SUITES, "triton", folder / "gpu.json", folder / "gpu.html")
    missing = [row for row in rows if row.impl == TILEWRIGHT and row.error]
    for row in missing:
        print(f"{row.suite}: {row.case}: {row.error}", file=sys.stderr)
    return 0 if is_tested and not missing else 1


def _test(log: Path) -> bool:
    """Run the gpu-marked tests with their output in a file; whether they passed."""
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", str(root / "tests")]
    with log.open("w", encoding="utf-8") as file:
        try:
            code = subprocess.run(
                command, cwd=root, stdout=file, stderr=subprocess.STDOUT, timeout=TEST_TIMEOUT_S, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            code = 1
    print(f"gpu tests: {'passed' if code == 0 else f'exit code {code}'}, see {log}", file=sys.stderr)
    return code == 0


if __name__ == "__main__":
    sys.exit(main())
