"""lift(function, example): trace a PyTorch function symbolically, read off the spec, check it against the function."""

from __future__ import annotations

import keyword
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from ..algebra import simplify
from ..dtypes import Kind
from ..errors import TilewrightError, UnsupportedSpec
from ..expr import Expr, Op, apply, const, transform, var
from ..integers import expression, polynomial
from ..spec import AttentionSpec, Normaliser, TensorSpec
from .arguments import ASSUMPTIONS, Arguments, Assumption, check_arguments, make_fakes
from .functions import Definitions, symbolic_math
from .location import Location, here, refuse, user_file
from .recognise import Recognised, Recogniser
from .selfcheck import check_lifted, holds
from .sizes import Sizes
from .tracer import Tracer
from .value import DTYPES

if TYPE_CHECKING:
    from .around.products import Products

ELEMENT = "@e"


def lift(function: Callable[..., Any], example: Sequence[Any], name: str | None = None) -> AttentionSpec:
    """The AttentionSpec of a PyTorch function f(q, k, v, *captured) -> o.

    example: q [B, Hq, M, D], k [B, Hkv, N, D], v [B, Hkv, N, Dv] and the captured tensors; their types,
    D, Dv and Hq / Hkv become part of the spec, their sizes do not. Raises UnsupportedSpec with the line of
    the function and the reason where it cannot be compiled, ShapeError and DTypeError for a bad example.
    """
    arguments = check_arguments(function, example)
    title = identifier(str(name or getattr(function, "__name__", type(function).__name__)))
    spec = _first_that_holds(function, arguments, title)
    check_lifted(function, arguments.tensors, spec)
    return spec


def _first_that_holds(function: Callable[..., Any], arguments: Arguments, name: str) -> AttentionSpec:
    """The most general reading of the function that holds for the example; the first refusal where none does."""
    refusal: UnsupportedSpec | None = None
    needed = ""
    for assumption in ASSUMPTIONS:
        try:
            spec = _lift_once(function, arguments, name, assumption)
        except UnsupportedSpec as error:
            refusal = refusal or error
            continue
        if holds(spec, arguments.tensors):
            return spec
        needed = needed or repr(spec.requires)
    raise refusal or UnsupportedSpec(f"{name} needs sizes with {needed}, which the example does not have")


def identifier(name: str) -> str:
    """A name that spec text can hold; lambdas are called attention."""
    plain = "".join(c if c.isalnum() or c == "_" else "_" for c in name).strip("_")
    is_name = plain.isidentifier() and not keyword.iskeyword(plain)
    return plain if is_name else f"attention_{plain}" if plain and plain != "lambda" else "attention"


def _lift_once(function: Callable[..., Any], arguments: Arguments, name: str, assumption: Assumption) -> AttentionSpec:
    tracer, fakes, result = traced(function, arguments, assumption)
    recognised = read_result(tracer, arguments, fakes, result, tracer.last)
    return spec_of(name, tracer, arguments, fakes, recognised)


def traced(
    function: Callable[..., Any], arguments: Arguments, assumption: Assumption, products: Products | None = None
) -> tuple[Tracer, tuple[torch.Tensor, ...], Any]:
    """What a function does with fake tensors of symbolic sizes: the trace, its arguments and its result."""
    sizes = Sizes()
    fakes = make_fakes(sizes, arguments, assumption)
    tracer = Tracer(sizes, user_file(function), products=products)
    for fake, tensor_name in zip(fakes, arguments.names, strict=True):
        tracer.bind_argument(fake, tensor_name)
    return tracer, fakes, first_tensor(run_traced(function, tracer, fakes), tracer.last)


def first_tensor(result: Any, where: Location | None) -> torch.Tensor:
    """The result, or the first of several. Raises UnsupportedSpec where that is no tensor."""
    if isinstance(result, (tuple, list)) and result and isinstance(result[0], torch.Tensor):
        result = result[0]
    if not isinstance(result, torch.Tensor):
        raise refuse(f"the function returns {type(result).__name__}, not a tensor", where)
    return result


def run_traced(function: Callable[..., Any], tracer: Tracer, fakes: tuple[torch.Tensor, ...]) -> Any:
    """The fake result of the function."""
    try:
        modes = (torch.no_grad(), enable_python_dispatcher(), tracer.sizes.mode, tracer, Definitions(tracer.file))
        with ExitStack() as stack:
            for mode in (*modes, symbolic_math()):
                stack.enter_context(mode)
            result = function(*fakes)
    except TilewrightError:
        raise
    except GuardOnDataDependentSymNode as error:
        raise refuse("the function's Python code depends on the data in a tensor", _raised(error, tracer)) from error
    except Exception as error:
        what = tracer.sizes.readable(str(error).partition("\n")[0])
        reason = f"the function raised {type(error).__name__}: {what}"
        raise refuse(reason, _raised(error, tracer)) from error
    tracer.sizes.settle()
    return result


def _raised(error: BaseException, tracer: Tracer) -> Location | None:
    """The innermost line of the user's file on an error's traceback."""
    found = None
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == tracer.file:
            found = Location(traceback.tb_frame.f_code.co_filename, traceback.tb_lineno)
        traceback = traceback.tb_next
    return found or here(tracer.file)


