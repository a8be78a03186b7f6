"""flash-attn's functions, served by our kernels on the CPU and on GPUs: names and signatures of version 2.

Tensors are [batch, length, heads, head_dim], or [tokens, heads, head_dim] where sequences lie end to end; float32 is
taken besides bfloat16 and float16, any head dimension, Dv != D and any ratio of heads. Nothing is transposed or padded
in memory. Causal masks and windows are aligned to the bottom right: query i sees key j where
i + N - M - left <= j <= i + N - M + right. A row that sees nothing gives 0. There is no backward yet.

Interface: https://github.com/Dao-AILab/flash-attention (flash_attn_interface.py). docs/compat.md lists every argument.
"""

from __future__ import annotations

from .arguments import ARGUMENTS
from .cache import flash_attn_with_kvcache
from .functions import flash_attn_func, flash_attn_varlen_func
from .packed import (
    flash_attn_kvpacked_func,
    flash_attn_qkvpacked_func,
    flash_attn_varlen_kvpacked_func,
    flash_attn_varlen_qkvpacked_func,
)

__all__ = [
    "ARGUMENTS",
    "flash_attn_func",
    "flash_attn_kvpacked_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
    "flash_attn_with_kvcache",
]
