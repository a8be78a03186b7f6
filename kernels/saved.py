"""A kernel as a directory: source, program.txt, spec.txt, manifest.json, and built libraries if asked for.

Loading parses the program's text, lowers it again and compares with the saved source, so a directory can do
no more than the program that one can read in it: nothing else in it is executed, but for a library when the caller
of `load` asks for it. The manifest's hashes find damaged files.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from ..ir.errors import TilewrightError
from ..ir.parser import parse_program, parse_spec
from ..ir.printer import print_program, print_spec
from ..lowering import TARGETS, Launch
from . import binaries
from .compiled import Compiled, lower_program
from .files import write_bytes, write_text
from .kernel import Kernel
from .options import Options
from .report import Report
from .specialisers import FixedSpecialiser
from .torch_ops import register
from .version import VERSION

__all__ = ["MANIFEST", "contents", "load", "load_compiled", "manifest_of", "manifest_text", "save"]

FORMAT = 1
MANIFEST = "manifest.json"
PROGRAM = "program.txt"
SPEC = "spec.txt"
BACKWARD = "backward.txt"
HEADERS = "include"  # for people who build the source themselves; loading reads none of them
INCLUDE = re.compile(r'^#include "([\w.]+)"', re.MULTILINE)
MAX_FILE_BYTES = 4 << 20
LOADABLE = {"cpu", "triton"}


def save(compiled: Compiled, directory: Path, isas: Iterable[str] = ()) -> Path:
    """Write a kernel's files, each whole or not at all, the manifest last; returns the directory.

    isas: instruction set levels to put a built library in for.
    """
    files = contents(compiled)
    libraries = binaries.built(compiled, isas) if isas else {}
    for name, text in files.items():
        write_text(directory / name, text)
    for name, data in libraries.items():
        write_bytes(directory / name, data)
    write_text(directory / MANIFEST, manifest_text(compiled, files, libraries))
    return directory


def contents(compiled: Compiled) -> dict[str, str]:
    """The saved files but the manifest, by name."""
    files = {source_name(compiled): compiled.lowered.source, PROGRAM: print_program(compiled.program)}
    if compiled.spec is not None:
        files[SPEC] = print_spec(compiled.spec)
    if compiled.gradient is not None:
        files[backward_name(compiled)] = compiled.gradient.lowered.source
        files[BACKWARD] = print_program(compiled.gradient.program)
    return files | _headers(compiled)


def _headers(compiled: Compiled) -> dict[str, str]:
    """The headers that the source includes, and those that they include, so that the folder builds on its own."""
    folder = TARGETS[compiled.lowered.target].includes
    found: dict[str, str] = {}
    sources = [compiled, *([compiled.gradient] if compiled.gradient is not None else [])]
    texts = [source.lowered.source for source in sources] if folder is not None else []
    while texts and folder is not None:
        names = {name for name in INCLUDE.findall(texts.pop()) if f"{HEADERS}/{name}" not in found}
        for name in sorted(names):
            found[f"{HEADERS}/{name}"] = (folder / name).read_text(encoding="utf-8")
            texts.append(found[f"{HEADERS}/{name}"])
    return found


def source_name(compiled: Compiled) -> str:
    """The source's file name: kernel.cpp, kernel.py, …"""
    return "kernel." + compiled.lowered.extension.lstrip(".")


def backward_name(compiled: Compiled) -> str:
    """The file name of the backward's source: backward.cpp, backward.py, …"""
    return "backward." + compiled.lowered.extension.lstrip(".")


def _backward_of(compiled: Compiled) -> dict[str, Any] | None:
    """What the manifest says of the backward; None without one."""
    if compiled.gradient is None:
        return None
    report = compiled.gradient.report
    return {
        "source": backward_name(compiled),
        "program": BACKWARD,
        "deterministic": compiled.is_ordered,
        "verified": report is not None and report.verified,
        "report": None if report is None else report.to_json(),
    }


def manifest_text(compiled: Compiled, files: dict[str, str], libraries: dict[str, bytes] | None = None) -> str:
    """The manifest as JSON text."""
    manifest = manifest_of(compiled, files) | {"binaries": binaries.rows(libraries or {})}
    return json.dumps(manifest, indent=2) + "\n"


def manifest_of(compiled: Compiled, files: dict[str, str]) -> dict[str, Any]:
    """What the directory holds and how it came about; plain data."""
    report = compiled.report
    return {
        "format": FORMAT,
        "name": compiled.program.name,
        "tilewright": VERSION,
        "target": compiled.lowered.target,
        "arch": compiled.lowered.arch,
        "dtype": compiled.inputs[0].dtype.value,
        "inputs": [{"name": t.name, "dtype": t.dtype.value, "dims": list(t.dims)} for t in compiled.inputs],
        "outputs": [{"name": p.name, "dtype": p.dtype.value, "dims": list(p.dims)} for p in compiled.outputs],
        "sizes": compiled.fixed,
        "source": source_name(compiled),
        "sha256": {name: _sha256(text) for name, text in files.items() if not name.startswith(HEADERS)},
        "verified": report is not None and report.verified,
        "report": None if report is None else report.to_json(),
        "backward": _backward_of(compiled),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
    }


