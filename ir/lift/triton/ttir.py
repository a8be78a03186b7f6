"""Triton's own IR of a recorded launch, compiled without a GPU and without specialising on the example's values."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...errors import UnsupportedKernel
from .blocks import block_pointers
from .capture import Launch

POINTERS = {
    "float64": "*fp64", "float32": "*fp32", "bfloat16": "*bf16", "float16": "*fp16", "int64": "*i64", "int32": "*i32",
    "int16": "*i16", "int8": "*i8", "uint8": "*u8", "bool": "*i1",
}  # fmt: skip
# Descriptors become plain addresses for this architecture, so that one reader serves every style.
CAPABILITY = 80


def ttir_of(launch: Launch, runtime: frozenset[str] = frozenset()) -> str:
    """The text. `runtime`: constants of the source that stay arguments here, because they vary with sizes.

    Raises UnsupportedKernel in the compiler's words.
    """
    from triton._C.libtriton import ir
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, make_backend

    signature, constants = signature_of(launch, runtime)
    target = GPUTarget("cuda", CAPABILITY, 32)
    with warnings.catch_warnings(), block_pointers():
        warnings.simplefilter("ignore")
        backend = make_backend(target)
        options = backend.parse_options({"num_warps": 4})
        context = ir.context()
        ir.load_dialects(context)
        backend.load_dialects(context)
        try:
            source = ASTSource(launch.function, signature, constants)
            module = source.make_ir(
                target, options, backend.get_codegen_implementation(options), backend.get_module_map(), context
            )
            return str(backend.make_ttir(module, {}, options, CAPABILITY))
        except Exception as error:
            name = launch.function.__name__
            raise UnsupportedKernel(f"Triton cannot compile {name}: {str(error).strip()[:600]}") from error


def signature_of(launch: Launch, runtime: frozenset[str]) -> tuple[dict[str, Any], dict[tuple[int, ...], Any]]:
    """Types and constants of the arguments."""
    signature: dict[str, Any] = {}
    constants: dict[tuple[int, ...], Any] = {}
    for position, (name, value) in enumerate(launch.arguments.items()):
        is_constant = name in launch.constants and name not in runtime
        signature[name] = _type(value, (position,), is_constant, constants)
    return signature, constants


def _type(value: Any, path: tuple[int, ...], is_constant: bool, constants: dict[tuple[int, ...], Any]) -> Any:
    if is_constant or value is None or isinstance(value, (bool, str)) or not _is_plain(value):
        constants[path] = value
        return "constexpr"
    if isinstance(value, (tuple, list)):
        return tuple(_type(item, (*path, n), False, constants) for n, item in enumerate(value))
    if type(value).__name__ == "TensorDescriptor":
        element = POINTERS[str(value.base.dtype).removeprefix("torch.")][1:]
        return f"tensordesc<{element}{list(value.block_shape)}>"
    if hasattr(value, "untyped_storage"):
        return POINTERS[str(value.dtype).removeprefix("torch.")]
    return "fp32" if isinstance(value, float) else "i32" if abs(value) < 2**31 else "i64"


def _is_plain(value: Any) -> bool:
    return isinstance(value, (int, float, tuple, list)) or hasattr(value, "untyped_storage") or hasattr(value, "base")


def leaves(arguments: Mapping[str, Any], signature: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(name, value) of every argument that the compiled kernel takes, in its order; descriptors are one."""
    for name, value in arguments.items():
        yield from _leaves(name, value, signature[name])


def _leaves(name: str, value: Any, kind: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(kind, tuple):
        for number, (item, inner) in enumerate(zip(value, kind, strict=True)):
            yield from _leaves(f"{name}[{number}]", item, inner)
    elif kind != "constexpr":
        yield name, value


def matched(formals: Sequence[str], given: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """(what, value) of every formal argument: descriptors come as a pointer, shapes, strides and options."""
    found: list[tuple[str, Any]] = []
    rest = list(formals)
    for name, value in given:
        if not rest:
            break
        first = rest.pop(0)
        if type(value).__name__ != "TensorDescriptor":
            found.append((name, value))
            continue
        found.append((name, value.base))
        while rest and rest[0].startswith(f"{first.split('~')[0]}."):
            part = rest.pop(0)[len(first) + 1 :].split("_")[0].split(".")
            sizes = {"shape": value.shape, "stride": value.strides}.get(part[0])
            found.append((f"{name}.{'.'.join(part)}", False if sizes is None else int(sizes[int(part[1])])))
    if rest or len(found) != len(formals):
        raise UnsupportedKernel(f"the compiled kernel takes {len(formals)} arguments, {len(found)} were launched")
    return found
