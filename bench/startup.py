"""Suite `startup`: whole `tilewright generate` processes, with an empty cache and with a filled one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from .implementations import TILEWRIGHT
from .measure import Session
from .rows import Row, Times

__all__ = ["startup"]

ROUNDS = 3
SPEC = f"{Path(__file__).resolve().parent / 'variants.py'}:causal"
SHAPE = "1,8,8,2048,2048,64"
GENERATE = "import sys; from tilewright.cli import main; sys.argv[0] = 'tilewright'; sys.exit(main())"
TIMEOUT_S = 300.0


def startup(session: Session) -> list[Row]:
    """Rows "generate-cold" and "generate-cached", and as a yardstick a process that only imports torch."""
    arguments = ["generate", SPEC, "--target", session.target, "--shape", SHAPE, "--json"]
    command = [sys.executable, "-c", GENERATE, *arguments]
    seconds: dict[str, list[float]] = {"generate-cold": [], "generate-cached": [], "import-torch": []}
    try:
        for _ in range(ROUNDS):
            session.say("startup: tilewright generate, cold, then from the cache")
            with tempfile.TemporaryDirectory(prefix="tilewright-bench-") as cache:
                seconds["generate-cold"].append(_seconds(command, cache))
                seconds["generate-cached"].append(_seconds(command, cache))
                seconds["import-torch"].append(_seconds([sys.executable, "-c", "import torch"], cache))
    except subprocess.SubprocessError as error:
        return [session.row("startup", "generate-cold", TILEWRIGHT, error=_reason(error))]
    return [_row(session, case, samples) for case, samples in seconds.items()]


def _seconds(command: Sequence[str], cache: str) -> float:
    environment = os.environ | {"TILEWRIGHT_CACHE": f"{cache}/built", "TRITON_CACHE_DIR": f"{cache}/triton"}
    start = time.perf_counter()
    subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    return time.perf_counter() - start


def _row(session: Session, case: str, samples: Sequence[float]) -> Row:
    impl = "python" if case == "import-torch" else TILEWRIGHT
    return session.row("startup", case, impl, **asdict(Times.of(samples)))


def _reason(error: subprocess.SubprocessError) -> str:
    told = error.stderr if isinstance(error, subprocess.CalledProcessError) else None
    return (told or str(error)).strip().rpartition("\n")[2]
