"""Element types and tensors of torch as the IR sees them."""

from __future__ import annotations

import numpy as np
import torch

from ..ir.dtypes import DType
from ..ir.errors import DTypeError
from ..ir.evaluate import Array

__all__ = ["COMPUTE_DTYPES", "as_array", "from_torch", "to_torch"]

_TORCH: dict[DType, torch.dtype] = {
    DType.F64: torch.float64, DType.F32: torch.float32, DType.BF16: torch.bfloat16, DType.F16: torch.float16,
    DType.I64: torch.int64, DType.I32: torch.int32, DType.I16: torch.int16, DType.I8: torch.int8,
    DType.U8: torch.uint8, DType.BOOL: torch.bool,
}  # fmt: skip
_OURS = {theirs: ours for ours, theirs in _TORCH.items()}

COMPUTE_DTYPES = (DType.F32, DType.BF16, DType.F16)  # what q, k and v may be


def to_torch(dtype: DType) -> torch.dtype:
    """The torch type of an element type."""
    return _TORCH[dtype]


def from_torch(name: str, dtype: torch.dtype) -> DType:
    """The element type of tensor `name`; DTypeError for one that the IR lacks (complex, quantised, …)."""
    if dtype not in _OURS:
        raise DTypeError(f"{name}: got {dtype}; wanted one of {', '.join(str(d) for d in _OURS)}")
    return _OURS[dtype]


def as_array(tensor: torch.Tensor) -> Array:
    """The tensor's values on NumPy; bf16, which NumPy lacks, as float32."""
    tensor = tensor.detach().cpu()
    return np.asarray((tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy())
