"""A launcher of Triton kernels -> a Program in the raw form: statement by statement what the kernels do."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...dtypes import DType
from ...errors import TilewrightError, UnsupportedKernel
from ...expr import Expr, Op, const, load, substitute, var
from ...program import Alloc, Param, Program, Statement
from ...verify import verify
from .axes import AxisFinder
from .capture import Launch, Run, capture, storage_of
from .elementwise import single
from .emit import Emitter
from .grids import Shared
from .naming import KEPT_NAMES, Names
from .places import TensorInfo
from .program import finish, size_names, whole_names, zero_grids
from .reader import Reader
from .sizes import Monomial, SizeTable, columns
from .text import Function, Type, parse_ttir
from .ttir import leaves, matched, signature_of, ttir_of
from .values import Value
from .whiles import counted

TORCH_TYPES = {
    "float64": DType.F64, "float32": DType.F32, "bfloat16": DType.BF16, "float16": DType.F16, "int64": DType.I64,
    "int32": DType.I32, "int16": DType.I16, "int8": DType.I8, "uint8": DType.U8, "bool": DType.BOOL,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Lifted:
    """A lifted kernel: the program, Triton's IR of every launch, what the user should know."""

    program: Program
    ttir: tuple[str, ...]
    notes: tuple[str, ...] = ()
    numbers: tuple[tuple[str, str], ...] = ()  # sizes that are integer arguments of the launcher: (size, argument)
    scratch: tuple[tuple[str, int, int], ...] = ()  # sizes of the launcher's own memory: (size, its number, dimension)
    renamed: tuple[tuple[str, str], ...] = ()  # inputs whose arguments have names that programs use: (input, argument)

    def arguments(self, launch: Callable[..., Any], example: Sequence[Any]) -> dict[str, Any]:
        """The launcher's arguments by the program's names: tensors of its parameters, integers of its sizes."""
        bound = inspect.signature(launch).bind(*example)
        bound.apply_defaults()
        renamed = dict(self.renamed)
        names = {p.name: renamed.get(p.name, p.name) for p in self.program.params}
        found = {name: bound.arguments[own] for name, own in names.items() if own in bound.arguments}
        outputs = {p.name for p in self.program.params if p.is_output}
        tensors = {name: _as_tensor(value) for name, value in found.items() if name not in outputs}
        sizes = {size: bound.arguments[argument] for size, argument in self.numbers}
        own = list(capture(launch, example).fresh.values()) if self.scratch else []
        sizes |= {size: int(own[number][0].shape[dim]) for size, number, dim in self.scratch}
        return tensors | sizes


def lift_triton(launch: Callable[..., Any], examples: Sequence[Sequence[Any]], name: str | None = None) -> Lifted:
    """The program of what `launch(*example)` does on the GPU.

    examples: at least two argument tuples whose sizes differ in everything that may vary; equal sizes are taken to be
    one size. No kernel runs. Raises UnsupportedKernel, naming the operation and its line, for what is out of reach.
    """
    if len(examples) < 2:
        raise UnsupportedKernel("at least two examples of different sizes tell which number is which size; got one")
    runs = [capture(launch, example) for example in examples]
    lifter = _Lifter(runs, name or str(getattr(launch, "__name__", "kernel")))
    program = lifter.program()
    try:
        verify(program)
    except TilewrightError as error:
        raise UnsupportedKernel(f"the kernel has no valid form in the program language: {error}") from error
    notes, renamed = tuple(dict.fromkeys(lifter.notes)), tuple(lifter.renamed.items())
    return Lifted(program, tuple(lifter.ttir), notes, lifter.numbers, lifter.own_sizes(), renamed)


def _as_tensor(value: Any) -> Any:
    import torch

    return torch.tensor(value) if isinstance(value, float) else value


