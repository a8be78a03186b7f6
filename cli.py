"""The command line: options in, one summary out; the work is done in kernels/.

Exit codes: 0 done and verified, 1 verification failed, 2 wrong use or unsupported input.
"""

from __future__ import annotations

import contextlib
import json as json_text
import math
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from .ir.dtypes import DTYPES, DType
from .ir.errors import DTypeError, TilewrightError, VerificationError

__all__ = ["app", "main"]

DONE, NOT_VERIFIED, REFUSED, INTERRUPTED = 0, 1, 2, 130
ELEMENTS = ("f32", "bf16", "f16")
DEBUG = "--debug"

app = typer.Typer(
    name="tilewright",
    help="A PyTorch attention function in, a verified fast kernel out.",
    epilog=f"{DEBUG}, anywhere on the line, shows the traceback of an error.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, nothing else.")]
Spec = Annotated[str, typer.Argument(metavar="SPEC", help="path/to/file.py:function or package.module:function")]
Target = Annotated[str, typer.Option(help="auto, cpu or triton.")]
Arch = Annotated[str | None, typer.Option(help="The target's architecture, such as sm_90; default: this machine's.")]
Element = Annotated[str | None, typer.Option("--dtype", help="f32, bf16 or f16; default: the example's.")]
Shape = Annotated[str | None, typer.Option(help="B,H,Hkv,M,N,D[,Dv] of random example tensors.")]
File = Annotated[Path | None, typer.Option("--out", help="The file to write; default: standard output.")]
Folder = Annotated[
    Path | None, typer.Option("--out", help="The folder to write; default: one named for the kernel, below out.")
]
Thorough = Annotated[bool, typer.Option("--thorough", help="Verify on many more sizes.")]
Show = Callable[[dict[str, Any], str], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; errors become one message on standard error."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    words = [word for word in given if word != DEBUG]
    try:
        app(words, prog_name="tilewright")
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else DONE if leave.code is None else REFUSED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last stop: whatever it is becomes one message
        return _refuse(error, as_json="--json" in words, with_traceback=DEBUG in given)
    return DONE


def _refuse(error: Exception, *, as_json: bool, with_traceback: bool) -> int:
    """One message on standard error (and as JSON), and the exit code."""
    is_ours = isinstance(error, TilewrightError)
    kind = type(error).__name__
    message = str(error) if is_ours else f"internal error, please report it: {kind}: {error}"
    if with_traceback:
        traceback.print_exception(error, file=sys.stderr)
    else:
        print(f"tilewright: {message}", file=sys.stderr)
    if as_json:
        print(json_text.dumps({"error": kind, "message": message}))
    return NOT_VERIFIED if isinstance(error, VerificationError) else REFUSED


@contextlib.contextmanager
def _summary(as_json: bool) -> Iterator[Show]:
    """Shows a result as text or as JSON; with JSON, whatever else is printed goes to standard error."""
    out = sys.stdout

    def show(result: dict[str, Any], text: str) -> None:
        print(json_text.dumps(_plain(result), allow_nan=False) if as_json else text, file=out)

    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        yield show


def _plain(value: Any) -> Any:
    """JSON has no infinity and no NaN: null stands for them."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on standard error: the stage, and its cases where they are counted."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("working", total=None)
        yield lambda stage, done, total: bars.update(task, description=stage, completed=done, total=total or None)


def _element(text: str | None) -> DType | None:
    if text is not None and text not in ELEMENTS:
        raise DTypeError(f"--dtype {text!r}: wanted one of {', '.join(ELEMENTS)}")
    return None if text is None else DTYPES[text]


@app.command()
def generate(  # noqa: PLR0913 - one parameter per option of the contract
    spec: Spec,
    target: Target = "auto",
    arch: Arch = None,
    dtype: Element = None,
    shape: Shape = None,
    backward: Annotated[bool, typer.Option("--backward", help="Gradients as well: backward.*.")] = False,
    deterministic: Annotated[bool, typer.Option("--deterministic", help="Gradients of the same bits.")] = False,
    out: Folder = None,
    thorough: Thorough = False,
    json: Json = False,
) -> None:
    """Make a verified kernel of a PyTorch function."""
    from .kernels.generate import Request
    from .kernels.generate import generate as run
    from .kernels.options import Options
    from .kernels.shapes import parse_shape

    options = Options(target, arch, backward, deterministic)
    request = Request(spec, options, _element(dtype), parse_shape(shape), thorough, out)
    with _summary(json) as show, _progress() as progress:
        result = run(request, progress)
        took = sum(result["seconds"].values())
        text = f"{result['report']}\n{result['target']} {result['arch']} {result['dtype']}, {took:.1f} s: "
        show(result, text + result["source"])
    raise typer.Exit(DONE if result["verified"] else NOT_VERIFIED)


@app.command()
def lift(  # noqa: PLR0913 - one parameter per option of the contract
    source: Annotated[
        str, typer.Argument(help="A PyTorch function, as for generate; a file.py with Triton kernels, or its launcher.")
    ],
    raw: Annotated[bool, typer.Option("--raw", help="Triton: the program as the kernel says it.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Triton: compare with the kernel, interpreted.")] = False,
    dtype: Element = None,
    shape: Shape = None,
    out: File = None,
    json: Json = False,
) -> None:
    """Show what a PyTorch function computes, as spec text, or how a Triton kernel does, as program text."""
    with _summary(json) as show, _progress():
        from .kernels.commands import lift_command

        result = lift_command(source, _example(dtype, shape), out, is_raw=raw, verify=verify)
        for note in () if json else result["notes"]:
            print(f"note: {note}", file=sys.stderr)
        show(result, result["file"] or result["text"].rstrip("\n"))


@app.command()
def transfer(  # noqa: PLR0913 - one parameter per option of the contract
    reference: Annotated[str, typer.Argument(help="A program's file, - (standard input), flash_forward, or CUDA C++.")],
    spec: Spec,
    engine: Annotated[str, typer.Option(help="rules, llm (language models), or auto: rules, then llm.")] = "rules",
    model: Annotated[list[str] | None, typer.Option(help="A language model; may be given several times.")] = None,
    base_url: Annotated[str | None, typer.Option(help="The OpenAI-compatible server that serves the models.")] = None,
    samples: Annotated[int | None, typer.Option(help="Candidates of each model, at most.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Answers of one dialogue, the first included.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Time limit.")] = None,
    requests: Annotated[int | None, typer.Option(help="Requests to the server, at most.")] = None,
    money: Annotated[float | None, typer.Option(help="Money that it may cost, in the currency of --price.")] = None,
    price: Annotated[
        list[str] | None, typer.Option(metavar="NAME=PROMPT,COMPLETION", help="A model's price per million tokens.")
    ] = None,
    transcript: Annotated[Path | None, typer.Option(help="The file of what happened; resumed if it exists.")] = None,
    target: Annotated[str | None, typer.Option(help="cpu or triton: what a model's program must lower to.")] = None,
    dtype: Element = None,
    shape: Shape = None,
    out: File = None,
    json: Json = False,
) -> None:
    """Put a spec's meaning into an expert program."""
    from .kernels.commands import EngineChoice, parse_prices, transfer_command

    asked = {"models": tuple(model or ()), "base_url": base_url, "samples": samples, "rounds": rounds}
    limits = {"seconds": seconds, "requests": requests, "money": money, "prices": parse_prices(price or ())}
    with _summary(json) as show, _progress():
        choice = EngineChoice(engine, {**asked, **limits, "transcript": transcript}, target)
        result = transfer_command(reference, spec, _example(dtype, shape), out, choice)
        for note in () if json else result["notes"]:
            print(f"note: {note}", file=sys.stderr)
        show(result, result["file"] or result["text"].rstrip("\n"))


@app.command()
def lower(
    program: Annotated[Path, typer.Argument(help="A program's text.")],
    target: Annotated[str, typer.Option(help="cpu or triton.")],
    arch: Arch = None,
    out: Folder = None,
    json: Json = False,
) -> None:
    """Build a kernel from a program's text and nothing else."""
    with _summary(json) as show, _progress():
        from .kernels.commands import lower_command

        result = lower_command(program, target, arch, out)
        show(result, result["source"])


@app.command()
def verify(
    kernel: Annotated[Path, typer.Argument(metavar="KERNEL_DIR|PROGRAM")],
    spec: Spec,
    dtype: Element = None,
    shape: Shape = None,
    thorough: Thorough = False,
    json: Json = False,
) -> None:
    """Check a kernel's directory, or a program in the interpreter, against a PyTorch function."""
    with _summary(json) as show, _progress() as progress:
        from .kernels.commands import verify_command

        example = _example(dtype, shape)
        result = verify_command(kernel, spec, example, thorough=thorough, progress=progress)
        show(result, result["report"])
    raise typer.Exit(DONE if result["verified"] else NOT_VERIFIED)


def _example(dtype: str | None, shape: str | None) -> Any:
    from .kernels.commands import Example
    from .kernels.shapes import parse_shape

    return Example(_element(dtype), parse_shape(shape))


@app.command()
def schedule(  # noqa: PLR0913 - one parameter per option of the contract
    mask: Annotated[str, typer.Option(help="causal, full, window:W, document:L1,L2,… or FILE.npy, in tiles.")],
    tiles: Annotated[str, typer.Option(help="NQxNK, such as 32x32.")],
    heads: Annotated[int, typer.Option(help="Heads of one sequence.")] = 1,
    workers: Annotated[int, typer.Option(help="How many workers to plan for.")] = 132,
    compute: Annotated[float, typer.Option(help="Cost of computing a tile.")] = 1.0,
    reduce: Annotated[float, typer.Option(help="Cost of adding a tile into dQ.")] = 0.25,
    order: Annotated[str, typer.Option(help="An order's name, safe, greedy, or all.")] = "all",
    overlap: Annotated[int, typer.Option(help="Unreduced tiles that computing may be ahead; 0: serial.")] = 0,
    latency: Annotated[float, typer.Option(help="Time between the sums of two workers into one tile.")] = 0.0,
    jitter: Annotated[float, typer.Option(help="Fraction by which computing costs are off, by chance.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the jitter.")] = 0,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw timelines: .svg or .html.")] = None,
    json: Json = False,
) -> None:
    """Compare deterministic backward schedules of a block mask."""
    from .schedules.command import Request, schedule_command

    request = Request(mask, tiles, heads, workers, compute, reduce, order, overlap, latency, jitter, seed, plot)
    with _summary(json) as show:
        show(*schedule_command(request))


@app.command()
def bench(
    suites: Annotated[list[str] | None, typer.Argument(metavar="[SUITE]...", help="Default: all.")] = None,
    target: Target = "auto",
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the rows here.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a report with plots here.")] = None,
) -> None:
    """Time Tilewright and its peers, interleaved in one process."""
    from .bench.suites import run_bench
    from .bench.summary import print_summary

    print_summary(run_bench(suites or (), target, json, html))


@app.command()
def doctor(json: Json = False) -> None:
    """Say what this machine can do, what is missing and how to get it."""
    from .kernels.doctor import examine, to_json

    with _summary(json) as show:
        findings = examine()
        lines = []
        for finding in findings:
            mark = "ok" if finding.is_ok else "MISSING" if finding.is_needed else "-"
            lines.append(f"{mark:8}{finding.name:18}{finding.found}")
            lines += [f"{'':8}{line}" for line in finding.advice.splitlines()]
        result = to_json(findings)
        show(result, "\n".join(lines))
    raise typer.Exit(DONE if result["ready"] else NOT_VERIFIED)


if __name__ == "__main__":
    sys.exit(main())
