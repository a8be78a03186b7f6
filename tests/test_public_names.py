"""The names of the public contract are there, load lazily, and agree with the package's metadata."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tilewright as tw

ROOT = Path(__file__).resolve().parent.parent
CONTRACT = ("compile", "load", "attention", "UnsupportedSpec")


def test_every_public_name_resolves() -> None:
    assert set(CONTRACT) <= set(tw.__all__)
    assert all(getattr(tw, name) is not None for name in tw.__all__)
    assert dir(tw) == sorted([*tw.__all__, "compat"])
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        _ = tw.no_such_name


def test_importing_is_quick() -> None:
    code = "import sys, tilewright; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert tw.__version__ == project["version"]
