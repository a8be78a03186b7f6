"""BlockMask and create_block_mask: a mask is its mask_mod; blocks are counted only for those who look at them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import flex_attention as peer

from ...ir.errors import DTypeError, ShapeError, UnsupportedSpec
from ...kernels.modifiers import Modifier, mapped
from .blocks import BLOCK_TENSORS, Layout, count_blocks

__all__ = ["BlockMask", "create_block_mask", "create_nested_block_mask", "is_sliced"]

DEFAULT_BLOCK = 128
Tensors = dict[str, Any]


class BlockMask(peer.BlockMask):
    """A mask for flex_attention: a mask_mod, the lengths it is for, and the blocks (kv_num_blocks, kv_indices, …).

    One that create_block_mask made holds no blocks: they are counted when an attribute, sparsity() or
    to_dense() asks for them. One made of blocks (from_kv_blocks) also masks what they leave out.
    """

    device: torch.device
    _batch: tuple[int, ...] | None = None  # leading dims where blocks are not counted yet; None where they are given
    _count: Callable[[], Tensors] | None = None

    @classmethod
    def symbolic(cls, mask_mod: Modifier, batch: tuple[int, ...], layout: Layout, device: torch.device) -> BlockMask:
        """A mask without blocks."""
        made = cls.__new__(cls)
        made.seq_lengths, made.BLOCK_SIZE, made.mask_mod = layout.lengths, layout.block, mask_mod
        made.dq_kv_order_spt = None
        made.device = device
        made._batch = batch
        made._count = lambda: count_blocks(mask_mod, batch, layout, device)
        return made

    def __getattr__(self, name: str) -> Any:
        """Blocks, counted at the first look at them."""
        if name not in BLOCK_TENSORS or self._count is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self.__dict__.update(self._count())
        return self.__dict__[name]

    @property
    def is_symbolic(self) -> bool:
        """Whether the mask_mod alone says what is kept."""
        return self._count is not None

    @property
    def shape(self) -> tuple[int, ...]:
        """[B, H, Q_LEN, KV_LEN], as it was made or sliced."""
        return super().shape if self._batch is None else (*self._batch, *self.seq_lengths)

    def __getitem__(self, index: Any) -> Any:
        """Slice batch, heads and rows of blocks; mask_mod is reset and must be set anew, as in PyTorch."""
        if self._batch is None:
            return _of_given(type(self), super().__getitem__(index))
        made = copy.copy(self)
        made._forget()
        slices = (*(index if isinstance(index, tuple) else (index,)), slice(None), slice(None))[:2]
        made._batch = tuple(_size(size, item) for size, item in zip(self._batch, slices, strict=True))
        made._count = lambda: _tensors(peer.BlockMask.__getitem__(self, index))
        made.mask_mod = sliced
        return made

    def _adjust(self, new_q_len: int, new_kv_len: int) -> Any:
        """The upper left corner of the mask, for other lengths."""
        if self._batch is None:
            return super()._adjust(new_q_len, new_kv_len)
        layout = Layout((new_q_len, new_kv_len), self.BLOCK_SIZE)
        return BlockMask.symbolic(self.mask_mod, self._batch, layout, self.device)

    def to(self, device: torch.device | str) -> BlockMask:
        """The mask with its blocks on a device; tensors that mask_mod captures stay where they are, as in PyTorch."""
        if self._batch is None:
            return _of_given(type(self), super().to(device))
        made = copy.copy(self)
        made._forget()
        made.device = torch.device(device)
        made._count = lambda: _tensors(peer.BlockMask.to(self, device))
        return made

    def _forget(self) -> None:
        for name in BLOCK_TENSORS:
            self.__dict__.pop(name, None)


def _tensors(mask: peer.BlockMask) -> Tensors:
    return {name: getattr(mask, name) for name in BLOCK_TENSORS}


def _of_given(cls: type[BlockMask], mask: peer.BlockMask) -> BlockMask:
    made = cls.__new__(cls)
    made.__dict__.update(mask.__dict__)
    return made


def _size(size: int, item: Any) -> int:
    """The size that slicing leaves; an integer leaves 1, as in PyTorch's masks."""
    return 1 if isinstance(item, int) else len(torch.empty(size)[item])


