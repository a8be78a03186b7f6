"""One form of a small case under changing circumstances: run again, on other threads, elsewhere in a batch, padded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .bits import Bits, compare_bits
from .cases import Inputs
from .differentiated import MAKERS, Attention, gradients_of
from .training import Outcome, Training
from .variants import Captured, Variant, causal_pairs

__all__ = ["KINDS", "PADDED", "Probe"]

RUNS = 1000
THREADS = (1, 2, 3, 4)
PLACES = 4  # of a batch
PADDINGS = (1, 100, 333)  # positions behind a sequence
WIDTH = 160  # of a window
START, DOCUMENT = 150, 400  # of the second document, and the length of those after the first
KINDS = ("runs", "threads", "places", "paddings")


def _padded(leaves_out: Callable[[Tensor, Tensor], Tensor], *, leaves_out_rows: bool) -> Callable[..., Tensor]:
    """Causal attention without some pairs (i, j) to the first `length` keys, of all rows or of as many."""

    def spec(q: Tensor, k: Tensor, v: Tensor, length: Tensor) -> Tensor:
        i = torch.arange(q.shape[2], device=q.device)[:, None]
        j = torch.arange(k.shape[2], device=q.device)
        out = (j > i) | leaves_out(i, j) | ((i if leaves_out_rows else j) >= length)
        scores: Tensor = q @ k.mT * q.shape[-1] ** -0.5
        return scores.masked_fill(out, float("-inf")).softmax(-1) @ v

    return spec


def _whole(heads: int, length: int, device: torch.device) -> Captured:
    del heads
    return (torch.tensor(length, device=device),)


# By the end of their names. Rows have masked tiles of keys before whole ones under the last two.
LEFT_OUT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "": lambda i, j: j > i,
    "-window": lambda i, j: i - j >= WIDTH,
    "-documents": lambda i, j: (i + DOCUMENT - START) // DOCUMENT != (j + DOCUMENT - START) // DOCUMENT,
}
SPECS = {
    f"padded-{what}{name}": _padded(leaves_out, leaves_out_rows=what == "rows")
    for name, leaves_out in LEFT_OUT.items()
    for what in ("keys", "rows")
}
PADDED = tuple(Variant(name, spec, causal_pairs, captured=_whole, is_flex=False) for name, spec in SPECS.items())


@dataclass(frozen=True, slots=True)
class Probe:
    """One form of one case under changing circumstances."""

    case: Training
    inputs: Inputs
    attention: Attention

    @classmethod
    def of(cls, case: Training, impl: str, target: str, device: torch.device) -> Probe:
        """Compiled for a target, whose device it is."""
        inputs = case.inputs(device)
        attention = MAKERS[impl][1](case, inputs, target)
        assert attention is not None, impl
        return cls(case, inputs, attention)

    def all(self) -> dict[str, Bits]:
        """Everything that applies: threads are the CPU's, padding is of a case that can say how long a sequence is."""
        found = {"runs": self.runs(), "places": self.places()}
        if not self.inputs.q.is_cuda:
            found["threads"] = self.threads()
        if self.case.variant in PADDED:
            found["paddings"] = self.paddings()
        return {kind: found[kind] for kind in KINDS if kind in found}

    def runs(self) -> Bits:
        """The same call again and again."""
        run = self.run_of(self.case, self.inputs)
        return compare_bits(run(), ((f"run {n}", run()) for n in range(RUNS)))

    def threads(self) -> Bits:
        """On more and fewer threads."""
        run, before = self.run_of(self.case, self.inputs), torch.get_num_threads()

        def found() -> Iterator[tuple[str, Outcome]]:
            for count in THREADS:
                torch.set_num_threads(count)
                yield f"{count} threads", run()

        try:
            return compare_bits(run(), found())
        finally:
            torch.set_num_threads(before)

    def places(self) -> Bits:
        """The sequence in every place of a batch of others. Captured tensors' gradients are sums over the batch."""
        alone = self.run_of(self.case, self.inputs)()
        return compare_bits(_main(alone, 0), ((f"place {n}", _main(self._in_place(n), n)) for n in range(PLACES)))

    def _in_place(self, place: int) -> Outcome:
        case = replace(self.case, shape=self.case.shape._replace(B=PLACES))
        batch = case.inputs(self.inputs.q.device)
        q, k, v = (_amid(own, place, others) for own, others in zip(self._main, batch.tensors, strict=False))
        d_o = _amid(self.case.output_gradient(self.inputs), place, case.output_gradient(batch))
        return self.run_of(case, Inputs(q, k, v, self.inputs.captured), d_o)()

    def paddings(self) -> Bits:
        """The sequence with positions behind it that its mask leaves out, and whose outputs nobody uses."""
        length = self.case.shape.N
        alone = self.run_of(self.case, self.inputs)()
        return compare_bits(alone, ((f"padding {n}", self._with_padding(n, length)) for n in PADDINGS))

    def _with_padding(self, count: int, length: int) -> Outcome:
        shape = self.case.shape
        case = replace(self.case, shape=shape._replace(M=length + count, N=length + count))
        longer = case.inputs(self.inputs.q.device)
        q, k, v = (_behind(x, others) for x, others in zip(self._main, longer.tensors, strict=False))
        d_o = _behind(self.case.output_gradient(self.inputs), torch.zeros_like(longer.q))
        found = self.run_of(case, Inputs(q, k, v, self.inputs.captured), d_o)()
        return {name: tensor[:, :, :length] for name, tensor in found.items()}

    @property
    def _main(self) -> tuple[Tensor, ...]:
        return self.inputs.q, self.inputs.k, self.inputs.v

    def run_of(self, case: Training, inputs: Inputs, d_o: Tensor | None = None) -> Callable[[], Outcome]:
        """Forward and backward of the form; d_o: the gradient that arrives, else the case's own."""
        return gradients_of(case, inputs, self.attention, d_o)


def _main(outcome: Outcome, place: int) -> Outcome:
    return {name: outcome[name][place : place + 1] for name in ("o", "dq", "dk", "dv")}


def _amid(own: Tensor, place: int, others: Tensor) -> Tensor:
    """A batch of others with one's own in a place."""
    return torch.cat([others[:place], own, others[place + 1 :]])


def _behind(own: Tensor, others: Tensor) -> Tensor:
    """A sequence with what others hold behind it."""
    return torch.cat([own, others[:, :, own.shape[2] :]], dim=2)
