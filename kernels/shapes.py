"""`B,H,Hkv,M,N,D[,Dv]`: the sizes of example tensors, as a command line gives them."""

from __future__ import annotations

from ..ir.errors import ShapeError

__all__ = ["DEFAULT_SHAPE", "Shape", "parse_shape"]

Shape = tuple[int, int, int, int, int, int, int]
DEFAULT_SHAPE: Shape = (2, 4, 4, 80, 80, 64, 64)  # B, Hq, Hkv, M, N, D, Dv
NAMES = "B,H,Hkv,M,N,D[,Dv]"
MAX_SIZE = 1 << 20


def parse_shape(text: str | None) -> Shape | None:
    """The sizes as numbers; Dv is D when left out; None for None. Raises ShapeError."""
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) not in (6, 7) or not all(part.strip().isdecimal() for part in parts):
        raise ShapeError(f"--shape {text!r}: wanted {NAMES}, for example 2,8,8,128,128,64")
    sizes = [int(part) for part in parts]
    sizes += sizes[5:6] if len(sizes) == 6 else []
    if not all(0 < size <= MAX_SIZE for size in sizes):
        raise ShapeError(f"--shape {text!r}: wanted sizes from 1 to {MAX_SIZE}")
    batch, hq, hkv, m, n, d, dv = sizes
    if hq % hkv:
        raise ShapeError(f"--shape {text!r}: H={hq} is not a multiple of Hkv={hkv}")
    return batch, hq, hkv, m, n, d, dv
