"""The public way in: `compile` a function or a spec into a Kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..ir.errors import SettingError, UnsupportedSpec
from ..ir.parser import parse_program
from ..ir.program import Program
from ..ir.spec import AttentionSpec
from .function_kernel import FunctionKernel
from .kernel import Kernel, Specialiser
from .options import Options
from .specialisers import SpecSpecialiser

if TYPE_CHECKING:
    from ..ir.transfer.models import EngineSettings

__all__ = ["compile"]

PROGRAM = "@program("


def compile(  # noqa: A001, PLR0913 - the name and the options are public contract
    spec: Callable[..., Any] | AttentionSpec,
    target: str = "auto",
    backward: bool = False,
    deterministic: bool | str = False,
    engine: str = "rules",
    *,
    arch: str | None = None,
    example: Sequence[torch.Tensor] | None = None,
    verify: bool = True,
    engine_options: Mapping[str, Any] | None = None,
    reference: Program | str | None = None,
) -> Kernel:
    """Make a fast attention kernel of a plain PyTorch function f(q, k, v, *captured) -> o.

    q [B, Hq, M, D], k [B, Hkv, N, D], v [B, Hkv, N, Dv] in float32, bfloat16 or float16 -> o [B, Hq, M, Dv].

    spec: the function, or an AttentionSpec. target: "cpu", "triton", or "auto" (the GPU if the tensors are
    on one). backward: the kernel may be differentiated, by q, k, v and floating captured tensors; the backward is
    compiled and verified at the first call with a tensor that requires grad. deterministic: gradients have the
    same bits in every run, for any number of threads and in any place of a batch (the forward always has);
    torch.use_deterministic_algorithms(True) asks for that as well; "safe" (as True), "greedy" or "ascending" names
    the order of sums (docs/determinism.md). arch: the target's architecture (None: this machine's).
    example: (q, k, v, *captured) to trace with at once; without it tracing waits for the first call.
    verify: check each specialisation against the function in fp64.

    engine: what makes the program. "rules" rewrites an expert's program; "llm" asks the language models that
    `engine_options` or the environment name, and takes what is verified; "auto" asks them for what the rules refuse.
    engine_options: models, base_url, samples, rounds, seconds, money, transcript, …; ir/transfer/models/settings.py
    has them all.

    reference: an expert's program (as `tw.lift` makes of Triton kernels) or its text; the kernel keeps its tiles, loops
    and order. None: ours, with tiles that suit the target. Engines that ask models take CUDA C++ as well.

    Raises UnsupportedSpec for what cannot be compiled, LoweringError for what the target cannot express,
    BuildError when the compiler fails, VerificationError when the kernel disagrees with the function,
    TransferFailed when models gave no right program within their limits.
    """
    settings = _engine_settings(engine, engine_options)
    is_foreign = settings is not None and isinstance(reference, str) and PROGRAM not in reference
    expert = parse_program(reference) if isinstance(reference, str) and not is_foreign else reference
    expert, source = (None, expert) if isinstance(expert, str) else (expert, "")
    options = Options(target, arch, backward, deterministic, engine, verify, settings, expert, source)
    kernel = _kernel(spec, options)
    if example is not None:
        kernel.prepare(*example)
    return kernel


def _kernel(spec: object, options: Options) -> Kernel:
    if options.engine == "rules" and callable(spec) and not isinstance(spec, AttentionSpec):
        return FunctionKernel(spec, options)
    return Kernel(_specialiser(spec, options), options=options)


def _engine_settings(engine: str, given: Mapping[str, Any] | None) -> EngineSettings | None:
    """Settings of an engine that asks models; what is certain to be missing later is refused now."""
    if engine not in ("llm", "auto"):
        if given:
            raise SettingError(f"engine_options with engine={engine!r}: only 'llm' and 'auto' have options")
        return None
    from ..ir.transfer.models import EngineSettings

    settings = EngineSettings.of(given)
    if engine == "llm" and not settings.models:
        raise SettingError("engine 'llm' needs the names of models: engine_options={'models': …} or TILEWRIGHT_MODELS")
    return settings


def _specialiser(spec: object, options: Options) -> Specialiser:
    if options.engine != "rules" and (isinstance(spec, AttentionSpec) or callable(spec)):
        from .engine_specialiser import AutoSpecialiser, ModelSpecialiser

        return (ModelSpecialiser if options.engine == "llm" else AutoSpecialiser)(spec, options)
    if isinstance(spec, AttentionSpec):
        return SpecSpecialiser(spec, options)
    raise UnsupportedSpec(
        f"compile takes a function f(q, k, v, *captured) or an AttentionSpec; got {type(spec).__name__}"
    )
