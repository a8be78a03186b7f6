"""One torch operator for every kernel, for the parts of torch that record or transform calls.

`tilewright::call(str key, Tensor[] tensors, SymInt[] sizes) -> Tensor[]` runs the kernel registered under a key.
It has a fake implementation, a batching rule, and its gradient is the operator `tilewright::gradient`;
torch.compile, torch.export, vmap, FakeTensorMode and dispatch modes see this one operator and nothing of what is
behind it. Eager calls do not use it.

A key is content (`name-hash`) for a kernel that was loaded or exported: a program that was exported here runs
in another process where `tilewright.load` has read the same kernel, or where the cache still has it. Other
kernels have a key of this process. Nothing is pickled.
"""

from __future__ import annotations

import functools
import itertools
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..ir.errors import TilewrightError, UnsupportedSpec
from ..ir.printer import print_program, print_spec
from ..lowering.cache import content_key, default_cache
from .compiled import Compiled

__all__ = [
    "Described", "Runner", "call_through_op", "content_key_of", "is_recorded", "is_watched", "kept_at", "local_key",
    "register",
]  # fmt: skip

Tensors = Sequence[torch.Tensor]
Described = list[tuple[Sequence[int], torch.dtype]]

LOCAL = f"local-{secrets.token_hex(8)}"  # compiled graphs are cached on disk: no two processes share these keys
OUTPUTS = 2  # o and lse, which a backward reads
_numbers = itertools.count()
_runners: dict[str, Runner] = {}


class Runner:
    """What the operator needs of a kernel."""

    key: str

    def describe(self, tensors: Tensors, sizes: Sequence[int]) -> Described:
        """Shape and type of every output; sizes may be symbolic. Raises for tensors that do not fit."""
        raise NotImplementedError

    def run(self, tensors: Tensors, sizes: Sequence[int]) -> list[torch.Tensor]:
        """The outputs, in new memory."""
        raise NotImplementedError

    def check_gradient(self) -> None:
        """Raise unless the runner can be differentiated."""
        from .plan import refuse_grad

        refuse_grad()

    def differentiate(self, tensors: Tensors, known: Tensors, wanted: Sequence[bool]) -> list[torch.Tensor]:
        """The gradients of the tensors that are wanted. known: o, lse and the gradients of both."""
        del tensors, known, wanted
        raise NotImplementedError

    def fold(self, count: int, tensors: Tensors, dims: Sequence[int | None]) -> list[torch.Tensor]:
        """The tensors with `count` calls side by side in dimension 0 of every output.

        dims: of each tensor the dimension that torch.vmap maps over, None where all calls share it.
        """
        del count, tensors, dims
        raise UnsupportedSpec(f"{self.key}: torch.vmap over this kernel is not available", hint="call it in a loop")


def register(runner: Runner) -> str:
    """Make a runner known to the operator for as long as the process lives; returns its key."""
    return _runners.setdefault(runner.key, runner).key


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _key_of(runner: Runner) -> str:
    return register(runner)


def call_through_op(runner: Runner, tensors: Tensors, sizes: Sequence[int] = ()) -> list[torch.Tensor]:
    """Run a kernel through the operator, so that whatever watches this call sees one node.

    Call it where `is_watched()` says so; torch.compile traces through it without a graph break.
    """
    outputs: list[torch.Tensor] = torch.ops.tilewright.call(_key_of(runner), list(tensors), list(sizes))
    return outputs


# Private names of torch, gathered here: each costs a fraction of a microsecond, and every eager call asks.
_mode_depth = torch._C._len_torch_dispatch_stack
_transforms = torch._C._functorch.peek_interpreter_stack
_is_any_autocast = torch._C._is_any_autocast_enabled
_is_dynamo = torch.compiler.is_dynamo_compiling


def is_recorded() -> bool:
    """Whether a call must be visible to torch: dynamo traces it, or it is under a dispatch mode or a transform."""
    return _is_dynamo() or _mode_depth() > 0 or _transforms() is not None


def is_watched() -> bool:
    """Whether torch wants anything of a call: to record it, or that it follows autocast."""
    return _is_dynamo() or _mode_depth() > 0 or _transforms() is not None or _is_any_autocast()


# Keys


def local_key() -> str:
    """A key that means something in this process only."""
    return f"{LOCAL}-{next(_numbers)}"


def content_key_of(compiled: Compiled) -> str:
    """The key of a compiled form: what is computed and how, whichever machine it was built for."""
    spec = "" if compiled.spec is None else print_spec(compiled.spec)
    digest = content_key("kernel", compiled.lowered.target, print_program(compiled.program), spec)
    return f"{compiled.program.name}-{digest[:32]}"


def kept_at(key: str) -> Path:
    """Where the cache keeps a kernel that an exported program names."""
    return default_cache().root / "exported" / key


