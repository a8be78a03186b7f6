"""Masks as transformers makes them, kept symbolic: which rule, and the few tensors that vary, never [B, 1, M, N].

transformers describes a mask as a function of indices, composed in its masking_utils. `make_mask` is registered
there: it finds the rule's `MaskKind`, one per way of composing it, and hands the model a `SymbolicMask`, which looks
like the bool tensor the model expects and has no memory. Lengths, offsets and padding are sizes or tensors, so
a growing cache stays with its kinds, and each kind with its kernels.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ir.errors import ShapeError, UnsupportedSpec
from ...kernels.closures import Captures
from .rules import Alignment, rule_of

__all__ = ["MaskKind", "SymbolicMask", "kind_of", "make_mask"]

MAX_KINDS = 256
MaskFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Index = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(eq=False, slots=True)
class MaskKind:
    """A rule apart from its tensors, and the kernels made for it. `captures` is None where every key is seen.

    tensors of a mask: those that the rule's function captures, then q and kv offset, then padding [B, N].
    """

    captures: Captures | None
    function: MaskFunction | None
    alignment: Alignment
    is_padded: bool
    kernels: dict[Hashable, Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many tensors a mask of this kind has."""
        captured = len(self.captures.tensors) if self.captures else 0
        return captured + 2 * (self.alignment is Alignment.OFFSET) + self.is_padded

    def keep(self, tensors: Sequence[Tensor], index: Index, lengths: tuple[int, int]) -> Tensor | None:
        """The predicate over index tensors that broadcast, for `lengths` (M, N); None where it always holds."""
        b, h, i, j = index
        kept = tensors[-1][b, j] if self.is_padded else None
        if self.captures is None or self.function is None:
            return kept
        own = len(self.captures.tensors)
        if self.alignment is Alignment.END:
            i = i + (lengths[1] - lengths[0])
        elif self.alignment is Alignment.OFFSET:
            i, j = i + tensors[own], j + tensors[own + 1]
        found: Tensor = self.captures.rebuild(self.function, tensors[:own])(b, h, i, j)
        return found if kept is None else found & kept


_kinds: dict[Hashable, MaskKind] = {}
_lock = threading.Lock()


def kind_of(function: MaskFunction | None, alignment: Alignment, is_padded: bool) -> tuple[MaskKind, list[Tensor]]:
    """The kind of a rule, the same for rules that differ in tensors alone, and the tensors of this one."""
    captures = None if function is None else Captures((function,))
    key = captures and captures.key, alignment, is_padded
    kind = _kinds.get(key)
    if kind is None:
        with _lock:
            if len(_kinds) >= MAX_KINDS:
                _kinds.clear()
            kind = _kinds.setdefault(key, MaskKind(captures, function, alignment, is_padded))
    return kind, [] if captures is None else captures.tensors


def make_mask(  # noqa: PLR0913 - transformers' mask interface passes these by name
    batch_size: int,
    q_length: int | None = None,
    kv_length: int = 0,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: MaskFunction | None = None,
    attention_mask: Tensor | None = None,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    cache_position: Tensor | None = None,
    **ignored: object,
) -> SymbolicMask:
    """transformers' mask interface: lengths, offsets, a function of indices and padding [B, positions] -> a mask.

    cache_position: the rows' positions, in versions that have no q_length and q_offset. A static cache
    changes its q_offset in place while the layers run, so it is read here. Raises UnsupportedSpec for a custom
    function that does not hold for index tensors.
    """
    if cache_position is not None:
        q_length, q_offset = len(cache_position), cache_position[0]
    rows = q_length or 0
    rule = rule_of(mask_function, int(q_offset), kv_offset, rows, kv_length)
    if use_vmap:
        _check_broadcasts(rule.function, batch_size, rows, kv_length)
    padding = _padding(attention_mask, kv_offset, rule.columns)
    kind, tensors = kind_of(rule.function, rule.alignment, padding is not None)
    if kind.alignment is Alignment.OFFSET:
        tensors = [*tensors, *(torch.tensor(offset, device=device) for offset in (int(q_offset), kv_offset))]
    if padding is not None:
        tensors = [*tensors, padding]
    return SymbolicMask((batch_size, 1, rows, kv_length), device, kind, tuple(tensors), rule.columns)


def _padding(attention_mask: Tensor | None, start: int, columns: int) -> Tensor | None:
    """Which of the keys are no padding, [B, columns]; None where all are. What the mask does not reach is padding."""
    if attention_mask is None:
        return None
    padding = attention_mask[:, start : start + columns]
    missing = columns - padding.shape[1]
    if missing > 0:
        padding = F.pad(padding, (0, missing))
    padding = padding if padding.dtype is torch.bool else padding != 0
    return None if bool(padding.all()) else padding


