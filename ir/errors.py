"""The tree of errors: every refusal Tilewright can give, by name.

    TilewrightError
    ├── UnsupportedSpec          a user's function that no kernel can be made of
    ├── UnsupportedKernel        an expert kernel that cannot be lifted
    ├── TransferFailed           no candidate program was accepted
    ├── ConsensusError           answers that no consensus can be computed of
    ├── ShapeError               a tensor whose sizes do not fit
    ├── DTypeError               a tensor of the wrong element type
    ├── DeviceError              a tensor on the wrong device
    ├── SettingError             a setting (environment variable) with a bad value
    ├── ParseError               program or spec text that does not parse
    ├── ProgramError             a program that breaks a validity rule
    ├── ScheduleError            a schedule or primitive whose needs are not met
    ├── InterpreterError         a program that goes wrong when it is executed
    │   ├── DataRace             two accesses that nothing orders
    │   ├── Deadlock             every role waits
    │   ├── BarrierPhaseError    a wait or arrive on the wrong phase
    │   ├── UninitialisedRead    memory read that nobody wrote
    │   ├── OutOfBounds          a tile outside its tensor
    │   └── LimitExceeded        more steps, memory or time than the run was given
    ├── LoweringError            a program that a target cannot express
    ├── BuildError               a compiler that refused, timed out or was killed
    │   └── ToolchainMissing     no compiler on this machine
    ├── VerificationError        a kernel that computes something else
    └── MissingExtra             an optional dependency that is not installed

A message says what, where, got, wanted, and what to do. Errors with fields keep them as attributes of
the same name, so that a caller can act on them without reading the message.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "BarrierPhaseError",
    "BuildError",
    "ConsensusError",
    "DTypeError",
    "DataRace",
    "Deadlock",
    "DeviceError",
    "InterpreterError",
    "LimitExceeded",
    "LoweringError",
    "MissingExtra",
    "OutOfBounds",
    "ParseError",
    "ProgramError",
    "ProgramLine",
    "ScheduleError",
    "SettingError",
    "ShapeError",
    "TilewrightError",
    "ToolchainMissing",
    "TransferFailed",
    "UninitialisedRead",
    "UnsupportedKernel",
    "UnsupportedSpec",
    "VerificationError",
]


@dataclass(frozen=True, slots=True)
class ProgramLine:
    """One line of a program's canonical text: its number (from 1) and what stands there."""

    number: int
    text: str

    def __str__(self) -> str:
        return f"line {self.number}: {self.text.strip()}"


class TilewrightError(Exception):
    """Root of the tree; catching it catches every refusal of ours and no bug."""

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by message and fields, so that errors cross process borders unchanged."""
        return _rebuild, (type(self), self.args, self.__dict__.copy())


def _rebuild(
    kind: type[TilewrightError], args: tuple[object, ...], fields: dict[str, object]
) -> TilewrightError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


class UnsupportedSpec(TilewrightError):
    """A user's function cannot be compiled; says which of its lines and why.

    location is "file.py:line", source the text of that line, hint what to write instead; all optional.
    """

    def __init__(
        self, reason: str, location: str | None = None, source: str | None = None, hint: str | None = None
    ) -> None:
        self.reason = reason
        self.location = location
        self.source = source.strip() if source else None
        self.hint = hint
        message = f"{location}: {reason}" if location else reason
        message += f"\n    {self.source}" if self.source else ""
        message += f"\n  hint: {hint}" if hint else ""
        super().__init__(message)


class UnsupportedKernel(TilewrightError):
    """An expert kernel cannot be lifted: the operation that stopped it, where it is written, and why."""

    def __init__(self, reason: str, operation: str | None = None, location: str | None = None) -> None:
        self.reason = reason
        self.operation = operation
        self.location = location
        where = f"{location}: " if location else ""
        super().__init__(f"{where}{reason}" + (f" (operation {operation})" if operation else ""))


class TransferFailed(TilewrightError):
    """No engine found a program that computes the function; `transcript` is the file that tells what was tried."""

    def __init__(self, reason: str, transcript: str | None = None) -> None:
        self.reason = reason
        self.transcript = transcript
        super().__init__(reason + (f"; transcript: {transcript}" if transcript else ""))


class ConsensusError(TilewrightError):
    """Answers, weights or an equivalence that no consensus can be computed of."""


class ShapeError(TilewrightError):
    """A tensor's rank or size is wrong."""


class DTypeError(TilewrightError):
    """A tensor's element type is wrong or not supported."""


class DeviceError(TilewrightError):
    """A tensor is on a device that the kernel cannot reach, or tensors are on different devices."""


class SettingError(TilewrightError):
    """An environment variable of Tilewright has a value outside what ir/settings.py allows."""


class ParseError(TilewrightError):
    """Text does not parse: at line and column (both from 1), what was found and what was wanted."""

    def __init__(self, line: int, column: int, found: str, wanted: str, text: str | None = None) -> None:
        self.line = line
        self.column = column
        self.found = found
        self.wanted = wanted
        self.text = text
        message = f"line {line}, column {column}: found {found}, wanted {wanted}"
        if text is not None:
            message += f"\n    {text.rstrip()}\n    {' ' * max(column - 1, 0)}^"
        super().__init__(message)


class ProgramError(TilewrightError):
    """A program breaks a validity rule: the rule's name and the line that breaks it (None: the whole)."""

    def __init__(self, rule: str, reason: str, line: ProgramLine | None = None) -> None:
        self.rule = rule
        self.reason = reason
        self.line = line
        super().__init__(f"{rule}: {reason}" + (f"\n    {line}" if line else ""))


class ScheduleError(TilewrightError):
    """An order, a plan or a program primitive was asked for something its needs exclude."""


class InterpreterError(TilewrightError):
    """A program went wrong while it was executed; lines: the program lines in conflict, first cause first."""

    def __init__(self, reason: str, *lines: ProgramLine) -> None:
        self.reason = reason
        self.lines = lines
        super().__init__("\n    ".join([reason, *map(str, lines)]))


class DataRace(InterpreterError):
    """Two accesses to one tile, at least one a write, with no synchronisation between them."""


class Deadlock(InterpreterError):
    """Every running role waits for something that no running role can still do."""


class BarrierPhaseError(InterpreterError):
    """A barrier was awaited or arrived at in a phase that it is not in."""


class UninitialisedRead(InterpreterError):
    """A read of memory that nobody wrote: the read, and the line that allocated it."""


class OutOfBounds(InterpreterError):
    """A tile reaches outside its tensor: the access, and the line that declares the tensor."""


class LimitExceeded(InterpreterError):
    """A run takes more than its limits allow; what: "steps", "elements" or "seconds"."""

    def __init__(self, what: str, reason: str, *lines: ProgramLine) -> None:
        self.what = what
        super().__init__(reason, *lines)


class LoweringError(TilewrightError):
    """A valid program uses something that the chosen target cannot express."""


class BuildError(TilewrightError):
    """The compiler refused, ran out of time or was killed; the message keeps its first error lines."""


class ToolchainMissing(BuildError):
    """No usable C++ compiler; the message says how to get one."""


class VerificationError(TilewrightError):
    """A kernel or program computes something other than its specification."""


class MissingExtra(TilewrightError):
    """An optional dependency is needed and absent: one line that names the extra to install."""

    def __init__(self, extra: str, needed_for: str) -> None:
        self.extra = extra
        self.needed_for = needed_for
        super().__init__(f"{needed_for} needs an optional dependency: pip install 'tilewright[{extra}]'")