def sliced(b: torch.Tensor, h: torch.Tensor, q_idx: torch.Tensor, kv_idx: torch.Tensor) -> torch.Tensor:
    """Stands for the mask_mod of a sliced mask, which no longer knows its place in the whole."""
    raise UnsupportedSpec(SLICED)


SLICED = (
    "block_mask: a slice of a BlockMask has no mask_mod; "
    "set it from the whole one's (sliced.mask_mod = shifted(whole.mask_mod))"
)


def is_sliced(mask_mod: object) -> bool:
    """Whether it is what stands for the mask_mod of a slice, ours or PyTorch's."""
    return mask_mod is sliced or mask_mod is getattr(peer, "_sliced_mask_mod_error", sliced)


def create_block_mask(  # noqa: PLR0913 - PyTorch's signature
    mask_mod: Modifier,
    B: int | None,
    H: int | None,
    Q_LEN: int,
    KV_LEN: int,
    device: torch.device | str | int | None = None,
    BLOCK_SIZE: int | tuple[int, int] = DEFAULT_BLOCK,
    _compile: bool = False,
    separate_full_blocks: bool = True,
    compute_dq_write_order: bool = False,
    dq_kv_order: bool = True,
) -> BlockMask:
    """A BlockMask of mask_mod(b, h, q_idx, kv_idx) -> bool; nothing of size Q_LEN x KV_LEN is computed.

    The callable is tried at one index. B, H: leading dims of the blocks (None: 1). BLOCK_SIZE: of the blocks
    that are reported; kernels choose their own tiles. Raises UnsupportedSpec, DTypeError or ShapeError.
    """
    if compute_dq_write_order:
        raise UnsupportedSpec("compute_dq_write_order=True: Tilewright's backward orders itself; leave it False")
    place = torch.device(device if device is not None else torch.accelerator.current_accelerator() or "cpu")
    block = (BLOCK_SIZE, BLOCK_SIZE) if isinstance(BLOCK_SIZE, int) else tuple(BLOCK_SIZE)
    for name, size in (("B", B), ("H", H), ("Q_LEN", Q_LEN), ("KV_LEN", KV_LEN), *(("BLOCK_SIZE", s) for s in block)):
        if size is not None and (not isinstance(size, int) or size < 0):
            raise ShapeError(f"{name}={size!r}: wanted a whole number of at least 0")
    if len(block) != 2 or 0 in block:
        raise ShapeError(f"BLOCK_SIZE={BLOCK_SIZE!r}: wanted a positive number, or one for queries and one for keys")
    _try(mask_mod, (B or 1, H or 1, Q_LEN, KV_LEN), place)
    layout = Layout((Q_LEN, KV_LEN), (block[0], block[1]), separate_full_blocks)
    return BlockMask.symbolic(mask_mod, (B or 1, H or 1), layout, place)


def _try(mask_mod: Modifier, shape: tuple[int, ...], device: torch.device) -> None:
    """Refuse what is no mask_mod: called for the first query and key."""
    if not callable(mask_mod):
        raise UnsupportedSpec(f"mask_mod: got {type(mask_mod).__name__}, wanted mask_mod(b, h, q_idx, kv_idx) -> bool")
    if 0 in shape:
        return
    try:
        found = mapped(mask_mod, [torch.zeros(1, dtype=torch.int64, device=device) for _ in shape])
    except TypeError as error:
        raise UnsupportedSpec(f"mask_mod: {error}; wanted mask_mod(b, h, q_idx, kv_idx) -> bool") from error
    if found.dtype is not torch.bool:
        raise DTypeError(f"mask_mod: it gives {found.dtype}, wanted torch.bool; compare with something, as in `x != 0`")
    if found.dim() != len(shape):
        raise ShapeError(f"mask_mod: it gives shape {tuple(found.shape[4:])} for one query and key, wanted ()")


def create_nested_block_mask(*args: Any, **kwargs: Any) -> BlockMask:
    """Refused: nested tensors are not taken. Use create_block_mask with a tensor of document ids."""
    raise UnsupportedSpec(
        "create_nested_block_mask: nested tensors are not supported",
        hint="concatenate the sequences and pass create_block_mask a mask_mod that compares document ids: "
        "lambda b, h, q_idx, kv_idx: ids[q_idx] == ids[kv_idx]",
    )
