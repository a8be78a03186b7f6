"""Where the key of a server comes from: the environment or a keyring. It is given to the client and to nobody else."""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import urlsplit

from ...errors import SettingError
from ...settings import settings

__all__ = ["OPENAI_URL", "check_url", "find_key", "host_of"]

OPENAI_URL = "https://api.openai.com/v1"
SERVICE = "tilewright"


def check_url(url: str) -> str:
    """The base URL of a server, as it is. SettingError for what is none, or has a password in it."""
    try:
        parts = urlsplit(url)
        is_whole = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_whole, parts = False, urlsplit("")
    if not is_whole:
        raise SettingError(f"base URL {url!r}: wanted http(s)://host[:port]/path, such as {OPENAI_URL}")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise SettingError("base URL: wanted no user, password, query or fragment in it; its key is TILEWRIGHT_API_KEY")
    return url


def host_of(url: str) -> str:
    """Its host, and its port where it names one."""
    return urlsplit(url).netloc


def find_key(url: str) -> str | None:
    """The key for a server; None where there is none, as local servers need none.

    In this order: TILEWRIGHT_API_KEY; OPENAI_API_KEY for OpenAI, for the server that OPENAI_BASE_URL names and for
    this machine; the keyring's password of service "tilewright" and the server's host. No other server is sent
    OpenAI's key.
    """
    own = settings().api_key
    if own:
        return own
    key = os.environ.get("OPENAI_API_KEY") or None
    if key and (_is_here(url) or host_of(url) in {host_of(OPENAI_URL), host_of(os.environ.get("OPENAI_BASE_URL", ""))}):
        return key
    return _from_keyring(host_of(url))


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _from_keyring(host: str) -> str | None:
    """A keyring that is missing, locked or broken has no key."""
    try:
        import keyring

        found = keyring.get_password(SERVICE, host)
    except Exception:  # noqa: BLE001 - back ends of other programs raise what they like
        return None
    return found or None
