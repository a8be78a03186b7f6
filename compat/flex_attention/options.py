"""kernel_options: hints to PyTorch's kernels are accepted without effect, anything else is refused by name."""

from __future__ import annotations

from collections.abc import Mapping

from torch.nn.attention.flex_attention import FlexKernelOptions

from ...ir.errors import UnsupportedSpec

__all__ = ["HINTS", "check_kernel_options"]

HINTS = frozenset(FlexKernelOptions.__annotations__)  # tiles, warps, stages, back ends, promises: none changes a result
PREFIXES = ("fwd_", "bwd_")
BACKENDS = ("AUTO", "TRITON", "FLASH", "TRITON_DECODE")


def check_kernel_options(options: object) -> None:
    """Raise UnsupportedSpec for what is no hint of FlexAttention's."""
    if not isinstance(options, Mapping):
        raise UnsupportedSpec(f"kernel_options: got {type(options).__name__}, wanted a dict of FlexKernelOptions")
    for key, value in options.items():
        name = str(key)
        plain = next((name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix)), name)
        if plain not in HINTS:
            raise UnsupportedSpec(f"kernel_options[{key!r}]: not an option; wanted some of {', '.join(sorted(HINTS))}")
        if plain == "BACKEND" and value not in BACKENDS:
            raise UnsupportedSpec(f"kernel_options['BACKEND']={value!r}: wanted one of {', '.join(BACKENDS)}")
