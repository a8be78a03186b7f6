"""Tilewright: a PyTorch attention function in, a verified fast kernel out.

The public names load at first use, so that `import tilewright` does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .ir.errors import (
        BuildError,
        ConsensusError,
        DeviceError,
        DTypeError,
        LoweringError,
        MissingExtra,
        ParseError,
        ProgramError,
        SettingError,
        ShapeError,
        TilewrightError,
        ToolchainMissing,
        TransferFailed,
        UnsupportedKernel,
        UnsupportedSpec,
        VerificationError,
    )
    from .ir.parser import parse_program, parse_spec
    from .ir.program import Program
    from .ir.spec import AttentionSpec
    from .ir.transfer.consensus import consensus
    from .kernels.api import compile  # noqa: A004 - the public name
    from .kernels.attention import attention
    from .kernels.dropout import dropout
    from .kernels.kernel import Kernel
    from .kernels.lifting import LiftedKernel, lift
    from .kernels.report import Report
    from .kernels.saved import load
    from .kernels.version import VERSION as __version__
    from .schedules import Plan, plan_backward

_HOMES = {
    "compile": "kernels.api",
    "attention": "kernels.attention",
    "dropout": "kernels.dropout",
    "Kernel": "kernels.kernel",
    "LiftedKernel": "kernels.lifting",
    "lift": "kernels.lifting",
    "Report": "kernels.report",
    "load": "kernels.saved",
    "Program": "ir.program",
    "AttentionSpec": "ir.spec",
    "parse_program": "ir.parser",
    "parse_spec": "ir.parser",
    "consensus": "ir.transfer.consensus",
    "Plan": "schedules",
    "plan_backward": "schedules",
    "__version__": "kernels.version",
    **dict.fromkeys(
        (
            "BuildError", "ConsensusError", "DTypeError", "DeviceError", "LoweringError", "MissingExtra", "ParseError",
            "ProgramError", "SettingError", "ShapeError", "TilewrightError", "ToolchainMissing",
            "TransferFailed", "UnsupportedKernel", "UnsupportedSpec", "VerificationError",
        ),
        "ir.errors",
    ),
}  # fmt: skip

__all__ = [
    "AttentionSpec",
    "BuildError",
    "ConsensusError",
    "DTypeError",
    "DeviceError",
    "Kernel",
    "LiftedKernel",
    "LoweringError",
    "MissingExtra",
    "ParseError",
    "Plan",
    "Program",
    "ProgramError",
    "Report",
    "SettingError",
    "ShapeError",
    "TilewrightError",
    "ToolchainMissing",
    "TransferFailed",
    "UnsupportedKernel",
    "UnsupportedSpec",
    "VerificationError",
    "__version__",
    "attention",
    "compile",
    "consensus",
    "dropout",
    "lift",
    "load",
    "parse_program",
    "parse_spec",
    "plan_backward",
]


def __getattr__(name: str) -> object:
    """Import a public name from where it lives."""
    from importlib import import_module

    if name == "compat":
        return import_module(f"{__name__}.compat")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_HOMES[name]}")
    value: object = getattr(module, "VERSION" if name == "__version__" else name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "compat"])
