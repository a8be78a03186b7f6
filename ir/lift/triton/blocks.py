"""Block pointers (`tl.make_block_ptr`), which newer versions of Triton do not compile, as plain pointers and masks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock


def _classes() -> tuple[Any, Any]:
    """The class of block pointers and that of their types: base, then each dimension's size, stride and offset."""
    import triton.language.core as core

    class BlockType(core.base_type):  # type: ignore[misc]
        """Types of the parts; `block`: the block's shape."""

        def __init__(self, types: Sequence[Any], block: tuple[int, ...]) -> None:
            self.types, self.block = list(types), block

        def __eq__(self, other: object) -> bool:
            return isinstance(other, BlockType) and (self.types, self.block) == (other.types, other.block)

        __hash__ = None  # type: ignore[assignment]

        @property
        def element_ty(self) -> Any:
            """The element type of what it points to."""
            return self.types[0].element_ty

        def _unflatten_ir(self, handles: Any, cursor: int) -> Any:
            values = []
            for kind in self.types:
                value, cursor = kind._unflatten_ir(handles, cursor)
                values.append(value)
            return Block(values, self), cursor

        def _flatten_ir_types(self, builder: Any, out: Any) -> None:
            for kind in self.types:
                kind._flatten_ir_types(builder, out)

        def mangle(self) -> str:
            return "_".join(["BP", *(kind.mangle() for kind in self.types), *map(str, self.block)])

    class Block(core.base_value):  # type: ignore[misc]
        """A block pointer."""

        def __init__(self, values: Sequence[Any], kind: Any) -> None:
            self.values, self.type = list(values), kind

        @property
        def dtype(self) -> Any:
            """Its type, which tells the element's."""
            return self.type

        def _flatten_ir(self, handles: Any) -> None:
            for value in self.values:
                value._flatten_ir(handles)

        def _set_name(self, builder: Any, name: str) -> None:
            """Its parts have no names in the source."""

    return Block, BlockType


def _numbers(semantic: Any, items: Any) -> list[Any]:
    """Scalars of 64 bits, so that offsets keep their type when they advance."""
    import triton.language.core as core

    plain = [core._unwrap_if_constexpr(item) for item in items]
    return [semantic.cast(semantic.to_tensor(item), core.int64) for item in plain]


def _place(semantic: Any, pointer: Any, checked: Any) -> tuple[Any, Any]:
    """Pointers of a block's elements, and which of them lie inside along the dimensions that are checked."""
    import triton.language.core as core

    rank = len(pointer.type.block)
    base, sizes, strides, offsets = (
        pointer.values[0], *(pointer.values[1 + rank * n : 1 + rank * (n + 1)] for n in range(3)),
    )  # fmt: skip
    inside = None
    checks = [core._unwrap_if_constexpr(c) for c in core._unwrap_if_constexpr(checked)]
    for dim, width in enumerate(pointer.type.block):
        index = semantic.add(semantic.arange(0, width), offsets[dim], True)
        for other in range(rank):
            index = index if other == dim else semantic.expand_dims(index, other)
        base = semantic.add(base, semantic.mul(index, strides[dim], True), True)
        if dim in checks:
            here = semantic.less_than(index, sizes[dim])
            inside = here if inside is None else semantic.and_(inside, here)
    return base, inside


def _builtins() -> dict[str, Any]:
    """make_block_ptr, advance, load and store, for block pointers and others."""
    import triton.language.core as core

    block_class, type_class = _classes()
    plain_load, plain_store = core.load, core.store

    def make_block_ptr(
        base: Any, shape: Any, strides: Any, offsets: Any, block_shape: Any, order: Any, _semantic: Any = None
    ) -> Any:
        parts = [base, *(n for items in (shape, strides, offsets) for n in _numbers(_semantic, items))]
        block = tuple(int(core._unwrap_if_constexpr(n)) for n in core._unwrap_if_constexpr(block_shape))
        return block_class(parts, type_class([part.type for part in parts], block))

    def advance(base: Any, offsets: Any, _semantic: Any = None) -> Any:
        rank = len(base.type.block)
        moved = [
            _semantic.add(old, by, True)
            for old, by in zip(base.values[1 + 2 * rank :], _numbers(_semantic, offsets), strict=True)
        ]
        return block_class([*base.values[: 1 + 2 * rank], *moved], base.type)

    def load(pointer: Any, mask: Any = None, other: Any = None, *, _semantic: Any = None, **hints: Any) -> Any:
        if isinstance(pointer, block_class):
            pointer, mask = _place(_semantic, pointer, hints.get("boundary_check", ()))
            other = None if mask is None else 0.0
        return plain_load(pointer, mask, other, _semantic=_semantic)

    def store(pointer: Any, value: Any, mask: Any = None, *, _semantic: Any = None, **hints: Any) -> Any:
        if isinstance(pointer, block_class):
            pointer, mask = _place(_semantic, pointer, hints.get("boundary_check", ()))
        return plain_store(pointer, value, mask, _semantic=_semantic)

    return {f.__name__: core.builtin(f) for f in (make_block_ptr, advance, load, store)}


@contextlib.contextmanager
def block_pointers() -> Iterator[None]:
    """Block pointers are compiled and interpreted while this lasts, where this version of Triton no longer does."""
    import triton.language as language
    import triton.language.core as core

    with contextlib.ExitStack() as stack:
        if "removed" in (core.make_block_ptr.__doc__ or ""):
            for name, function in _builtins().items():
                for module in (language, core):
                    stack.enter_context(mock.patch.object(module, name, function, create=True))
        yield
