"""lift_around(function, example): read a function that is attention with steps before and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import torch

from ...algebra import simplify
from ...dtypes import DType, Kind
from ...errors import ShapeError, UnsupportedSpec
from ...evaluate import Array
from ...expr import Expr, Op, load, substitute, var
from ...integers import polynomial
from ...reference import reference
from ...spec import BATCH, COLUMN, HEAD, ROW, AttentionSpec, Normaliser, TensorSpec
from ..arguments import ASSUMPTIONS, Arguments, Assumption, check_arguments
from ..constants import CONSTANT
from ..location import refuse
from ..recognise import Recognised
from ..selfcheck import MOST_SCORES, SIZES, TOLERANCE, run_function, sample
from ..torch_function import ELEMENT, HeadNames, as_float, captured_tensors, identifier, requirements, traced
from .composite import Composite, Core, Made, names_in
from .products import GROUP, Products, by_query_head, deep_loads
from .read import CoreReader, Reader
from .results import layout_of

LENGTHS = {BATCH: "B", HEAD: "Hq", ROW: "M", COLUMN: "N"}


def lift_around(function: Callable[..., Any], example: Sequence[Any], name: str | None = None) -> Composite:
    """The attentions in a function f(q, k, v, *captured), and what is computed before and after them.

    Raises UnsupportedSpec for what cannot be read, ShapeError and DTypeError for a bad example.
    """
    arguments = check_arguments(function, example)
    title = identifier(str(name or getattr(function, "__name__", type(function).__name__)))
    refusal: UnsupportedSpec | None = None
    for assumption in ASSUMPTIONS:
        try:
            composite = _Lifting(function, arguments, title, assumption).composite()
            composite.sizes(arguments.tensors)
        except (UnsupportedSpec, ShapeError) as error:
            refusal = refusal or (error if isinstance(error, UnsupportedSpec) else UnsupportedSpec(str(error)))
            continue
        check_composite(function, arguments.tensors, composite)
        return composite
    assert refusal is not None
    raise refusal


class _Lifting:
    """One reading under one assumption."""

    def __init__(self, function: Callable[..., Any], arguments: Arguments, name: str, assumption: Assumption) -> None:
        self.arguments = arguments
        self.name = name
        self.products = Products(arguments.group)
        self.tracer, self.fakes, self.result = traced(function, arguments, assumption, self.products)
        self.rename = HeadNames(arguments.group)

    def composite(self) -> Composite:
        """The function read."""
        t, (q, k, v) = self.tracer, self.fakes[:3]
        sizes = (t.size(q.shape[0]), t.size(q.shape[1]), t.size(q.shape[2]), t.size(v.shape[3]))
        index = (BATCH, HEAD, ROW, var(ELEMENT))
        for variable, size in zip(index, sizes, strict=True):
            t.ranges[str(variable.attr)] = size
        t.ranges[str(COLUMN.attr)], t.ranges[str(GROUP.attr)] = t.size(k.shape[2]), t.size(k.shape[1])
        shape = [t.size(size) for size in self.result.shape]
        layout = layout_of(t, shape, sizes)
        if layout is None:
            wanted = [self.rename(size) for size in sizes]
            raise refuse(f"the result has shape {shape}, wanted [B, Hq, M, Dv] = {wanted} in some order", t.last)
        at = tuple(t.simplified(e) for e in layout.index(index, sizes))
        element = t.value(self.result).at(at)
        dims = {
            name: tuple(map(t.size, fake.shape)) for name, fake in zip(self.arguments.names, self.fakes, strict=True)
        }
        reader = Reader(t, self.arguments.group, var(ELEMENT), dims)
        result = reader.read(element)
        captured = captured_tensors(t, self.arguments, self.fakes, self.rename)
        if not reader.cores:
            raise refuse("no sum over keys of a softmax (or of other weights of q . k) times v was found", t.last)
        cores = tuple(self._core(core, found, captured) for core, found in reader.cores)
        for e in (result, *(made.element for core in cores for made in core.inputs)):
            self._refuse_constants(e)
        spec = cores[0].spec
        arguments = (*_plain_tensors(spec.dtype, q.shape[3], v.shape[3]), *captured)
        return Composite(
            self.name, arguments, cores, result, tuple(str(e.attr) for e in index), layout,
            requirements(t, self.fakes, self.rename), t.reductions, t.ranges,
        )  # fmt: skip

    def _refuse_constants(self, e: Expr) -> None:
        """Tensors of the surrounding Python code are arguments; see `kernels/function_kernel.py`."""
        for node in deep_loads(self.tracer, e):
            if str(node.attr).startswith(CONSTANT):
                raise refuse(
                    "a tensor of the surrounding Python code is used whose elements differ",
                    self.tracer.origins.get(node, self.tracer.last),
                    "pass it to the function as a further argument",
                )

    def _core(self, reader: CoreReader, found: Recognised, captured: tuple[TensorSpec, ...]) -> Core:
        product, value, t = reader.product, reader.value, self.tracer
        assert product is not None
        assert value is not None
        group = self.arguments.group
        is_per_head = any(str(HEAD.attr) in t.free(e) for e in (product.right, value))
        shared = HEAD if is_per_head else GROUP
        right, value = (by_query_head(e, group) if is_per_head else e for e in (product.right, value))
        element = var(ELEMENT)
        made = [
            self._argument("q", product.left, (BATCH, HEAD, ROW, product.depth)),
            self._argument("k", right, (BATCH, shared, COLUMN, product.depth)),
            self._argument("v", value, (BATCH, shared, COLUMN, element)),
        ]
        values = int(str(t.ranges[ELEMENT].attr))
        rule = found.normaliser
        roots = [found.score, found.keep, rule.sink, rule.weight, rule.after]
        score, keep, sink, weight, after = (e and self._sized(e, reader) for e in roots)
        extra = self._captured([e for e in (score, keep, sink, weight, after) if e is not None], reader, captured)
        assert score is not None
        assert keep is not None
        spec = AttentionSpec(
            name=self.name, dtype=_dtype(self.arguments.tensors[0]), head_dim=product.size, value_dim=values,
            group=1 if is_per_head else group, captured=tuple(tensor for tensor, _ in extra), score=as_float(score),
            keep=keep, normaliser=Normaliser(rule.kind, sink and as_float(sink), weight and as_float(weight),
                                             rule.epsilon, after and as_float(after)),
        )  # fmt: skip
        return Core(spec, (*made, *(one for _, one in extra)))

    def _argument(self, name: str, element: Expr, axes: tuple[Expr, ...]) -> Made:
        """q, k or v of a kernel; the function's own where nothing was done to it."""
        is_own = element.op is Op.LOAD and element.attr == name and element.args == axes
        sizes = self.fakes[("q", "k", "v").index(name)].shape
        is_whole = is_own and all(
            self.tracer.same(self.tracer.ranges[str(axis.attr)], self.tracer.size(size))
            for axis, size in zip(axes, sizes, strict=True)
        )
        return Made(tuple(str(axis.attr) for axis in axes), element, name if is_whole else None)

    def _sized(self, e: Expr, reader: CoreReader) -> Expr:
        """With the kernel's own N, where its keys are more or fewer than the function's, and our names of heads."""
        given = self.tracer.size(self.fakes[1].shape[2])
        own = polynomial(self.tracer.simplified(reader.columns - given))
        more = own.get((), 0)
        if own not in ({}, {(): more}):
            raise refuse(f"the keys are {reader.columns!r}, wanted those of k and a fixed number more", reader.where)
        self.tracer.ranges[str(COLUMN.attr)] = reader.columns
        shifted = substitute(e, {"N": var("N") - more}) if more else e
        return simplify(self.rename(shifted))

    def _captured(
        self, roots: Sequence[Expr], reader: CoreReader, captured: tuple[TensorSpec, ...]
    ) -> list[tuple[TensorSpec, Made]]:
        """The tensors that a kernel's expressions read, or whose sizes they use."""
        used = set[str]().union(*map(names_in, roots))
        found = []
        for tensor in captured:
            if used & {tensor.name, *(dim for dim in tensor.dims if isinstance(dim, str))} - set(LENGTHS.values()):
                axes = tuple(f"@a{n}" for n in range(len(tensor.dims)))
                kind = tensor.dtype.kind
                found.append((tensor, Made(axes, load(tensor.name, tuple(map(var, axes)), kind), tensor.name)))
        for place, body in reader.made.items():
            if place.attr in used:
                found.append(self._made(place, body))
        return found

    def _made(self, place: Expr, body: Expr) -> tuple[TensorSpec, Made]:
        dims = [LENGTHS.get(index) or self._dim(index) for index in place.args]
        dtype = {Kind.FLOAT: DType.F32, Kind.INT: DType.I32, Kind.BOOL: DType.BOOL}[body.kind]
        if self.arguments.tensors[0].dtype == torch.float64 and dtype is DType.F32:
            dtype = DType.F64
        return TensorSpec(str(place.attr), dtype, tuple(dims)), Made(tuple(str(i.attr) for i in place.args), body)

    def _dim(self, index: Expr) -> str | int:
        size = self.rename(self.tracer.ranges[str(index.attr)])
        return size.attr if isinstance(size.attr, (int, str)) else f"X{len(repr(size))}"


