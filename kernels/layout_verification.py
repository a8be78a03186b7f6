"""A ragged or paged kernel against the function in fp64, sequence by sequence."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..ir.expr import free_vars, loads
from ..ir.shapes import infer
from ..ir.spec import AttentionSpec
from .arguments import DEVICES
from .cases import Case
from .compiled import Compiled
from .dtypes import as_array
from .layout_arguments import Layout
from .oracle import Expected, expect
from .report import CaseResult, Report
from .tensors import case_tensors
from .verification import LARGE_SHUFFLES, Subject

__all__ = ["verify_layout"]

KV_HEADS, PAGE = 2, 5
Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Batch:
    """One run: the lengths of its sequences and what is in the tensors."""

    pairs: tuple[Pair, ...]
    content: str = "normal"

    @property
    def case(self) -> Case:
        """The padded batch that the tensors are drawn for."""
        return Case(len(self.pairs), KV_HEADS, max(m for m, _ in self.pairs), max(n for _, n in self.pairs),
                    content=self.content)  # fmt: skip


@dataclass(frozen=True, slots=True)
class One:
    """One sequence of a run: its dense tensors [1, H, length, D] and what they should give."""

    name: str
    pair: Pair
    expected: Expected | None


def verify_layout(compiled: Compiled, subject: Subject, layout: Layout, few: bool) -> Report:
    """The built kernel against the subject; never raises for a wrong result. Builds it if need be."""
    tiles = infer(compiled.program).tiles
    rows: list[CaseResult] = []
    for batch in _batches(subject, layout, (tiles["m"].tile, tiles["n"].tile), few):
        rows += _check(compiled, subject, layout, batch)
    return Report(tuple(rows), method=f"built kernel, {layout.name}")


def _batches(subject: Subject, layout: Layout, tiles: Pair, few: bool) -> Iterator[Batch]:
    """Odd lengths, empty sequences, lengths around the tiles; for pages every sequence has the same rows."""
    m, n = tiles
    if layout.is_paged:
        columns = (1, n + 1, 0, 2 * n + 3, 17)
        counts = (1, 5, 16) if few else (17, m + 1)
        wanted = [Batch(tuple((rows, length) for length in columns)) for rows in counts]
        if few:  # more than one split of the keys
            wanted.append(Batch(((2, 8 * n + 3), (2, 5 * n), (2, 3))))
        wanted.append(Batch(((counts[-1], n + 2), (counts[-1], 40)), "large"))
        wanted.append(Batch(((counts[-1], n + 2), (counts[-1], 2 * n + 1)), "masked_rows"))
    else:
        wanted = [
            Batch(((1, 1), (17, n + 1), (0, 3), (m + 1, 2 * n + 1), (5, 0), (n - 1, n - 1))),
            Batch(((n + 2, n + 2), (17, n + 2)), "large"),
            Batch(((m + 3, 2 * n + 1), (n + 2, n + 2)), "masked_rows"),
        ]
    for batch in wanted:
        pairs = tuple(pair for pair in (_allowed(subject, pair, layout) for pair in batch.pairs) if pair is not None)
        if pairs:
            yield replace(batch, pairs=pairs)


def _allowed(subject: Subject, pair: Pair, layout: Layout) -> Pair | None:
    """The lengths, or the nearest ones that the spec allows."""
    (m, n), spec = pair, subject.spec
    own = subject.own_case
    candidates = [(m, n), (m, m), (own.rows, own.columns)] if layout.is_paged else [
        (m, n), (n, n), (m, m), (own.rows, own.columns)
    ]  # fmt: skip
    sizes = {**subject.own_sizes, "B": 1, "Hkv": KV_HEADS, "Hq": KV_HEADS * spec.group}
    return next((c for c in candidates if spec.allows({**sizes, "M": c[0], "N": c[1]})), None)


def _check(compiled: Compiled, subject: Subject, layout: Layout, batch: Batch) -> list[CaseResult]:
    spec = subject.spec
    drawn = case_tensors(spec, batch.case, subject.example, _own_sizes(subject, len(batch.pairs)))
    sequences = [_expected(subject, drawn, b, batch) for b in range(len(batch.pairs))]
    device = torch.device(DEVICES[compiled.lowered.target])
    place = _paged if layout.is_paged else _ragged
    got = place(compiled, [tensor.to(device) for tensor in drawn], batch)
    largest = [max((getattr(s.expected, output).low_error for s in sequences if s.expected), default=0.0)
               for output in ("o", "lse")]  # fmt: skip
    rows = []
    for sequence, outputs in zip(sequences, got, strict=True):
        if sequence.expected is None:
            rows.append(CaseResult(sequence.name, skipped=True, note="the function itself fails, or has no rows"))
            continue
        for output, low_error in zip(outputs, largest, strict=False):
            truth = replace(getattr(sequence.expected, output), low_error=low_error)
            error = truth.error(as_array(outputs[output].double().cpu()))
            rows.append(CaseResult(sequence.name, output, error, truth.budget))
    return rows


def _own_sizes(subject: Subject, batch: int) -> dict[str, int]:
    """Sizes that only captured tensors have; tables read at b are long enough for the batch."""
    own = {name: size for name, size in subject.own_sizes.items() if name not in ("B", "M", "N")}
    return own | {name: max(own[name], batch) for name in _sizes_by_batch(subject.spec)}


def _expected(subject: Subject, drawn: Sequence[Tensor], b: int, batch: Batch) -> One:
    """Ask the oracle about one sequence: alone, or among all where the spec looks tables up by the batch's number."""
    (m, n) = batch.pairs[b]
    name = f"{batch.content}-sequence{b}-M{m}-N{n}"
    if m == 0:
        return One(name, (m, n), None)
    chosen = slice(None) if _sizes_by_batch(subject.spec) else slice(b, b + 1)
    specs = subject.spec.tensors
    part = [_of_sequences(tensor, spec.dims, chosen, m, n) for tensor, spec in zip(drawn, specs, strict=True)]
    shuffles = LARGE_SHUFFLES if batch.content == "large" else 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = expect(subject.function, subject.spec, part, shuffles)
            return One(name, (m, n), found if chosen.start == b else _at(found, b))
    except Exception:  # noqa: BLE001 - the user's code may raise anything
        return One(name, (m, n), None)


