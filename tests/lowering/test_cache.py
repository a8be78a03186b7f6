"""The cache gives back what was stored, whatever happens to its files, its folder or its processes."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from tilewright.lowering.cache import Cache, CacheWarning, content_key

DATA = b"an artefact" * 1000
KEY = content_key("a key")


def never() -> bytes:
    raise AssertionError("built although the cache has it")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_a_key_depends_on_every_byte_and_border() -> None:
    assert content_key("ab", "c") == content_key("ab", b"c")
    partings = [("ab", "c"), ("a", "bc"), ("abc",), ("c", "ab")]
    assert len({content_key(*parts) for parts in partings}) == 4


def test_builds_once(cache: Cache) -> None:
    assert cache.get(KEY) is None
    path = cache.get_or_build(KEY, lambda: DATA, ".so")
    assert path.read_bytes() == DATA
    assert path.suffix == ".so"
    assert cache.get_or_build(KEY, never) == path
    assert Cache(cache.root).get(KEY) == path


@pytest.mark.parametrize(
    "damage",
    [
        lambda blob, key: os.truncate(blob, 100),
        lambda blob, key: os.truncate(blob, 0),
        lambda blob, key: blob.write_bytes(DATA[:-1] + b"!"),
        lambda blob, key: blob.unlink(),
        lambda blob, key: key.write_bytes(b""),
        lambda blob, key: key.write_bytes(b"\xff\x00 not json"),
        lambda blob, key: key.write_bytes(b"[]"),
        lambda blob, key: key.write_bytes(b"{}"),
        lambda blob, key: key.write_bytes(b'{"sha256": 7, "suffix": ""}'),
        lambda blob, key: key.write_bytes(b'{"sha256": "../../../etc/passwd", "suffix": ""}'),
        lambda blob, key: key.write_bytes(key.read_bytes()[:20]),
    ],
    ids=[
        "blob-truncated", "blob-empty", "blob-one-byte", "blob-gone", "key-empty", "key-garbage", "key-list",
        "key-fields-gone", "key-wrong-type", "key-elsewhere", "key-truncated",
    ],
)  # fmt: skip
def test_damage_is_seen_and_healed(cache: Cache, damage: Callable[[Path, Path], object]) -> None:
    path = cache.put(KEY, DATA)
    damage(path, cache.root / "keys" / KEY)
    assert cache.get(KEY) is None
    assert cache.get_or_build(KEY, lambda: DATA).read_bytes() == DATA
    assert cache.get_or_build(KEY, never).read_bytes() == DATA


def test_only_the_owner_can_read(cache: Cache) -> None:
    before = os.umask(0)
    try:
        cache.get_or_build(KEY, lambda: DATA)
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [cache.root, *cache.root.rglob("*")]}
    assert len(modes) >= 7
    assert all(mode == (0o700 if path.is_dir() else 0o600) for path, mode in modes.items())


def is_used_elsewhere(cache: Cache, root: Path) -> bool:
    path = cache.get_or_build(KEY, lambda: DATA)
    assert path.read_bytes() == DATA
    assert cache.get_or_build(KEY, never) == path
    return root not in path.parents


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777], ids=oct)
def test_a_folder_others_may_write_is_not_used(tmp_path: Path, mode: int) -> None:
    root = tmp_path / "open"
    root.mkdir()
    root.chmod(mode)
    with pytest.warns(CacheWarning, match="others may write to it"):
        cache = Cache(root)
    assert is_used_elsewhere(cache, root)
    assert list(root.iterdir()) == []
    assert stat.S_IMODE(cache.root.stat().st_mode) == 0o700


def test_a_folder_of_someone_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    with pytest.warns(CacheWarning, match=f"it belongs to user {me}, not to {me + 1}"):
        cache = Cache(tmp_path / "cache")
    assert is_used_elsewhere(cache, tmp_path / "cache")


def test_a_root_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(CacheWarning, match="is not used"):
        cache = Cache(tmp_path / "file" / "cache")
    assert is_used_elsewhere(cache, tmp_path / "file")


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.EACCES], ids=errno.errorcode.get)
def test_a_folder_that_cannot_be_written(cache: Cache, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Old artefacts are still found, new ones live elsewhere, and the note comes once."""
    old = cache.put(content_key("old"), b"old")
    create = tempfile.mkstemp

    def refuse(dir: Path, prefix: str) -> tuple[int, str]:  # noqa: A002 - the name mkstemp has
        if cache.root in dir.parents:
            raise OSError(code, os.strerror(code))
        return create(dir=dir, prefix=prefix)

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.warns(CacheWarning, match="cannot be written"):
        assert is_used_elsewhere(cache, cache.root)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.put(content_key("another"), b"another")
    assert cache.get(content_key("old")) == old
    assert cache.root not in cache.keep("kernel.cpp", b"source").parents


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_is_read_only_in_earnest(cache: Cache) -> None:
    cache.root.chmod(0o500)
    with pytest.warns(CacheWarning, match="cannot be written"):
        assert is_used_elsewhere(cache, cache.root)
    cache.root.chmod(0o700)


