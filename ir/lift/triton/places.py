"""Flat offsets into tensors -> one index for each dimension, by the dimensions' strides; masks -> limits of axes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from ...dtypes import DType
from ...errors import UnsupportedKernel
from ...expr import Expr, Op, const, free_vars
from .poly import Integers, Poly, Term, added, scaled, to_expr
from .sizes import Monomial


@dataclass(slots=True)
class TensorInfo:
    """A tensor of the launcher: dims are numbers or sizes, strides products of sizes; weights order the strides."""

    name: str
    dtype: DType
    dims: tuple[Expr, ...]
    strides: tuple[Monomial, ...]
    weights: tuple[int, ...]
    role: str  # input, output, scratch
    contents: str = "data"


def decompose(tensor: TensorInfo, offset: Expr, integers: Integers, sizes: frozenset[str]) -> list[Poly]:
    """The index of each dimension: every term goes to the dimension of the largest stride that divides it.

    Numbers of instances that run over several dimensions (batch * head) are split at their border.
    Raises UnsupportedKernel for a term that no stride divides.
    """
    for _ in range(8):
        indices: list[Poly] = [{} for _ in tensor.dims]
        for term, coefficient in integers.poly(offset).items():
            position, left, factor = _dimension(tensor, term, coefficient, sizes)
            indices[position] = added(indices[position], {left: factor})
        if not _split_one(tensor, indices, integers):
            return _carried_over(tensor, indices, integers)
    raise UnsupportedKernel(f"an index of {tensor.name} cannot be told from its neighbours")


def _dimension(tensor: TensorInfo, term: Term, coefficient: int, sizes: frozenset[str]) -> tuple[int, Term, int]:
    best: tuple[int, int] | None = None
    names = Counter(str(atom.attr) for atom in term if atom.op is Op.VAR and str(atom.attr) in sizes)
    for position, (stride, weight) in enumerate(zip(tensor.strides, tensor.weights, strict=True)):
        if weight == 0 or tensor.dims[position] is const(1):
            continue
        fits = coefficient % stride.coefficient == 0 and not Counter(stride.names) - names
        if fits and (best is None or weight > best[0]):
            best = (weight, position)
    if best is None:
        text = to_expr({term: coefficient})
        raise UnsupportedKernel(f"the offset {text} into {tensor.name} is no multiple of a stride of it")
    stride = tensor.strides[best[1]]
    left = list(term)
    for name in stride.names:
        left.remove(next(atom for atom in left if atom.op is Op.VAR and atom.attr == name))
    return best[1], tuple(left), coefficient // stride.coefficient


def _split_one(tensor: TensorInfo, indices: list[Poly], integers: Integers) -> bool:
    """Split an instance's number that is larger than its dimension; whether there was one."""
    for position, index in enumerate(indices):
        for term in index:
            if len(term) != 1 or term[0].op is not Op.VAR:
                continue
            name = str(term[0].attr)
            extent = integers.extents.get(name)
            if name not in integers.splittable or extent is None or index[term] != 1:
                continue
            size, whole = integers.poly(tensor.dims[position]), integers.poly(extent)
            if size != whole and size != {(): 1} and integers.split(name, size):
                return True
    return False


def _carried_over(tensor: TensorInfo, indices: list[Poly], integers: Integers) -> list[Poly]:
    """A number that runs over two dimensions at once, computed in the kernel, is their quotient and rest."""
    for inner in range(len(indices) - 1, 0, -1):
        index, outer = indices[inner], inner - 1
        if indices[outer] or tensor.dims[outer] is const(1) or set(index) <= {()} or axis_terms(index):
            continue
        size = integers.poly(tensor.dims[inner])
        follows = integers.poly(tensor.strides[inner].expr() * tensor.dims[inner])
        if follows != integers.poly(tensor.strides[outer].expr()) or _stays_below(index, size, integers):
            continue
        whole = to_expr(index)
        indices[outer] = integers.poly(integers.divide(whole, tensor.dims[inner], is_rest=False))
        indices[inner] = integers.poly(integers.divide(whole, tensor.dims[inner], is_rest=True))
    return indices


def _stays_below(index: Poly, size: Poly, integers: Integers) -> bool:
    """Whether an index is a number of instances of its dimension, or of groups of them."""
    if len(index) != 1:
        return False
    ((term, _),) = index.items()
    if len(term) != 1:
        return False
    atom = term[0].args[0] if term[0].op is Op.FLOORDIV else term[0]
    extent = integers.extents.get(str(atom.attr)) if atom.op is Op.VAR else None
    if atom is not term[0]:
        return extent is not None
    return extent is not None and integers.poly(extent) == size


# Masks


def conjunction(mask: Expr | None) -> Iterator[Expr]:
    """The conditions that a mask joins with `and`."""
    if mask is None or (mask.op is Op.CONST and mask.attr is True):
        return
    if mask.op is Op.AND:
        for arg in mask.args:
            yield from conjunction(arg)
    else:
        yield mask


def axis_terms(poly: Poly) -> list[str]:
    """Names of the axis tokens that a polynomial reads, inside its atoms too."""
    found: dict[str, None] = {}
    for term in poly:
        for atom in term:
            found |= dict.fromkeys(name for name in sorted(free_vars(atom)) if name.startswith("axis."))
    return list(found)


def upper_limit(condition: Expr, integers: Integers) -> tuple[str, Poly] | None:
    """(axis, limit) of a condition that says axis < limit; None for others."""
    difference = _difference(condition, integers)
    if difference is None:
        return None
    axes = axis_terms(difference)
    if len(axes) != 1:
        return None
    own: Term = next((term for term in difference if len(term) == 1 and term[0].attr == axes[0]), ())
    if not own or difference[own] != -1 or len(axis_terms({t: c for t, c in difference.items() if t != own})):
        return None
    return axes[0], {term: coefficient for term, coefficient in difference.items() if term != own}


def is_lower_bound(condition: Expr, integers: Integers) -> bool:
    """Whether a condition only says that what cannot be negative is not."""
    difference = _difference(condition, integers)
    return difference is not None and added(difference, {(): -1}) == {
        term: coefficient for term, coefficient in added(difference, {(): -1}).items() if coefficient > 0
    }


def _difference(condition: Expr, integers: Integers) -> Poly | None:
    """d of a condition 0 < d."""
    if condition.op not in (Op.LT, Op.LE) or any(arg.kind.value != "int" for arg in condition.args):
        return None
    low, high = (integers.poly(arg) for arg in condition.args)
    difference = added(high, scaled(low, -1))
    return added(difference, {(): 1}) if condition.op is Op.LE else difference
