"""The cpu target: C++ for the instruction set of this machine, compiled by the system compiler, loaded with ctypes."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...ir.errors import Deadlock, ScheduleError
from ...ir.program import Program
from ...ir.settings import PAIRED
from ..build import build_shared_library, load_shared_library
from ..target import Launch, Lowered
from ..toolchain import cpu_isa
from .kernel import render, size_names
from .reductions import evaluate_size, turn_numbers
from .storage import ALL_FLOATS, FLOATS

INCLUDES = Path(__file__).parent / "include"
SERIAL_PRODUCTS = 1 << 20  # some 25 microseconds of one core: waking others costs as much
LEAST_ROWS, LEAST_COLUMNS = 16, 64  # few rows cost as much as this many, keys are packed by this many
_workspace = threading.local()


class CpuTarget:
    """C++ with the headers of `include/`."""

    name = "cpu"
    includes: Path | None = INCLUDES

    def default_arch(self) -> str:
        """The best instruction set level of this machine, or the one that TILEWRIGHT_ISA asks for."""
        return cpu_isa()

    def lower(self, program: Program, arch: str) -> Lowered:
        """C++ source; the same for every instruction set level, but for what only some can multiply."""
        return Lowered(self.name, arch, render(program, FLOATS if arch in PAIRED else ALL_FLOATS), ".cpp")

    def load(self, lowered: Lowered, program: Program) -> Launch:
        """Compile (through the cache), load, and wrap the entry point."""
        return self.load_library(self.build(lowered), program)

    def build(self, lowered: Lowered) -> Path:
        """The shared library of a source, from the cache where it is there."""
        return build_shared_library(lowered.source, lowered.arch, INCLUDES)

    def load_library(self, path: Path, program: Program) -> Launch:
        """A library that `build` made, here or elsewhere, of this program."""
        return CpuLaunch(load_shared_library(path), program)


class CpuLaunch:
    """Calls a loaded kernel: gathers addresses, strides and sizes into one array of 64-bit integers."""

    def __init__(self, library: ctypes.CDLL, program: Program) -> None:
        self._run = library.run
        self._run.argtypes = (ctypes.c_void_p, ctypes.c_int)
        self._run.restype = None
        self._bytes = library.workspace_bytes
        self._bytes.argtypes = (ctypes.c_void_p,)
        self._bytes.restype = ctypes.c_int64
        self._sizes, self._fixed = size_names(program), program.fixed
        self._name = program.name
        self._limit: Callable[..., None] | None = None
        self._turns = turn_numbers(program)
        if self._turns:
            library.limit_waits.argtypes, library.limit_waits.restype = (ctypes.c_int64,), None
            library.failed_wait.argtypes, library.failed_wait.restype = (ctypes.c_void_p,), ctypes.c_char_p
            self._limit, self._failed = library.limit_waits, library.failed_wait
        ranks = [len(param.dims) for param in program.params]
        self._addresses = tuple(sum(1 + 2 * rank for rank in ranks[:n]) for n in range(len(ranks)))
        self._array = ctypes.c_int64 * (sum(1 + 2 * rank for rank in ranks) + len(self._sizes) + 1)

    def __call__(
        self, tensors: Sequence[Any], sizes: Mapping[str, int], most_spins: int = 0, least_workers: int = 1
    ) -> None:
        """Run on the program's parameters in order; every size by name.

        least_workers: how many threads must run at once for no wait to last forever (a plan's residency);
        ScheduleError, before anything runs, where there are fewer.

        most_spins: looks after which a wait to add in order gives up; 0, the default, waits as long as it takes.
        Raises Deadlock, naming rank and tile, for a wait that gave up; results mean nothing then.
        """
        workers = self._thread_counter(sizes)()
        if workers < least_workers:
            reason = f"its order needs {least_workers} threads at once and it runs on {workers}"
            raise ScheduleError(f"{self._name}: {reason}; take the safe plan, or more threads")
        launch = self.bind(tensors, sizes, len(tensors))
        if not most_spins or self._limit is None:
            launch(tensors)
            return
        self._limit(most_spins)
        try:
            launch(tensors)
        finally:
            self._limit(0)
        self._check_waits(sizes)

    def _check_waits(self, sizes: Mapping[str, int]) -> None:
        found = (ctypes.c_int64 * 3)()
        tensor = self._failed(found)
        if tensor is None:
            return
        name, (number, wanted, seen) = tensor.decode(), found
        counts = [(dim, -(-evaluate_size(size, sizes) // tile)) for dim, size, tile in self._turns[name]]
        place = []
        for dim, count in reversed(counts):
            number, at = divmod(number, count)
            place.append(f"{dim} {at}")
        at_tile = ", ".join(reversed(place))
        raise Deadlock(
            f"{self._name}: waited to add to {name} as rank {wanted} at tile ({at_tile}), where {seen} had added; "
            "the ranks of its table are wrong, or what comes before has not been started"
        )

    def bind(self, tensors: Sequence[Any], sizes: Mapping[str, int], given: int) -> Callable[[Sequence[Any]], None]:
        """A launch for tensors of these shapes and strides, which is given the first `given` of them; the others,
        contiguous outputs that nobody reads, go to workspace. It may be called by several threads at once."""

        values: list[int] = []
        for tensor in tensors:
            values += [0, *tensor.stride(), *tensor.shape]
        frame = self._array(*values, *[sizes[name] for name in self._sizes], 0)
        needed = _rounded(self._bytes(frame))
        spare = {}
        for position, tensor in zip(self._addresses[given:], tensors[given:], strict=True):
            spare[position] = needed
            needed += _rounded(tensor.numel() * tensor.element_size())
        return self._bound(frame, needed, spare, self._thread_counter(sizes))

    def _thread_counter(self, sizes: Mapping[str, int]) -> Callable[[], int]:
        """How many threads a launch of these sizes takes, asked anew at every launch."""
        import torch

        return _one_thread if self._is_small(sizes) else torch.get_num_threads

    def _is_small(self, sizes: Mapping[str, int]) -> bool:
        """Whether one thread is done before others would have begun."""
        known = {**self._fixed, **sizes}
        if not known.keys() >= {"B", "Hq", "M", "N", "D", "Dv"}:
            return False
        scores = known["B"] * known["Hq"] * max(known["M"], LEAST_ROWS) * max(known["N"], LEAST_COLUMNS)
        return scores * (known["D"] + known["Dv"]) <= SERIAL_PRODUCTS

    def _bound(
        self, frame: Any, needed: int, spare: dict[int, int], count_threads: Callable[[], int]
    ) -> Callable[[Sequence[Any]], None]:
        """`frame` lacks addresses only; each call fills in a copy of it."""
        copy, run = self._array.from_buffer_copy, self._run
        addresses = self._addresses[: len(self._addresses) - len(spare)]

        def launch(tensors: Sequence[Any]) -> None:
            array = copy(frame)
            for position, tensor in zip(addresses, tensors, strict=True):
                array[position] = tensor.data_ptr()
            if needed:
                array[-1] = workspace = _workspace_address(needed)
                for position, offset in spare.items():
                    array[position] = workspace + offset
            run(array, count_threads())

        return launch


def _one_thread() -> int:
    return 1


def _rounded(size_bytes: int) -> int:
    """Whole cache lines."""
    return (size_bytes + 63) // 64 * 64


def _workspace_address(needed: int) -> int:
    """A buffer of this thread, at least `needed` bytes, kept for the next call."""
    import torch

    held: tuple[Any, int, int] | None = getattr(_workspace, "memory", None)
    if held is None or held[1] < needed:
        memory = torch.empty(needed + 64, dtype=torch.uint8)
        _workspace.memory = held = (memory, needed, _rounded(memory.data_ptr()))
    return held[2]
