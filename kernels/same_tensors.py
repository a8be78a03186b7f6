"""Whether a program and a function take the same tensors: what must hold before the two are compared."""

from __future__ import annotations

from ..ir.errors import ShapeError
from ..ir.program import Program
from ..ir.spec import AttentionSpec, TensorSpec

__all__ = ["check_same_tensors", "input_tensors"]


def input_tensors(program: Program) -> tuple[TensorSpec, ...]:
    """The tensors that a program takes, in order."""
    return tuple(TensorSpec(p.name, p.dtype, p.dims) for p in program.params if not p.is_output)


def check_same_tensors(program: Program, spec: AttentionSpec) -> None:
    """Refuse to compare a program with a function of other tensors."""
    inputs = input_tensors(program)
    if len(inputs) != len(spec.tensors):
        raise ShapeError(
            f"program {program.name} takes {len(inputs)} tensors, function {spec.name} {len(spec.tensors)}"
        )
    for ours, theirs in zip(inputs, spec.tensors, strict=True):
        if (ours.dtype, ours.dims) != (theirs.dtype, theirs.dims):
            raise ShapeError(
                f"{ours.name}: program {program.name} takes {_typed(ours)}, function {spec.name} {_typed(theirs)}"
            )
    wanted = {"D": spec.head_dim, "Dv": spec.value_dim}
    for name, size in wanted.items():
        if program.fixed.get(name, size) != size:
            raise ShapeError(
                f"program {program.name} has {name}={program.fixed[name]}, function {spec.name} was traced "
                f"with {name}={size}; give matching example tensors"
            )


def _typed(tensor: TensorSpec) -> str:
    return f"{tensor.dtype.value}[{', '.join(map(str, tensor.dims))}]"
