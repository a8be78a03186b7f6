"""The triton target: a standalone file that imports torch and triton, loaded as a module."""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ...ir.errors import BuildError, DeviceError
from ...ir.program import Program
from ..cache import content_key, default_cache
from ..target import Launch, Lowered
from .module import write_module
from .tuning import ARCHES, DEFAULT_ARCH

__all__ = ["TritonTarget"]


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
        module = import_source(lowered.source)
        run = getattr(module, module.__all__[0])
        is_output = [param.is_output for param in program.params]
        outputs_of, asked = list(run.__kwdefaults__ or ()), inspect.getfullargspec(run).kwonlyargs

        def launch(tensors: Sequence[Any], sizes: Mapping[str, int]) -> None:
            _require_gpu(tensors[0])
            outputs = [tensor for tensor, out in zip(tensors, is_output, strict=True) if out]
            inputs = [tensor for tensor, out in zip(tensors, is_output, strict=True) if not out]
            given = {name: sizes[name] for name in asked if name not in outputs_of}
            run(*inputs, **given, **dict(zip(outputs_of, outputs, strict=True)))

        return launch


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
