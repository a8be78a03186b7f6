"""Keys: where they come from, and whom they are not sent to."""

from __future__ import annotations

import sys
import types

import pytest

from tilewright.ir.errors import SettingError
from tilewright.ir.settings import settings
from tilewright.ir.transfer.models.keys import OPENAI_URL, check_url, find_key
from tilewright.ir.transfer.models.settings import EngineSettings

LOCAL, FOREIGN = "http://127.0.0.1:8000/v1", "https://models.example/v1"


@pytest.fixture(autouse=True)
def no_keys(monkeypatch) -> types.ModuleType:
    """No key but the test's own; a keyring that holds nothing."""
    for name in ("TILEWRIGHT_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL", "TILEWRIGHT_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    ring = types.ModuleType("keyring")
    ring.get_password = lambda service, host: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "keyring", ring)
    return ring


def test_our_own_key_goes_to_any_server(monkeypatch) -> None:
    monkeypatch.setenv("TILEWRIGHT_API_KEY", "ours")
    monkeypatch.setenv("OPENAI_API_KEY", "theirs")
    assert [find_key(url) for url in (OPENAI_URL, LOCAL, FOREIGN)] == ["ours"] * 3


def test_openais_key_goes_to_openai_and_this_machine_alone(monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "theirs")
    assert [find_key(url) for url in (OPENAI_URL, LOCAL, "http://localhost/v1", "http://[::1]:1/v1")] == ["theirs"] * 4
    for url in (
        FOREIGN,
        "https://api.openai.com.evil.example/v1",
        "https://evil.example/api.openai.com",
        "http://128.0.0.1/",
    ):
        assert find_key(url) is None, url
    monkeypatch.setenv("OPENAI_BASE_URL", FOREIGN)
    assert find_key(FOREIGN) == "theirs"


def test_the_keyring_is_asked_last(no_keys, monkeypatch) -> None:
    asked = []
    no_keys.get_password = lambda service, host: asked.append((service, host)) or "ring"
    assert find_key(FOREIGN) == "ring"
    assert asked == [("tilewright", "models.example")]
    no_keys.get_password = lambda service, host: 1 / 0
    assert find_key(FOREIGN) is None, "a broken keyring has no key"
    monkeypatch.setitem(sys.modules, "keyring", None)
    assert find_key(FOREIGN) is None, "nor has one that is not installed"


def test_settings_do_not_show_the_key(monkeypatch) -> None:
    monkeypatch.setenv("TILEWRIGHT_API_KEY", "sk-secret")
    assert settings().api_key == "sk-secret"
    assert "sk-secret" not in repr(settings()) + repr(EngineSettings.of({"models": "a"}))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "models.example",
        "ftp://x/v1",
        "http://",
        "http://x:port/v1",
        "http://u:p@x/v1",
        "http://x/v1?key=1",
        "http://x/#a",
    ],
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(SettingError, match="base URL"):
        check_url(url)


def test_where_the_url_comes_from(monkeypatch) -> None:
    assert EngineSettings.of().base_url == OPENAI_URL
    monkeypatch.setenv("OPENAI_BASE_URL", FOREIGN)
    assert EngineSettings.of().base_url == FOREIGN
    monkeypatch.setenv("TILEWRIGHT_BASE_URL", LOCAL)
    assert EngineSettings.of().base_url == LOCAL
    assert EngineSettings.of({"base_url": FOREIGN}).base_url == FOREIGN