def load(directory: str | os.PathLike[str], *, binary: bool = False) -> Kernel:
    """A saved kernel; nothing is traced. TilewrightError for a directory that is damaged or changed.

    binary: run the library in the directory, which needs no compiler here. It is machine code: say so only of
    directories whose writer you trust. Where none fits this machine a BinaryWarning says why and the source is
    built, as it is without `binary`. Exported programs find the kernel from now on.
    """
    compiled = load_compiled(Path(directory), binary=binary)
    has_backward = compiled.gradient is not None
    options = Options(backward=has_backward, deterministic=compiled.is_ordered, verify=False)
    kernel = Kernel(FixedSpecialiser(compiled, options), compiled, options)
    register(kernel)
    return kernel


def load_compiled(directory: Path, *, binary: bool = False) -> Compiled:
    """Read, check and lower again. A directory from another version of Tilewright is lowered by this one."""
    manifest = _read_manifest(directory)
    texts = {name: _read_checked(directory, name, digest) for name, digest in manifest["sha256"].items()}
    if PROGRAM not in texts or manifest["source"] not in texts:
        raise TilewrightError(f"{directory}: {MANIFEST} does not list {PROGRAM} and the source; save the kernel again")
    spec = parse_spec(texts[SPEC]) if SPEC in texts else None
    arch = binaries.arch_here(manifest["target"], manifest["arch"])
    compiled = lower_program(parse_program(texts[PROGRAM]), manifest["target"], arch, spec=spec)
    same = compiled.lowered.source == texts[manifest["source"]]
    if not same and manifest["tilewright"] == VERSION:
        raise TilewrightError(
            f"{directory}: {manifest['source']} is not what {PROGRAM} lowers to; to change it, edit the "
            f"program and run `tilewright lower {PROGRAM} --target {manifest['target']} --out NEW_DIR`"
        )
    if same and manifest["report"] is not None:
        compiled.report = manifest["report"]
    if manifest["backward"] is not None:
        _load_backward(directory, manifest, compiled, texts)
    if binary:
        compiled.use(_launch(directory, manifest, compiled, same))
    return compiled


def _load_backward(directory: Path, manifest: dict[str, Any], compiled: Compiled, texts: dict[str, str]) -> None:
    """Put the saved backward beside the forward; its text is what is lowered, as for the forward."""
    said = manifest["backward"]
    missing = [name for name in (BACKWARD, said["source"]) if name not in texts]
    if missing or compiled.spec is None:
        what = missing[0] if missing else SPEC
        raise TilewrightError(f"{directory}: {MANIFEST} has a backward but does not list {what}; save the kernel again")
    target, arch = compiled.lowered.target, compiled.lowered.arch
    gradient = lower_program(parse_program(texts[BACKWARD]), target, arch, spec=compiled.spec)
    if gradient.lowered.source != texts[said["source"]] and manifest["tilewright"] == VERSION:
        raise TilewrightError(f"{directory}: {said['source']} is not what {BACKWARD} lowers to; save the kernel again")
    compiled.gradient, compiled.is_ordered = gradient, said["deterministic"]


def _launch(directory: Path, manifest: dict[str, Any], compiled: Compiled, is_same: bool) -> Launch | None:
    if is_same:
        return binaries.launch_of(directory, manifest, compiled)
    binaries.warn(f"{directory}: saved by Tilewright {manifest['tilewright']}, this is {VERSION}")
    return None


def _read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest with its fields checked for type, so that the rest can rely on them."""
    try:
        data = json.loads(_read(directory / MANIFEST))
        fields = {"format": int, "tilewright": str, "target": str, "arch": str, "source": str, "sha256": dict}
        if not all(isinstance(data[name], kind) for name, kind in fields.items()):
            raise TypeError("a field of the wrong type")
        if data["format"] != FORMAT or data["target"] not in LOADABLE:
            raise ValueError(f"format {data['format']}, target {data['target']!r}")
        data["binaries"] = [
            {name: str(row[name]) for name in ("file", "isa", "system", "sha256")} for row in data.get("binaries", ())
        ]
        data["backward"] = _backward_field(data.get("backward"))
        data["report"] = None if data.get("report") is None else Report.from_json(data["report"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TilewrightError(
            f"{directory / MANIFEST} is not a kernel's manifest ({error}); save the kernel again"
        ) from None
    result: dict[str, Any] = data
    return result


def _backward_field(data: Any) -> dict[str, Any] | None:
    """What a manifest says of a backward; TypeError or KeyError for anything else."""
    if data is None:
        return None
    if not isinstance(data["source"], str) or not isinstance(data["deterministic"], bool):
        raise TypeError("backward: a field of the wrong type")
    return {"source": data["source"], "deterministic": data["deterministic"]}


def _read_checked(directory: Path, name: str, digest: object) -> str:
    if Path(name).name != name:
        raise TilewrightError(f"{directory}: {MANIFEST} names {name!r}, which is not a plain file name")
    text = _read(directory / name)
    if _sha256(text) != digest:
        raise TilewrightError(
            f"{directory / name} is not the file that was saved (its hash differs); save the kernel again"
        )
    return text


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise TilewrightError(f"{path}: larger than {MAX_FILE_BYTES} bytes, so it is not a kernel's file")
        return data.decode()
    except OSError as error:
        raise TilewrightError(f"{path}: {error.strerror}; wanted a directory written by kernel.save") from None
    except UnicodeDecodeError:
        raise TilewrightError(f"{path}: not UTF-8 text; save the kernel again") from None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
