"""Block masks by name: `causal`, `full`, `window:W`, `document:L1,L2,…`, or a file of booleans. Sizes are in tiles."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..ir.errors import ScheduleError
from .work import MAX_TILES, Bools

__all__ = ["causal", "document", "group_heads", "parse_mask", "parse_tiles", "stack_groups", "window"]

Tiles = tuple[int, int]  # NQ, NK
WANTED = "causal, full, window:W, document:L1,L2,… or FILE.npy"
MAX_FILE_BYTES = 1 << 26


def parse_tiles(text: str) -> Tiles:
    """NQxNK."""
    found = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text)
    if not found:
        raise ScheduleError(f"tiles {text!r}: wanted NQxNK, such as 32x32")
    num_q, num_kv = int(found[1]), int(found[2])
    if not (1 <= num_q <= MAX_TILES and 1 <= num_kv <= MAX_TILES):
        raise ScheduleError(f"tiles {text!r}: wanted 1 to {MAX_TILES} a side; take larger tiles")
    return num_q, num_kv


def parse_mask(text: str, tiles: Tiles) -> Bools:
    """bool [NQ, NK] of a mask's name, or of a file."""
    name, _, argument = text.partition(":")
    if text == "causal":
        return causal(tiles)
    if text == "full":
        return np.ones(tiles, dtype=np.bool_)
    if name == "window" and argument.isdecimal():
        return window(tiles, int(argument))
    if name == "document" and re.fullmatch(r"\d{1,6}(,\d{1,6})*", argument):
        return document(tiles, tuple(map(int, argument.split(","))))
    if text.endswith(".npy"):
        return _load(Path(text), tiles)
    raise ScheduleError(f"mask {text!r}: wanted {WANTED}")


def causal(tiles: Tiles) -> Bools:
    """q >= kv."""
    return np.tri(*tiles, dtype=np.bool_)


def window(tiles: Tiles, width: int) -> Bools:
    """0 <= q - kv <= width."""
    q, kv = np.ogrid[: tiles[0], : tiles[1]]
    return np.asarray((q >= kv) & (q - kv <= width), dtype=np.bool_)


def document(tiles: Tiles, lengths: tuple[int, ...]) -> Bools:
    """Causal inside documents that lie end to end."""
    if min(lengths) < 1 or sum(lengths) != tiles[0] or tiles[0] != tiles[1]:
        raise ScheduleError(
            f"document:{','.join(map(str, lengths))}: wanted lengths of at least 1 that add up to both of "
            f"{tiles[0]}x{tiles[1]} tiles; they add up to {sum(lengths)}"
        )
    owner = np.repeat(np.arange(len(lengths)), lengths)
    return np.asarray(causal(tiles) & (owner[:, None] == owner[None, :]))


def stack_groups(mask: ArrayLike, group: int) -> Bools:
    """The mask of a kv head whose q tiles run over (member of its group, q tile): [..., group * NQ, NK].

    The row of q tile i of member g is g * NQ + i. A mask [NQ, NK] holds for every member, and so does each of
    [kv heads, NQ, NK]; a mask [q heads, NQ, NK] whose heads differ becomes one of kv heads by `group_heads`.
    """
    blocks: NDArray[Any] = np.asarray(mask)
    if group < 1 or blocks.ndim not in (2, 3):
        raise ScheduleError(f"group {group} of a mask of shape {blocks.shape}: wanted at least 1, and [..., NQ, NK]")
    return np.concatenate([blocks] * group, axis=-2)


def group_heads(mask: ArrayLike, group: int) -> Bools:
    """[q heads, NQ, NK] -> [kv heads, group * NQ, NK]; q heads of a group are neighbours."""
    blocks: NDArray[Any] = np.asarray(mask)
    if blocks.ndim != 3 or group < 1 or blocks.shape[0] % group:
        raise ScheduleError(f"groups of {group} of a mask of shape {blocks.shape}: wanted [heads, NQ, NK], divisible")
    heads, num_q, num_kv = blocks.shape
    return np.asarray(blocks, dtype=np.bool_).reshape(heads // group, group * num_q, num_kv)


def _load(path: Path, tiles: Tiles) -> Bools:
    """A file is data: no pickles, bounded, and as large as was said."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ScheduleError(f"{path}: more than {MAX_FILE_BYTES >> 20} MiB; wanted a boolean array {list(tiles)}")
        found = np.load(path, allow_pickle=False)
    except OSError as error:
        raise ScheduleError(f"{path}: {error.strerror or error}; wanted a file that numpy.save wrote") from error
    except (ValueError, EOFError) as error:
        raise ScheduleError(f"{path}: no array that can be read safely; wanted a file that numpy.save wrote") from error
    if not isinstance(found, np.ndarray) or found.dtype != np.bool_ or found.shape != tiles:
        got = f"{found.dtype} {list(found.shape)}" if isinstance(found, np.ndarray) else type(found).__name__
        raise ScheduleError(f"{path}: {got}; wanted bool {list(tiles)} as --tiles says")
    return np.asarray(found, dtype=np.bool_)
