"""What to do about operations that have no form in the program language."""

from __future__ import annotations

REASONS = {
    "tt.mulhiui": "random numbers (dropout) are out of reach; lift the kernel with dropout off, and ask for dropout of "
    "what comes of it",
    "scf.while": "a loop that does not count is out of reach; `while s < end:` with `s += step` at its end is read",
    "tt.scan": "a scan (cumsum) is out of reach; compute it before the launch",
    "tt.elementwise_inline_asm": "inline assembly is out of reach; write it with functions of triton.language",
    "tt.atomic_cas": "a lock is out of reach; sums that several instances add to are read as atomic additions",
    "tt.histogram": "a histogram is out of reach",
    "tt.sort": "sorting is out of reach; sort before the launch",
    "tt.gather": "a gather inside a tile is out of reach; load from the places that are wanted",
    "tt.dot_scaled": "products of block-scaled numbers are out of reach; scale with a tensor of scales",
    "tt.fp_to_fp": "numbers of 8 bits are out of reach; give the kernel tensors of float16, bfloat16 or int8",
    "tt.join": "tiles of three axes are out of reach; compute the halves one after another",
    "tt.split": "tiles of three axes are out of reach; load the halves by two loads",
}


def reason(operation: str) -> str:
    """Why an operation stops a lift, and what to do."""
    return REASONS.get(operation, "this operation is out of reach")
