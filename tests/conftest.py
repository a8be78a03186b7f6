"""Fixtures every test may use: golden texts and a private cache."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden/*.txt anew")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden(name, text)`: text must equal tests/golden/<name>.txt; --update-golden writes the file."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / f"{name}.txt"
        text = text if text.endswith("\n") else text + "\n"
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        if not path.exists():
            pytest.fail(f"no golden text {path.name}; look at the output and run pytest --update-golden")
        want = path.read_text(encoding="utf-8")
        if text != want:
            lines = difflib.unified_diff(want.splitlines(), text.splitlines(), "golden", "got", lineterm="")
            pytest.fail(f"{path.name} differs (--update-golden accepts it):\n" + "\n".join(lines))

    return check


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Tests build into a cache of their own, so that yesterday's artefacts cannot make them pass."""
    root = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TILEWRIGHT_CACHE", str(root))
        yield root