def _dtype(x: torch.Tensor) -> DType:
    from ..value import DTYPES

    return DTYPES[x.dtype]


def _plain_tensors(dtype: DType, head_dim: int, value_dim: int) -> tuple[TensorSpec, ...]:
    return AttentionSpec("plain", dtype, head_dim, value_dim).tensors


def check_composite(function: Callable[..., Any], example: Sequence[torch.Tensor], composite: Composite) -> None:
    """Raise UnsupportedSpec when what was read and the function disagree in fp64 on a size both accept."""
    q, k, v = example[:3]
    plain = AttentionSpec("plain", _dtype(q), q.shape[3], v.shape[3], q.shape[1] // k.shape[1], composite.tensors[3:])

    def takes(tensors: Sequence[torch.Tensor]) -> bool:
        try:
            composite.sizes(tensors)
        except ShapeError:
            return False
        return True

    def run(tensors: Sequence[torch.Tensor]) -> Array:
        attend = lambda n, inputs: exact_output(composite.cores[n].spec, inputs)  # noqa: E731
        return np.asarray(composite(tensors, attend, torch.float64).numpy())

    error = worst_error(function, example, plain, takes, run)
    if error is None:
        raise UnsupportedSpec(f"the lifted form of {composite.name} could not be compared with the function")
    if not error <= TOLERANCE:
        raise UnsupportedSpec(
            f"the lifted form of {composite.name} differs from the function by {error:.2e}; "
            "this is a defect of the lift: please report it with the function"
        )


def worst_error(
    function: Callable[..., Any],
    example: Sequence[torch.Tensor],
    plain: AttentionSpec,
    takes: Callable[[Sequence[torch.Tensor]], bool],
    run: Callable[[Sequence[torch.Tensor]], Array | None],
) -> float | None:
    """The largest relative error of `run` against the function on sizes that both take; inf where it gives nothing.

    None where there are no such sizes. plain: dims and types of the arguments. The example's own sizes are tried too,
    where they are large only if no others can be.
    """
    q, k = example[:2]
    given = {"B": k.shape[0], "Hkv": k.shape[1], "M": q.shape[2], "N": k.shape[2]}
    errors: list[float] = []
    for sizes in (*SIZES, given):
        if errors and prod(sizes.values()) > MOST_SCORES:
            continue
        tensors = sample(example, plain, sizes)
        expected = run_function(function, tensors) if takes(tensors) else None
        if expected is not None:
            got = run(tensors)
            errors.append(float("inf") if got is None else error_where_defined(got, expected))
    return None if not errors else float(np.max(errors))  # NaN where one is


def exact_output(spec: AttentionSpec, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """The output of a spec's formula, with NaN in rows that keep nothing: those are defined by us."""
    o, lse = reference(spec, *(x.numpy() for x in inputs))
    return torch.from_numpy(np.where(np.isneginf(lse)[..., None], np.nan, o))


def error_where_defined(got: Array, expected: Array) -> float:
    """Largest error relative to 1 + |expected| where rows keep a column."""
    if got.shape != expected.shape:
        return float("inf")
    rows = ~np.isnan(got)
    if not rows.any():
        return 0.0
    return float((np.abs(got - expected)[rows] / (1.0 + np.abs(expected[rows]))).max())
