"""The triton target: a standalone file that imports torch and triton, loaded as a module."""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from ...ir.errors import BuildError, Deadlock, DeviceError, ScheduleError, TilewrightError
from ...ir.program import Program
from ..cache import content_key, default_cache
from ..target import Launch, Lowered
from .module import write_module
from .tuning import ARCHES, DEFAULT_ARCH

__all__ = ["TritonLaunch", "TritonTarget"]

ORDER_OPTIONS = ("workers", "least_workers", "most_spins")  # of generated functions that add in a given order
ORDER_ERRORS: dict[str, type[TilewrightError]] = {"OutOfTurn": Deadlock, "TooFewWorkers": ScheduleError}


class TritonTarget:
    """Triton 3.6 and newer."""

    name = "triton"
    includes: Path | None = None

    def default_arch(self) -> str:
        """The architecture of this machine's GPU, sm_90 where there is none or one that has no table of its own."""
        import torch

        if not torch.cuda.is_available():
            return DEFAULT_ARCH
        arch = f"sm_{torch.cuda.get_device_capability()[0]}0"
        return arch if arch in ARCHES else DEFAULT_ARCH

    def lower(self, program: Program, arch: str) -> Lowered:
        """The file's text; `arch` decides which row of its tuning table runs untuned."""
        return Lowered(self.name, arch, write_module(program, arch).source, ".py")

    def load(self, lowered: Lowered, program: Program) -> Launch:
        """Import the file from the cache; Triton itself compiles at the first launch of a kernel."""
        return TritonLaunch(import_source(lowered.source), program)


class TritonLaunch:
    """A generated file, ready to run on tensors. Where it adds in a given order, it takes its function's options."""

    def __init__(self, module: ModuleType, program: Program) -> None:
        self.module = module
        self.run = getattr(module, module.__all__[0])
        self.is_output = [param.is_output for param in program.params]
        names = [name for name in (self.run.__kwdefaults__ or ()) if name not in ORDER_OPTIONS]
        self.outputs_of = names
        asked = inspect.getfullargspec(self.run).kwonlyargs
        self.asked = [name for name in asked if name not in {*names, *ORDER_OPTIONS}]

    def __call__(self, tensors: Sequence[Any], sizes: Mapping[str, int], **options: int | None) -> None:
        """Launch. `options`, of programs that add in a given order only:

        workers: programs to launch, by default as many as run at once; bits do not depend on it.
        least_workers: how many must run at once for no wait to last forever (a plan's residency, 1 for safe plans).
        most_spins: looks after which a wait gives up; 0, the default, waits as long as it takes.

        Raises ScheduleError where the GPU has no room for `least_workers`, before the kernel that waits is launched,
        and Deadlock, naming instance, rank and tile, for a wait that gave up.
        """
        _require_gpu(tensors[0])
        outputs = [tensor for tensor, out in zip(tensors, self.is_output, strict=True) if out]
        inputs = [tensor for tensor, out in zip(tensors, self.is_output, strict=True) if not out]
        given = {name: sizes[name] for name in self.asked}
        with errors_of(self.module):
            self.run(*inputs, **given, **options, **dict(zip(self.outputs_of, outputs, strict=True)))


@contextmanager
def errors_of(module: ModuleType) -> Iterator[None]:
    """Raise what a generated file raises about waits as errors of ours."""
    kinds = {getattr(module, name, None): kind for name, kind in ORDER_ERRORS.items()}
    try:
        yield
    except RuntimeError as error:
        kind = kinds.get(type(error))
        if kind is None:
            raise
        raise kind(str(error)) from None


def import_source(source: str) -> ModuleType:
    """A generated file as a module, from the private cache: Triton reads its functions' text from the file.

    Raises BuildError when Triton is not installed.
    """
    if importlib.util.find_spec("triton") is None:
        raise BuildError("target triton: Triton is not installed; pip install 'triton>=3.6' (Linux)")
    key = content_key("triton source", source)
    path = default_cache().get_or_build(key, source.encode, ".py")
    name = f"tilewright_generated_{key[:16]}"
    if name not in sys.modules:
        sys.modules[name] = _execute(name, path)
    return sys.modules[name]


def _execute(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _require_gpu(tensor: Any) -> None:
    if tensor.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise DeviceError(
            f"target triton: the tensors are on {tensor.device}, wanted an NVIDIA GPU; move them there, use "
            "target='cpu', or set TRITON_INTERPRET=1 before Python starts (slow, for checking)"
        )
