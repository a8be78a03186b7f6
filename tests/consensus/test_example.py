"""The worked example tells the four cases apart."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).parents[2] / "examples" / "consensus.py"


def test_the_example_runs_and_advises():
    out = subprocess.run([sys.executable, str(FILE)], capture_output=True, text=True, check=True).stdout
    advice = [line.rpartition("->  ")[2] for line in out.splitlines() if "->" in line]
    assert advice == ["accept", "distinguish", "sample_more", "stop"]
    assert "north and west say 1936 (67%); south says 20:15 (33%)" in out
    assert "furthest from the others: south" in out


def test_its_equivalence():
    spec = importlib.util.spec_from_file_location("consensus_example", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.same("It was Mikhail Bulgakov.", "bulgakov")
    assert not module.same("Mikhail Bulgakov", "Mikhail Lermontov")
