"""Settings come from the environment; a bad value is an error that names the variable."""

from __future__ import annotations

from pathlib import Path

import pytest

from tilewright.ir.errors import SettingError
from tilewright.ir.settings import settings


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("TILEWRIGHT_CACHE", "TILEWRIGHT_ISA", "TILEWRIGHT_TRACE", "CXX", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_defaults(tmp_path: Path) -> None:
    found = settings()
    assert found.cache == tmp_path / ".cache" / "tilewright"
    assert (found.isa, found.trace, found.cxx) == (None, False, ())


def test_values_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TILEWRIGHT_TRACE", "1")
    monkeypatch.setenv("CXX", "ccache g++")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/somewhere")
    assert settings().cache == Path("/var/somewhere/tilewright")
    monkeypatch.setenv("TILEWRIGHT_CACHE", "~/mine")
    found = settings()
    assert (found.cache, found.trace, found.cxx) == (tmp_path / "mine", True, ("ccache", "g++"))


def test_a_relative_xdg_folder_is_ignored_as_its_standard_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert settings().cache == tmp_path / ".cache" / "tilewright"


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("TILEWRIGHT_ISA", "AVX2", "wanted one of amx, avx512bf16, avx512, avx2, portable"),
        ("TILEWRIGHT_TRACE", "yes", "wanted one of 0, 1"),
        ("TILEWRIGHT_CACHE", "here", "wanted an absolute path"),
        ("CXX", "'g++", "not a command line"),
    ],
)
def test_a_bad_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, wanted: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingError, match=f"^{name}=.*{wanted}"):
        settings()
