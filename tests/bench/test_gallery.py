"""The gallery page lists every example, as the files are now; its pictures are what the masks keep."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tilewright.bench.gallery import examples, kept, page, picture

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LIMIT_BYTES = 300_000
FOUND = {example.name: example for example in examples()}


def test_the_page_is_what_the_command_writes() -> None:
    assert (DOCS / "gallery.md").read_text() == page(list(FOUND.values())), "run python -m tilewright.bench.gallery"
    assert {path.stem for path in (DOCS / "gallery").glob("*.svg")} == set(FOUND)
    assert sum(path.stat().st_size for path in (DOCS / "gallery").iterdir()) < LIMIT_BYTES


def test_every_example_has_a_command_and_a_title() -> None:
    text = (DOCS / "gallery.md").read_text()
    commands = re.findall(r"^    tilewright generate (examples/(\w+)\.py):(\w+)$", text, re.MULTILINE)
    assert [name for _, name, _ in commands] == sorted(FOUND)
    for path, name, function in commands:
        assert (ROOT / path).exists()
        assert callable(getattr(FOUND[name].module, function))
        assert FOUND[name].title.endswith(".")


@pytest.mark.parametrize("name", ["causal", "block_sparse", "mla_absorbed", "dropout"])
def test_pictures_are_the_same_bytes_everywhere(name: str) -> None:
    assert (DOCS / "gallery" / f"{name}.svg").read_text() == picture(kept(FOUND[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUND)
def test_every_command_lifts(name: str) -> None:
    assert (DOCS / "gallery" / f"{name}.svg").read_text() == picture(kept(FOUND[name]))


def test_a_picture_has_a_line_for_each_run() -> None:
    keep = np.array([[True, True, False, True], [False, False, False, False]])
    assert 'viewBox="0 0 4 2"' in picture(keep)
    assert re.findall(r'd="([^"]*)"', picture(keep)) == ["M0 0.5h2M3 0.5h1"]