def test_a_file_in_the_way_in_earnest(cache: Cache) -> None:
    (cache.root / "blobs").write_text("not a folder")
    with pytest.warns(CacheWarning, match="cannot be written"):
        assert is_used_elsewhere(cache, cache.root)


def test_an_interrupted_write_leaves_nothing(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:

        def interrupt(source: str, target: str) -> None:
            raise KeyboardInterrupt

        patch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            cache.put(KEY, DATA)
    assert [path for path in cache.root.rglob("*") if path.is_file()] == []
    assert cache.get_or_build(KEY, lambda: DATA).read_bytes() == DATA


def test_a_failed_build_stores_nothing_and_frees_the_lock(cache: Cache) -> None:
    with pytest.raises(ZeroDivisionError):
        cache.get_or_build(KEY, lambda: bytes(1 // 0))
    assert cache.get_or_build(KEY, lambda: DATA).read_bytes() == DATA


def test_a_failed_compile_keeps_its_source(cache: Cache) -> None:
    assert cache.keep("kernel.cpp", b"source").read_bytes() == b"source"


RIVAL = """
import os, sys, time
from pathlib import Path
from tilewright.lowering.cache import Cache
root, key, log, seconds = Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4])
def build():
    with open(log, "a") as file:
        file.write("built\\n")
    time.sleep(seconds)
    return b"by %d" % os.getpid()
path = Cache(root).get_or_build(key, build)
print(path, path.read_bytes() == Path(path).read_bytes())
"""


def rival(root: Path, log: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RIVAL, str(root), KEY, str(log), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_for(log: Path, lines: int) -> None:
    deadline = time.monotonic() + 60
    while not log.exists() or len(log.read_text().splitlines()) < lines:
        assert time.monotonic() < deadline, "the other process never started to build"
        time.sleep(0.01)


def test_rivals_get_one_artefact(tmp_path: Path) -> None:
    log = tmp_path / "log"
    rivals = [rival(tmp_path / "cache", log, 0.5) for _ in range(3)]
    answers = {process.communicate(timeout=120)[0] for process in rivals}
    assert [process.returncode for process in rivals] == [0, 0, 0]
    assert len(answers) == 1
    assert log.read_text() == "built\n"
    assert len(list((tmp_path / "cache" / "blobs").iterdir())) == 1


def test_rivals_without_locks_still_get_whole_artefacts(tmp_path: Path) -> None:
    """Two different results under one key, written at once: each process has a whole one, and one stays."""
    root, log = tmp_path / "cache", tmp_path / "log"
    root.mkdir(mode=0o700)
    (root / "locks").write_text("in the way")
    rivals = [rival(root, log, 0.5) for _ in range(2)]
    for process in rivals:
        assert process.communicate(timeout=120)[0].endswith("True\n")
    left = Cache(root).get_or_build(KEY, never)
    assert left.stem == hashlib.sha256(left.read_bytes()).hexdigest()


def test_a_killed_build_blocks_nobody(tmp_path: Path) -> None:
    log = tmp_path / "log"
    victim = rival(tmp_path / "cache", log, 600)
    wait_for(log, 1)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait(60) == -signal.SIGKILL
    assert Cache(tmp_path / "cache").get_or_build(KEY, lambda: DATA).read_bytes() == DATA