def _find(key: str) -> Runner:
    found = _runners.get(key)
    if found is not None:
        return found
    if key.startswith("local-"):
        raise TilewrightError(
            f"kernel {key} belonged to the process that made this graph; export with torch.export.export(..., "
            "strict=False), or build the graph from a kernel that tilewright.load returned"
        )
    if os.path.basename(key) == key and kept_at(key).is_dir():
        return _load_kept(key)
    raise TilewrightError(
        f"kernel {key} is not in this process and not in the cache; call tilewright.load(DIRECTORY) first, "
        "with the directory that kernel.save wrote where the program was exported"
    )


def _load_kept(key: str) -> Runner:
    from .saved import load

    kernel = load(kept_at(key))
    if kernel.key != key:
        raise TilewrightError(f"{kept_at(key)} holds kernel {kernel.key}; delete it and export again")
    return _runners.setdefault(key, kernel)


# The operator

_library = torch.library.Library("tilewright", "DEF")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "call(str key, Tensor[] tensors, SymInt[] sizes) -> Tensor[]", tags=(torch.Tag.pt2_compliant_tag,)
)


@functools.partial(_library.impl, "call", dispatch_key="CompositeExplicitAutograd")
def _run(key: str, tensors: list[torch.Tensor], sizes: list[int]) -> list[torch.Tensor]:
    return _find(key).run(tensors, sizes)


def _fake(key: str, tensors: list[torch.Tensor], sizes: list[int]) -> list[torch.Tensor]:
    described = _find(key).describe(tensors, sizes)
    return [tensors[0].new_empty(list(shape), dtype=dtype) for shape, dtype in described]


def _batched(
    info: Any, in_dims: tuple[Any, ...], key: str, tensors: list[torch.Tensor], sizes: list[int]
) -> tuple[list[torch.Tensor], list[int]]:
    """One call for all: the mapped dimension goes into dimension 0 of every output."""
    folded = _find(key).fold(info.batch_size, tensors, in_dims[1])
    outputs = torch.ops.tilewright.call(key, folded, sizes)
    return [output.unflatten(0, (info.batch_size, -1)) for output in outputs], [0] * len(outputs)


# Its gradient is an operator as well, so that graphs of the backward have one node for it.

_library.define(  # type: ignore[no-untyped-call]
    "gradient(str key, Tensor[] tensors, Tensor[] known, bool[] wanted) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@functools.partial(_library.impl, "gradient", dispatch_key="CompositeExplicitAutograd")
def _run_gradient(
    key: str, tensors: list[torch.Tensor], known: list[torch.Tensor], wanted: list[bool]
) -> list[torch.Tensor]:
    return _find(key).differentiate(tensors, known, wanted)


def _fake_gradient(
    key: str, tensors: list[torch.Tensor], known: list[torch.Tensor], wanted: list[bool]
) -> list[torch.Tensor]:
    del key, known
    pairs = zip(tensors, wanted, strict=True)
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x, is_wanted in pairs if is_wanted]


def _save(ctx: Any, inputs: tuple[Any, ...], output: list[torch.Tensor]) -> None:
    """Called where an input requires grad and grad mode is on."""
    key, tensors, _ = inputs
    _find(key).check_gradient()
    if len(output) < OUTPUTS:
        reason = "tilewright::call is differentiable where its sizes ask for an lse; call the kernel instead"
        raise TilewrightError(reason)
    ctx.key, ctx.count = key, len(tensors)
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx: Any, grads: Sequence[torch.Tensor | None]) -> tuple[None, list[torch.Tensor | None], None]:
    saved = ctx.saved_tensors
    tensors, outputs = list(saved[: ctx.count]), list(saved[ctx.count :])
    wanted = [x.is_floating_point() and bool(need) for x, need in zip(tensors, ctx.needs_input_grad[1], strict=True)]
    arrived = [torch.zeros_like(out) if grad is None else grad for out, grad in zip(outputs, grads, strict=True)]
    found = iter(torch.ops.tilewright.gradient(ctx.key, tensors, [*outputs, *arrived], wanted))
    return None, [next(found) if is_wanted else None for is_wanted in wanted], None


def _refuse_second(ctx: Any, *grads: Any) -> None:
    from .gradients.function import refuse_second_derivative

    del ctx, grads
    refuse_second_derivative()


torch.library.register_fake("tilewright::call", _fake, lib=_library)
torch.library.register_vmap("tilewright::call", _batched, lib=_library)
torch.library.register_autograd("tilewright::call", _backward, setup_context=_save, lib=_library)
torch.library.register_fake("tilewright::gradient", _fake_gradient, lib=_library)
torch.library.register_autograd("tilewright::gradient", _refuse_second, lib=_library)