def read_result(
    tracer: Tracer, arguments: Arguments, fakes: tuple[torch.Tensor, ...], result: torch.Tensor, where: Location | None
) -> Recognised:
    _check_shape(tracer, fakes, result, where)
    q, _, v = fakes[:3]
    wanted = (q.shape[0], q.shape[1], q.shape[2], v.shape[3])
    index = tuple(var(n) for n in ("b", "h", "i", ELEMENT))
    for variable, size in zip(index, wanted, strict=True):
        tracer.ranges[str(variable.attr)] = tracer.size(size)
    recogniser = Recogniser(tracer, arguments.group, index[-1], where)
    return recogniser.read(tracer.value(result).at(index))


def _check_shape(tracer: Tracer, fakes: tuple[torch.Tensor, ...], result: torch.Tensor, where: Location | None) -> None:
    q, _, v = fakes[:3]
    wanted = [tracer.size(s) for s in (q.shape[0], q.shape[1], q.shape[2], v.shape[3])]
    got = [tracer.size(s) for s in result.shape]
    if len(got) == 4 and all(tracer.same(a, b) for a, b in zip(got, wanted, strict=True)):
        return
    if len(got) == 4 and are_equal(result.shape, (q.shape[0], q.shape[1], q.shape[2], v.shape[3])):
        return
    order = [wanted[n] for n in (0, 2, 1, 3)]
    hint = None
    if len(got) == 4 and all(tracer.same(a, b) for a, b in zip(got, order, strict=True)):
        hint = "the result is [B, M, Hq, Dv]: return it with .transpose(1, 2)"
    elif len(got) == 3:
        hint = "the heads are merged: return the result before they are, as [B, Hq, M, Dv]"
    raise refuse(f"the result has shape {got}, wanted [B, Hq, M, Dv] = {wanted}", where, hint)


def are_equal(sizes: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether sizes are equal here; what is not certain becomes a requirement of the function."""
    return all(bool(a == b) for a, b in zip(sizes, others, strict=True))


def spec_of(
    name: str, tracer: Tracer, arguments: Arguments, fakes: tuple[torch.Tensor, ...], found: Recognised
) -> AttentionSpec:
    q, _, v = arguments.tensors[:3]
    rename = HeadNames(arguments.group)
    captured = captured_tensors(tracer, arguments, fakes, rename)
    rule = found.normaliser
    return AttentionSpec(
        name=name, dtype=DTYPES[q.dtype], head_dim=q.shape[3], value_dim=v.shape[3], group=arguments.group,
        captured=captured, score=as_float(rename(found.score)), keep=rename(found.keep),
        normaliser=Normaliser(rule.kind, rule.sink and as_float(rename(rule.sink)),
                              rule.weight and as_float(rename(rule.weight)), rule.epsilon,
                              rule.after and as_float(rename(rule.after))),
        requires=requirements(tracer, fakes, rename),
    )  # fmt: skip


def captured_tensors(
    tracer: Tracer, arguments: Arguments, fakes: tuple[torch.Tensor, ...], rename: HeadNames
) -> tuple[TensorSpec, ...]:
    """The captured tensors with the names of their sizes."""
    return tuple(
        TensorSpec(tensor_name, DTYPES[fake.dtype], tuple(tracer.sizes.name(s, rename) for s in fake.shape))
        for tensor_name, fake in zip(arguments.names[3:], fakes[3:], strict=True)
    )


def requirements(tracer: Tracer, fakes: tuple[torch.Tensor, ...], rename: HeadNames) -> Expr:
    """The conjunction of what the trace needed of the sizes."""
    total = const(True)
    heads = tracer.size(fakes[0].shape[1])
    if heads.op is Op.CONST:
        total = apply(Op.EQ, var("Hq"), heads)
    for condition in tracer.sizes.requirements(rename):
        total = apply(Op.AND, total, condition)
    return simplify(total)


def as_float(e: Expr) -> Expr:
    """A FLOAT expression of the same value."""
    return e if e.kind is Kind.FLOAT else simplify(apply(Op.MUL, e, const(1.0)))


class HeadNames:
    """Hkv * group is called Hq."""

    def __init__(self, group: int) -> None:
        self.group = group

    def __call__(self, e: Expr) -> Expr:
        return simplify(transform(e, self._rename))

    def _rename(self, node: Expr) -> Expr | None:
        if node.op is Op.VAR and node.attr == "Hkv" and self.group == 1:
            return var("Hq")
        if node.kind is not Kind.INT or node.op not in (Op.ADD, Op.SUB, Op.MUL, Op.NEG):
            return None
        renamed = {}
        for monomial, coefficient in polynomial(node).items():
            if var("Hkv") in monomial and coefficient % self.group == 0:
                rest = [a for a in monomial if a is not var("Hkv")] + [var("Hq")] * monomial.count(var("Hkv"))
                renamed[tuple(rest)] = coefficient // self.group
            else:
                renamed[monomial] = coefficient
        return expression(renamed)
