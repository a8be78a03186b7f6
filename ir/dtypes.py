"""Element types of tensors and tiles, and the three kinds of scalar the IR computes with."""

from __future__ import annotations

from enum import Enum


class Kind(Enum):
    """What a scalar expression computes: an exact integer, a float of compute precision, or a truth value."""

    INT = "int"
    FLOAT = "float"
    BOOL = "bool"


class DType(Enum):
    """Element type of a tensor in memory; `value` is its name in program text."""

    F64 = "f64"
    F32 = "f32"
    BF16 = "bf16"
    F16 = "f16"
    I64 = "i64"
    I32 = "i32"
    I16 = "i16"
    I8 = "i8"
    U8 = "u8"
    BOOL = "bool"

    @property
    def bytes(self) -> int:
        """Size of one element in bytes."""
        return _BYTES[self]

    @property
    def kind(self) -> Kind:
        """The kind of scalar that a load of this type yields."""
        if self is DType.BOOL:
            return Kind.BOOL
        return Kind.FLOAT if self.value.startswith(("f", "bf")) else Kind.INT


_BYTES = {
    DType.F64: 8, DType.F32: 4, DType.BF16: 2, DType.F16: 2,
    DType.I64: 8, DType.I32: 4, DType.I16: 2, DType.I8: 1, DType.U8: 1, DType.BOOL: 1,
}  # fmt: skip

DTYPES = {dtype.value: dtype for dtype in DType}