def _check_broadcasts(function: MaskFunction | None, batch: int, rows: int, columns: int) -> None:
    """A custom function is written for one index at a time; see on a few points that it holds for tensors of them."""
    if function is None:
        return
    points = [torch.linspace(0, size - 1, min(size, 8)).long() for size in (batch, 1, rows, columns)]
    shapes = ((-1, 1, 1, 1), (1, -1, 1, 1), (1, 1, -1, 1), (1, 1, 1, -1))
    single: Any = function
    for position in (3, 2, 1, 0):
        single = torch.vmap(single, in_dims=tuple(0 if axis == position else None for axis in range(4)))
    reason = "the mask function passed as or_mask_function or and_mask_function"
    hint = "write it with comparisons and lookups table[b, i] of whole index tensors, or pass a 4-D attention_mask"
    try:
        from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

        with TransformGetItemToIndex():
            want = single(*points)
        got = function(*(point.reshape(shape) for point, shape in zip(points, shapes, strict=True)))
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        raise UnsupportedSpec(f"{reason} fails on index tensors: {error}", hint=hint) from error
    if not torch.equal(got.expand(want.shape), want):
        raise UnsupportedSpec(f"{reason} gives another mask for index tensors than for single indices", hint=hint)


class SymbolicMask(Tensor):
    """A bool tensor [B, 1, M, N] without memory: `kind` and `tensors` say which keys a row sees.

    No row sees a key from `columns` on. Models may pass it around, cut it at its end and move it; whatever would
    need its values is refused.
    """

    kind: MaskKind
    tensors: tuple[Tensor, ...]
    columns: int

    @staticmethod
    def __new__(
        cls,
        shape: tuple[int, ...],
        device: torch.device | str,
        kind: MaskKind,
        tensors: tuple[Tensor, ...],
        columns: int,
    ) -> SymbolicMask:
        made: SymbolicMask = Tensor._make_wrapper_subclass(cls, shape, dtype=torch.bool, device=torch.device(device))
        made.kind, made.tensors, made.columns = kind, tensors, columns
        return made

    def __repr__(self, *, tensor_contents: object = None) -> str:  # type: ignore[override]
        rule = "all" if self.kind.function is None else self.kind.function.__qualname__
        return f"SymbolicMask({tuple(self.shape)}, {rule}, aligned at {self.kind.alignment.value})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """A model that calls torch's attention with this mask gets ours; all else goes on to __torch_dispatch__."""
        if func is F.scaled_dot_product_attention:
            return _attend(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """What models do with a mask on its way to the attention function; all else is refused."""
        rule = _OPERATIONS.get(func.overloadpacket)
        result = rule(*args, **(kwargs or {})) if rule and isinstance(args[0], SymbolicMask) else None
        if result is None:
            raise UnsupportedSpec(
                f"the model computes with its attention mask ({func.overloadpacket}), which has no values under "
                "attn_implementation='tilewright'",
                hint="such a model does not leave its attention to the interface; use attn_implementation='sdpa'",
            )
        return result


def _sliced(mask: SymbolicMask, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Any:
    """A slice of everything, or one that cuts keys at the end."""
    size = mask.shape[dim]
    stop = size if end is None else min(end, size) if end >= 0 else end + size
    if start not in (None, 0) or step != 1 or (stop < size and dim % 4 != 3):
        return None
    shape = (*mask.shape[:3], stop) if stop < size else tuple(mask.shape)
    if shape[3] < mask.columns:
        raise ShapeError(f"attention mask: cut to {stop} keys, but its rows see {mask.columns}")
    return SymbolicMask(shape, mask.device, mask.kind, mask.tensors, mask.columns)


def _moved(mask: SymbolicMask, **options: Any) -> SymbolicMask | None:
    if options.get("dtype") not in (None, torch.bool):
        return None
    device = options.get("device") or mask.device
    tensors = tuple(tensor.to(device) for tensor in mask.tensors)
    return SymbolicMask(tuple(mask.shape), device, mask.kind, tensors, mask.columns)


def _same(mask: SymbolicMask, *sizes: Any, **options: Any) -> SymbolicMask | None:
    if sizes and any(size not in (-1, own) for size, own in zip(sizes[0], mask.shape, strict=False)):
        return None
    return SymbolicMask(tuple(mask.shape), mask.device, mask.kind, mask.tensors, mask.columns)


def _attend(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
    """torch.nn.functional.scaled_dot_product_attention with a SymbolicMask."""
    from .attention import attention_forward

    renamed = {"dropout": options.pop("dropout_p", 0.0), "scaling": options.pop("scale", None)}
    if options.pop("is_causal", False):
        raise UnsupportedSpec("scaled_dot_product_attention with both is_causal and a mask", hint="pass the mask alone")
    options.pop("enable_gqa", None)
    return attention_forward(torch.nn.Module(), query, key, value, attn_mask, **renamed)[0].transpose(1, 2)


_OPERATIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.slice: _sliced,
    torch.ops.aten._to_copy: _moved,
    torch.ops.aten.clone: _same,
    torch.ops.aten.alias: _same,
    torch.ops.aten.detach: _same,
    torch.ops.aten.expand: _same,
}
