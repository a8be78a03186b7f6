"""Runs a launcher on CPU tensors with every Triton launch recorded instead of made: kernels, grids, arguments."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

from ...errors import UnsupportedKernel

EMPTY = ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "empty_permuted")
MAX_LAUNCHES = 64


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch: the kernel, its grid, its arguments by name, and num_warps, num_stages as they were given."""

    function: Any
    grid: tuple[int, int, int]
    arguments: dict[str, Any]
    options: dict[str, Any]
    constants: frozenset[str]


@dataclass(slots=True)
class Run:
    """What a launcher did with one example. `fresh`: what tensors of its own held at their first launch."""

    arguments: dict[str, Any]
    launches: list[Launch] = field(default_factory=list)
    returned: tuple[Any, ...] = ()
    fresh: dict[int, tuple[Any, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    given: frozenset[int] = frozenset()


def capture(launch: Callable[..., Any], example: Sequence[Any]) -> Run:
    """Call the launcher with the example. Raises UnsupportedKernel when it fails or launches nothing."""
    bound = inspect.signature(launch).bind(*example)
    bound.apply_defaults()
    run = Run(dict(bound.arguments))
    run.given = frozenset(storage_of(tensor) for tensor in _all_tensors(run.arguments))
    try:
        with _recording(run):
            result = launch(*example)
    except UnsupportedKernel:
        raise
    except Exception as error:
        raise UnsupportedKernel(f"the launcher failed on CPU tensors: {type(error).__name__}: {error}") from error
    if not run.launches:
        raise UnsupportedKernel(f"{getattr(launch, '__name__', 'the launcher')} launched no Triton kernel")
    run.returned = _tensors_of(result)
    return run


def storage_of(tensor: Any) -> int:
    """What tells memory of one tensor from that of another."""
    return int(tensor.untyped_storage().data_ptr())


def _tensors_of(result: Any) -> tuple[Any, ...]:
    items = result if isinstance(result, (tuple, list)) else (result,)
    return tuple(item for item in items if hasattr(item, "untyped_storage"))


@contextlib.contextmanager
def _recording(run: Run) -> Iterator[None]:
    from triton.runtime.jit import JITFunction

    def record(self: Any, *args: Any, grid: Any, warmup: bool = False, **kwargs: Any) -> None:
        _note_launch(run, self, grid, args, kwargs)

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(JITFunction, "run", record))
        stack.enter_context(on_cpu(run))
        stack.enter_context(_poison())
        yield


def _first_config(run: Run, tuner: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Launch with the first row of a tuning table that its pruning leaves."""
    tuner.nargs = dict(zip(tuner.arg_names, args, strict=False))
    try:
        config = next(iter(tuner.prune_configs(kwargs)))
    except Exception:  # noqa: BLE001  (a model of a GPU's speed needs the GPU)
        config = tuner.configs[0]
    chosen = config.all_kwargs()
    if config.pre_hook is not None:
        config.pre_hook({**tuner.nargs, **kwargs, **chosen})
    tuner.nargs = None
    run.notes.append(f"{len(tuner.configs)} rows of tuning; lifted with {chosen}")
    return tuner.fn.run(*args, **{**chosen, **kwargs})


@contextlib.contextmanager
def on_cpu(run: Run | None = None) -> Iterator[None]:
    """Launchers that ask for a GPU are answered as if CPU tensors were on one; nothing is tuned by timing."""
    import torch
    from triton.runtime.autotuner import Autotuner

    noted = Run({}) if run is None else run

    def first_config(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _first_config(noted, self, args, kwargs)

    device = SimpleNamespace(multi_processor_count=132, major=9, minor=0, name="none", total_memory=80 << 30)
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(Autotuner, "run", first_config))
        for name, value in (
            ("device", lambda *_: contextlib.nullcontext()), ("synchronize", lambda *_: None),
            ("current_device", lambda: 0), ("get_device_capability", lambda *_: (9, 0)),
            ("get_device_properties", lambda *_: device), ("is_available", lambda: True),
        ):  # fmt: skip
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        torch.Tensor.is_cuda = property(lambda _: True)  # type: ignore[assignment]
        stack.callback(lambda: delattr(torch.Tensor, "is_cuda"))
        stack.enter_context(torch.no_grad())
        yield


def _poison() -> Any:
    """Memory of the launcher's own is filled with what no kernel expects, and is on the CPU."""
    import torch
    from torch.overrides import TorchFunctionMode

    class Poison(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = dict(kwargs or {})
            if "cuda" in str(kwargs.get("device", "")):
                kwargs["device"] = "cpu"
            result = func(*args, **kwargs)
            if getattr(func, "__name__", "") in EMPTY:
                with torch._C.DisableTorchFunction():
                    result.fill_(float("nan") if result.is_floating_point() else 77)
            return result

    return Poison()


def _note_launch(run: Run, function: Any, grid: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if len(run.launches) >= MAX_LAUNCHES:
        raise UnsupportedKernel(f"more than {MAX_LAUNCHES} launches")
    names = set(function.arg_names)
    options = {name: value for name, value in kwargs.items() if name not in names}
    bound = function.signature.bind(*args, **{name: value for name, value in kwargs.items() if name in names})
    bound.apply_defaults()
    arguments = dict(bound.arguments)
    for tensor in _all_tensors(arguments):
        if storage_of(tensor) not in run.fresh:
            is_given = storage_of(tensor) in run.given
            run.fresh[storage_of(tensor)] = (tensor, "data" if is_given else _contents(tensor))
    shape = grid(arguments) if callable(grid) else grid
    shape = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
    sizes = [int(size) for size in shape] + [1, 1, 1]
    constants = frozenset(param.name for param in function.params if param.is_constexpr)
    run.launches.append(Launch(function, (sizes[0], sizes[1], sizes[2]), arguments, options, constants))


def _all_tensors(arguments: dict[str, Any]) -> Iterator[Any]:
    for value in arguments.values():
        base = getattr(value, "base", value) if type(value).__name__ == "TensorDescriptor" else value
        if hasattr(base, "untyped_storage"):
            yield base


def _contents(tensor: Any) -> str:
    """ "empty" as allocated, "zero", or "data"."""
    import torch

    with torch._C.DisableTorchFunction():
        if not tensor.numel():
            return "empty"
        unset = torch.isnan(tensor) if tensor.is_floating_point() else tensor == 77
        if bool(unset.all()):
            return "empty"
        return "zero" if not bool(tensor.any()) else "data"