def _sizes_by_batch(spec: AttentionSpec) -> set[str]:
    """Sizes of tables that are read at b and may be larger than B."""
    rule, dims = spec.normaliser, {tensor.name: tensor.dims for tensor in spec.captured}
    roots = [spec.score, spec.keep, *(root for root in (rule.weight, rule.after, rule.sink) if root is not None)]
    indices = [
        pair for root in roots for load in loads(root) for pair in zip(load.args, dims[str(load.attr)], strict=True)
    ]
    return {dim for index, dim in indices if isinstance(dim, str) and dim != "B" and "b" in free_vars(index)}


def _at(found: Expected, b: int) -> Expected:
    """What is expected of sequence b of a batch."""
    one = slice(b, b + 1)
    truths = {name: getattr(found, name) for name in ("o", "lse")}
    return replace(found, **{
        name: truth and replace(truth, exact=truth.exact[one], is_judged=truth.is_judged[one])
        for name, truth in truths.items()
    })  # fmt: skip


def _of_sequences(tensor: Tensor, dims: Sequence[int | str], chosen: slice, m: int, n: int) -> Tensor:
    """A tensor's part for the chosen sequences, with rows and columns of one sequence's lengths."""
    ranges = {"B": chosen, "M": slice(m), "N": slice(n)}
    return tensor[tuple([ranges.get(str(dim), slice(None)) for dim in dims])]


def _ragged(compiled: Compiled, drawn: Sequence[Tensor], batch: Batch) -> list[dict[str, Tensor]]:
    """Run with sequences end to end; the outputs of each as [1, H, rows, …]."""
    rows, columns = ([pair[at] for pair in batch.pairs] for at in (0, 1))
    q, k, v = (_end_to_end(x, lengths) for x, lengths in zip(drawn[:3], (rows, columns, columns), strict=True))
    cu_q, cu_k = (_starts(lengths).to(q.device) for lengths in (rows, columns))
    outputs = _run(compiled, [q, k, v, *drawn[3:], cu_q, cu_k], batch)
    found = []
    for first, (m, _) in zip(cu_q.tolist(), batch.pairs, strict=False):
        parts = {"o": outputs["o"][None, first : first + m].transpose(1, 2)}
        if "lse" in outputs:
            parts["lse"] = outputs["lse"][None, :, first : first + m]
        found.append(parts)
    return found


def _end_to_end(tensor: Tensor, lengths: Sequence[int]) -> Tensor:
    return torch.cat([tensor[b, :, :length].transpose(0, 1) for b, length in enumerate(lengths)])


def _starts(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def _paged(compiled: Compiled, drawn: Sequence[Tensor], batch: Batch) -> list[dict[str, Tensor]]:
    """Run with keys in shuffled pages, NaN where no sequence has a key; outputs as [1, H, rows, …]."""
    q, k, v = drawn[:3]
    count, pages = len(batch.pairs), -(-max(k.shape[2], 1) // PAGE)
    table = torch.randperm(count * pages, generator=torch.Generator().manual_seed(0)).reshape(count, pages)
    caches = [x.new_full((count * pages, PAGE, x.shape[1], x.shape[3]), float("nan")) for x in (k, v)]
    for b, (_, n) in enumerate(batch.pairs):
        for cache, x in zip(caches, (k, v), strict=True):
            whole = x.new_full((pages * PAGE, x.shape[1], x.shape[3]), float("nan"))
            whole[:n] = x[b, :, :n].transpose(0, 1)
            cache[table[b].to(x.device)] = whole.reshape(pages, PAGE, *whole.shape[1:])
    lengths = torch.tensor([n for _, n in batch.pairs], dtype=torch.int32)
    tables = [table.to(torch.int32).to(q.device), lengths.to(q.device)]
    outputs = _run(compiled, [q.transpose(1, 2), *caches, *drawn[3:], *tables], batch)
    found = []
    for b in range(count):
        parts = {"o": outputs["o"][b : b + 1].transpose(1, 2)}
        if "lse" in outputs:
            parts["lse"] = outputs["lse"][b : b + 1]
        found.append(parts)
    return found


def _run(compiled: Compiled, tensors: list[Tensor], batch: Batch) -> dict[str, Tensor]:
    """Launch on outputs that hold NaN."""
    sizes = dict(compiled.fixed) | {"B": len(batch.pairs), "M": batch.case.rows, "N": batch.case.columns}
    for spec, tensor in zip(compiled.inputs, tensors, strict=True):
        sizes |= {dim: size for dim, size in zip(spec.dims, tensor.shape, strict=True) if isinstance(dim, str)}
    outputs = {p.name: compiled.empty(p, sizes, tensors[0].device).fill_(float("nan")) for p in compiled.outputs}
    named = dict(zip((spec.name for spec in compiled.inputs), tensors, strict=True)) | outputs
    compiled.launch()([named[p.name] for p in compiled.program.params], sizes)
    return outputs
