"""The gallery: `python -m tilewright.bench.gallery` writes docs/gallery.md and a picture of each example's mask."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import torch

from ..ir.evaluate import evaluate
from ..ir.expr import Op, apply, const
from ..ir.lift import lift
from ..ir.reference import bind_sizes

__all__ = ["Example", "examples", "page", "picture", "write"]

ROOT = Path(__file__).resolve().parent.parent
SHOWN = 64  # rows and columns of a picture, at most
SIDE = 192  # its width on the page
SEED = 0
KEPT, LEFT_OUT = "#c2410c", "#e7ecf1"
HEAD = """\
# Gallery

Attention variants as plain PyTorch functions, one file each in `examples/`. Pictures show which keys (columns) the
rows of the first head keep, for the first {shown} positions of the file's `inputs()`. Every command lifts, verifies and
writes a kernel; add `--target triton` for a GPU, or `--dtype bf16`.

This page and its pictures are made by `python -m tilewright.bench.gallery`.
"""
Kept = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Example:
    """One file: its function has the file's name, and inputs() its tensors."""

    name: str
    module: ModuleType

    @property
    def title(self) -> str:
        """The first line of the file's docstring."""
        return (inspect.getdoc(self.module) or "").partition("\n")[0]

    @property
    def source(self) -> str:
        """The function's text."""
        return inspect.getsource(getattr(self.module, self.name))

    @property
    def command(self) -> str:
        """What makes a kernel of it."""
        return f"tilewright generate examples/{self.name}.py:{self.name}"


def examples() -> list[Example]:
    """Every attention function of examples/, by name: the files that have inputs()."""
    found = [Example(path.stem, _module(path)) for path in sorted((ROOT / "examples").glob("*.py"))]
    return [example for example in found if hasattr(example.module, "inputs")]


def _module(path: Path) -> ModuleType:
    found = importlib.util.spec_from_file_location(f"gallery_{path.stem}", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def kept(example: Example) -> Kept:
    """Which keys the rows of the first head keep, [rows, columns], what is zeroed after the normaliser left out."""
    torch.manual_seed(SEED)
    tensors = example.module.inputs()
    spec = lift(getattr(example.module, example.name), tensors)
    arrays = {t.name: tensor.numpy() for t, tensor in zip(spec.tensors, tensors, strict=True)}
    sizes = bind_sizes(spec, arrays)
    rows, columns = min(sizes["M"], SHOWN), min(sizes["N"], SHOWN)
    first = np.zeros((1, 1), np.int64)
    env = {**sizes, "b": first, "h": first, "i": np.arange(rows)[:, None], "j": np.arange(columns)[None, :]}
    keep = spec.keep
    if spec.normaliser.after is not None:
        keep = apply(Op.AND, keep, apply(Op.NE, spec.normaliser.after, const(0.0)))
    return np.broadcast_to(evaluate(keep, env, arrays), (rows, columns))


def picture(keep: Kept) -> str:
    """A mask [rows, columns] as SVG: a line for each run of kept columns."""
    rows, columns = keep.shape
    height = max(SIDE * rows // columns, 24)
    runs = "".join(f"M{start} {row}.5h{length}" for row in range(rows) for start, length in _runs(keep[row]))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{SIDE}" height="{height}" viewBox="0 0 {columns} {rows}" '
        f'preserveAspectRatio="none" shape-rendering="crispEdges"><rect width="{columns}" height="{rows}" '
        f'fill="{LEFT_OUT}"/><path stroke="{KEPT}" d="{runs}"/></svg>\n'
    )


def _runs(row: Kept) -> list[tuple[int, int]]:
    """(start, length) of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], row, [False]]).astype(np.int8)))
    return [(int(start), int(stop - start)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def page(found: list[Example]) -> str:
    """The page in Markdown."""
    return "\n".join([HEAD.format(shown=SHOWN), *map(_section, found)])


def _section(example: Example) -> str:
    return (
        f"## {example.name}\n\n{example.title}\n\n![{example.name}](gallery/{example.name}.svg)\n\n"
        f"```python\n{example.source}```\n\n    {example.command}\n"
    )


def write(folder: Path) -> None:
    """Write gallery.md and gallery/*.svg into a folder."""
    found = examples()
    (folder / "gallery").mkdir(parents=True, exist_ok=True)
    for example in found:
        (folder / "gallery" / f"{example.name}.svg").write_text(picture(kept(example)), encoding="utf-8")
    (folder / "gallery.md").write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs")