class _Lifter:
    """State of lifting one launcher."""

    def __init__(self, runs: list[Run], name: str) -> None:
        self.runs = runs
        self.name = name
        self.table = SizeTable()
        self.tensors: dict[str, TensorInfo] = {}
        self.by_storage: list[dict[int, str]] = [{} for _ in runs]
        self.scalars: dict[str, Any] = {}
        self.inputs: list[str] = []
        self.renamed: dict[str, str] = {}
        self.scratch: dict[str, int] = {}
        self.ttir: list[str] = []
        self.notes: list[str] = list(runs[0].notes)
        self.readers: list[tuple[Reader, AxisFinder, Launch]] = []

    def program(self) -> Program:
        """Read all launches, then name sizes and axes, then write."""
        self.size_names: Mapping[str, str] = {}
        self.numbers: tuple[tuple[str, str], ...] = ()
        self._check_runs()
        self._user_arguments()
        self._fresh_tensors()
        self._padded_dims()
        self.names = Names([*self.tensors, *self.scalars, self.name])
        for position in range(len(self.runs[0].launches)):
            self._read(position)
        sizes = frozenset(self.table.values)
        for _, finder, _ in self.readers:
            finder.sizes = sizes
            finder.run()
        shared = Shared(self.tensors, sizes, {})
        shared.size_names = size_names(self.tensors, self.inputs, [finder for _, finder, _ in self.readers], sizes)
        self.size_names = shared.size_names
        self.numbers = tuple((shared.size_names[s], s) for s in sorted(sizes) if s in self.runs[0].arguments)
        shared.whole, fixed = whole_names(self.tensors, self.inputs, [finder for _, finder, _ in self.readers])
        grids: list[Statement] = []
        for reader, finder, launch in self.readers:
            warps, stages = launch.options.get("num_warps"), launch.options.get("num_stages")
            grids.append(Emitter(reader, finder, shared, warps, stages or 1).grid())
            self.notes += reader.notes
        return self._assembled(shared, fixed, grids)

    def own_sizes(self) -> tuple[tuple[str, int, int], ...]:
        """Sizes that only memory of the launcher's own has: the size, the number of the memory, the dimension."""
        found = []
        for name, number in self.scratch.items():
            for position, dim in enumerate(self.tensors[name].dims):
                if dim.op is Op.VAR and str(dim.attr) == f"{name}.{position}":
                    found.append((self.size_names[str(dim.attr)], number, position))
        return tuple(found)

    def _check_runs(self) -> None:
        kernels = [[launch.function.__name__ for launch in run.launches] for run in self.runs]
        if any(names != kernels[0] for names in kernels):
            raise UnsupportedKernel(
                f"the launcher launches other kernels for other sizes: {kernels}; write inputs(…) whose sizes, and the "
                "next larger ones, take one way through it"
            )

    # Arguments and memory

    def _user_arguments(self) -> None:
        for name in self.runs[0].arguments:
            values = [run.arguments[name] for run in self.runs]
            if all(hasattr(value, "untyped_storage") for value in values):
                self.inputs.append(self._tensor(self._own_name(name), values, "input", "data"))
            elif all(isinstance(value, int) and not isinstance(value, bool) for value in values):
                if len(set(values)) > 1:
                    self.table.dimension(tuple(values), name)
            elif all(isinstance(value, float) for value in values) and len(set(values)) > 1:
                self.inputs.append(self._own_name(name))
                self.scalars[self.inputs[-1]] = values

    def _own_name(self, argument: str) -> str:
        """An input's name: the argument's, unless programs use that for something else."""
        name = argument
        while name in KEPT_NAMES or (name != argument and name in self.runs[0].arguments):
            name += "_in"
        if name != argument:
            self.renamed[name] = argument
            self.notes.append(f"argument {argument} is {name} in the program")
        return name

    def _fresh_tensors(self) -> None:
        """Memory of the launcher's own: what it returns are outputs, the rest is scratch."""
        for position, result in enumerate(self.runs[0].returned):
            values = [run.returned[position] for run in self.runs]
            if storage_of(result) not in self.by_storage[0] and storage_of(result) in self.runs[0].fresh:
                self._tensor(self._argument_name(result, f"out_{position}"), values, "output", self._contents(result))
            elif storage_of(result) not in self.by_storage[0]:
                raise UnsupportedKernel(f"result {position} of the launcher is computed after its last launch")
        for number, (storage, (_, contents)) in enumerate(list(self.runs[0].fresh.items())):
            if storage in self.by_storage[0]:
                continue
            values = [list(run.fresh.values())[number][0] for run in self.runs]
            if contents == "data":
                name = self._argument_name(values[0], "an argument")
                raise UnsupportedKernel(f"{name} is computed by the launcher before the launch; only empty or zero "
                                        "memory may be made there")  # fmt: skip
            name = self._tensor(self._argument_name(values[0], f"scratch_{number}"), values, "scratch", contents)
            self.scratch[name] = number

    def _contents(self, tensor: Any) -> str:
        return self.runs[0].fresh[storage_of(tensor)][1]

    def _argument_name(self, tensor: Any, otherwise: str) -> str:
        for launch in self.runs[0].launches:
            for name, value in launch.arguments.items():
                base = getattr(value, "base", value) if type(value).__name__ == "TensorDescriptor" else value
                if hasattr(base, "untyped_storage") and storage_of(base) == storage_of(tensor):
                    plain = "".join(c if c.isalnum() else "_" for c in name).lower()
                    plain = plain.removesuffix("_ptr").removeprefix("desc_").strip("_") or otherwise
                    return {"out": "o"}.get(plain, plain)
        return otherwise

    def _tensor(self, wanted: str, values: list[Any], role: str, contents: str) -> str:
        name = wanted
        while name in self.tensors or (role != "input" and (name in KEPT_NAMES or name in self.scalars)):
            name += "_out" if role == "output" else "_"
        if any(value.dim() != values[0].dim() for value in values):
            raise UnsupportedKernel(f"{name} has other dimensions in other examples")
        is_own = role == "scratch" and contents == "empty"
        dims = [
            self.table.dimension(v, f"{name}.{n}", is_product=is_own)
            for n, v in enumerate(columns([t.shape for t in values]))
        ]
        kind = str(values[0].dtype).removeprefix("torch.")
        if kind not in TORCH_TYPES:
            own = self.renamed.get(name, name)
            raise UnsupportedKernel(f"{own} has elements of {kind}; known are {', '.join(TORCH_TYPES)}")
        self._pending = getattr(self, "_pending", [])
        self.tensors[name] = TensorInfo(
            name, TORCH_TYPES[kind], tuple(dims), (),
            tuple(int(s) for s in values[0].stride()), role, contents,
        )  # fmt: skip
        self._pending.append((name, columns([t.stride() for t in values])))
        for known, value in zip(self.by_storage, values, strict=True):
            known.setdefault(storage_of(value), name)
        return name

    def _padded_dims(self) -> None:
        """Rows that the launcher's own memory has beyond a size, up to whole blocks, are not in the program."""
        known = {str(d.attr) for n in self.inputs if n in self.tensors for d in self.tensors[n].dims if d.op is Op.VAR}
        for name, tensor in self.tensors.items():
            dims = list(tensor.dims)
            for position, dim in enumerate(dims):
                if tensor.role == "input" or dim.op is not Op.VAR or str(dim.attr) in known:
                    continue
                exact = self.table.rounded(self.table.values[str(dim.attr)], known)
                if exact is not None:
                    dims[position] = var(exact)
                    self.notes.append(f"{name} has rows beyond {exact}, up to whole blocks; the program's has none")
            tensor.dims = tuple(dims)

    def _strides(self) -> None:
        """Strides as products of sizes, once all sizes are known."""
        for name, strides in self._pending:
            found: list[Monomial] = []
            for position, values in enumerate(strides):
                product = self.table.stride(values, self.tensors[name].dims)
                if product is None:
                    raise UnsupportedKernel(f"stride {position} of {name} is {list(values)}, no product of sizes")
                found.append(product)
            self.tensors[name].strides = tuple(found)
        self._pending = []

    # Kernels

    def _read(self, position: int) -> None:
        launches = [run.launches[position] for run in self.runs]
        first = launches[0]
        self.table.prefer(v for name, v in first.arguments.items() if type(v) is int and name not in first.constants)
        self.table.prefer(first.arguments[name] for name in first.constants if type(first.arguments[name]) is int)
        self._strides()
        varying = self._varying_constants(launches)
        text = ttir_of(first, varying)
        signature, _ = signature_of(first, varying)
        self.ttir.append(text)
        function = self._kernel(text, first)
        formals = [name for name, _ in function.arguments]
        named = [matched(formals, list(leaves(launch.arguments, signature))) for launch in launches]
        arguments = {
            formal: self._argument(function.name, named[0][n][0], [row[n][1] for row in named], kind)
            for n, (formal, kind) in enumerate(function.arguments)
        }
        grid = [
            self.table.identify(values, f"extent {axis} of {function.name}'s grid")
            for axis, values in enumerate(columns([launch.grid for launch in launches]))
        ]
        reader = Reader(function, arguments, grid, self.names, f"k{position}." if position else "")
        reader.integers.quotients = self.table.quotients()
        reader.read()
        finder = AxisFinder(reader, self.tensors, frozenset(self.table.values))
        self.readers.append((reader, finder, first))

    def _kernel(self, text: str, launch: Launch) -> Function:
        functions = parse_ttir(text, counted)
        found = [function for function in functions if function.name == launch.function.__name__] or list(functions)
        return found[0]

    def _varying_constants(self, launches: list[Launch]) -> frozenset[str]:
        """Constants of the source that vary with the sizes (a ratio of heads) are read as arguments."""
        names = [
            name for name in launches[0].constants
            if len({_hashable(launch.arguments[name]) for launch in launches}) > 1
        ]  # fmt: skip
        for name in names:
            if not all(type(launch.arguments[name]) is int for launch in launches):
                raise UnsupportedKernel(f"constant {name} of {launches[0].function.__name__} varies with the sizes")
        return frozenset(names)

    def _argument(self, kernel: str, name: str, values: list[Any], kind: Type) -> Value:
        what = f"argument {name} of {kernel}"
        if hasattr(values[0], "untyped_storage"):
            base = self.by_storage[0].get(storage_of(values[0]))
            if base is None:
                raise UnsupportedKernel(f"{what} is no tensor of the launcher's arguments or its own")
            starts = tuple(value.storage_offset() for value in values)
            offset = self.table.identify(starts, f"the start of {what}") if any(starts) else const(0)
            return Value((), kind.element, offset, None, base)
        if isinstance(values[0], bool):
            if len(set(values)) > 1:
                raise UnsupportedKernel(f"{what} is {values} in the examples")
            return Value((), kind.element, const(values[0]))
        if isinstance(values[0], float):
            if len(set(values)) == 1:
                return Value((), kind.element, const(single(values[0])))
            for scalar, there in self.scalars.items():
                if there == values:
                    return Value((), kind.element, load(scalar, (), DType.F32.kind))
            raise UnsupportedKernel(f"{what} is {values} in the examples: a number that varies and is no argument")
        return Value((), kind.element, self.table.identify(tuple(int(v) for v in values), what))

    # The program

    def _assembled(self, shared: Shared, fixed: dict[str, int], grids: list[Statement]) -> Program:
        dims = {n: self._dims(t, shared) for n, t in self.tensors.items()}
        written = _written(grids)
        params: list[Param] = []
        for name in self.inputs:
            if name in self.scalars:
                params.append(Param(name, DType.F32, ()))
            elif name not in written:
                params.append(Param(name, self.tensors[name].dtype, dims[name]))
        outputs = [n for n, t in self.tensors.items() if t.role == "output" or (t.role == "input" and n in written)]
        params += [Param(name, self.tensors[name].dtype, dims[name], True) for name in outputs]
        allocs: list[Statement] = [
            Alloc(name, tensor.dtype, tuple(_extent(*d, shared) for d in zip(tensor.dims, dims[name], strict=True)))
            for name, tensor in self.tensors.items() if tensor.role == "scratch" and name in written
        ]  # fmt: skip
        body = (*allocs, *zero_grids(self.tensors, dims, grids, self.names), *grids)
        names = {old: new for old, new in shared.size_names.items() if ":" not in old}
        program = Program(self.name, tuple(params), body, (), tuple(fixed.items()))
        return finish(program, {old: var(new) for old, new in names.items()}, self.table, self.tensors)

    def _dims(self, tensor: TensorInfo, shared: Shared) -> tuple[str | int, ...]:
        found: list[str | int] = []
        for position, dim in enumerate(tensor.dims):
            whole = shared.whole.get((tensor.name, position))
            if whole is not None:
                found.append(whole)
            elif dim.op is Op.CONST:
                found.append(int(dim.attr))  # type: ignore[call-overload]
            else:
                found.append(shared.size_names.get(str(dim.attr), str(dim.attr)))
        return tuple(found)


def _hashable(value: Any) -> Any:
    return value if isinstance(value, (int, float, str, bool, type(None))) else repr(value)


def _written(grids: list[Statement]) -> set[str]:
    from ...program import ReduceAdd, Store, statements

    return {s.target.name for s in statements(tuple(grids)) if isinstance(s, (Store, ReduceAdd))}


def _extent(dim: Expr, name: str | int, shared: Shared) -> Expr:
    """A dimension of the program's own memory: a product of sizes, a number or a name."""
    if dim.op is Op.MUL:
        return substitute(dim, {old: var(new) for old, new in shared.size_names.items()})
    return const(name) if isinstance(name, int) else var(name)
