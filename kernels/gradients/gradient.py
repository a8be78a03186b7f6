"""One compiled backward: its program, its tables, and a run that gives dq, dk and dv."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ...ir.errors import ScheduleError
from ...ir.gradient import Backward
from ...ir.program import TileAt, statements
from ...ir.spec import AttentionSpec
from ...ir.transfer import pack_operands, retile, set_launch
from ...ir.transfer.backward import tile_sums, transfer_backward
from ...lowering import TARGETS
from ...schedules.tuning import backward_form, choose_backward
from ..arguments import bind_sizes
from ..compiled import Compiled, Stages, lower_program
from ..references import reference_program
from ..report import Report
from .tables import Order, Tables, block_classes, is_data_dependent, make_tables

__all__ = ["Gradient", "Known", "arguments", "compile_backward"]

MAX_TABLES = 64
SAFE = "safe"
OUTPUTS = ("dq", "dk", "dv")


@dataclass(frozen=True, slots=True)
class Known:
    """What the forward leaves for the backward. lse is None where the normaliser has none, d_lse where nobody asks.

    o [B, Hq, M, Dv], lse [B, Hq, M]; d_o, d_lse: gradients that arrive, of the same shapes.
    """

    o: torch.Tensor
    lse: torch.Tensor | None
    d_o: torch.Tensor
    d_lse: torch.Tensor | None = None


def compile_backward(
    backward: Backward, target: str, arch: str | None = None, *, is_ordered: bool = True, stages: Stages | None = None
) -> Compiled:
    """Backward of a spec -> program -> source, for one target. Nothing is built yet.

    is_ordered: the same bits in every run; otherwise sums are added as they come.
    """
    stages = stages or Stages()
    arch = arch or TARGETS[target].default_arch()
    how = choose_backward(backward.spec, target, arch)
    with stages.stage("transfer"):
        reference = reference_program(backward_form(backward.spec, target, arch))
        program = transfer_backward(reference, backward, is_ordered=is_ordered)
        program = set_launch(retile(program, dict(how.tiles)), how.warps, how.stages)
        if how.is_packed:
            program = tile_sums(pack_operands(program))
    return lower_program(program, target, arch, spec=backward.spec, stages=stages)


def arguments(
    compiled: Compiled, tensors: Sequence[torch.Tensor], known: Known, others: Mapping[str, torch.Tensor] | None = None
) -> list[torch.Tensor]:
    """What a program takes, in its order: q, k, v and captured tensors come first, whatever the program calls them."""
    named = dict(zip((param.name for param in compiled.inputs), tensors, strict=False))
    nothing = torch.zeros((), dtype=torch.float32, device=known.o.device).expand(known.o.shape[:3])
    named |= {"o": known.o, "d_o": known.d_o, "lse": nothing if known.lse is None else known.lse}
    named |= {"d_lse": nothing if known.d_lse is None else known.d_lse, **(others or {})}
    return [named[param.name] for param in compiled.inputs]


class Gradient:
    """A compiled backward and the tables of the masks that it has met. May be called by several threads.

    is_planned: whether the program reads tables; one without sums of several instances needs none.
    """

    def __init__(self, compiled: Compiled, spec: AttentionSpec, order: Order | None = None) -> None:
        self.compiled = compiled
        self.spec = spec
        self.order = order or Order()
        self._tables: dict[object, Tables] = {}
        self._lock = threading.Lock()
        tiles = {s.name: s.tiles.tile for s in statements(compiled.program.body) if isinstance(s, TileAt)}
        self.is_planned = any(param.name == "jobs" for param in compiled.inputs)
        self.tile = tiles.get("m", 1), tiles.get("n", 1)

    def __call__(self, tensors: Sequence[torch.Tensor], known: Known) -> tuple[torch.Tensor, ...]:
        """dq, dk and dv of q, k, v and the captured tensors, in new memory of the types and shapes of q, k and v."""
        asked = self.given(tensors, known)
        if asked is None:
            return tuple(torch.zeros_like(tensor) for tensor in tensors[:3])
        found = self._run(*asked)
        if found is None:  # the safe plan from now on
            return self(tensors, known)
        return found["dq"], found["dk"], found["dv"]

    def _run(self, given: list[torch.Tensor], sizes: dict[str, int], resident: int) -> dict[str, torch.Tensor] | None:
        """The gradients; None where the plan needs more workers at once than there are, which then is in the report."""
        if resident == 1:
            return self.compiled.run(given, sizes)
        try:
            return self.compiled.run(given, sizes, least_workers=resident)
        except ScheduleError as error:
            report, self.order = self.compiled.report or Report(()), replace(self.order, mode=SAFE)
            note = f"the {SAFE} plan is used: {str(error).splitlines()[0]}"
            self.compiled.report = replace(report, notes=(*report.notes, note))
            return None

    def given(
        self, tensors: Sequence[torch.Tensor], known: Known
    ) -> tuple[list[torch.Tensor], dict[str, int], int] | None:
        """What the program takes, tables included, all sizes, and how many workers must run at once.

        None where there is nothing to compute.
        """
        sizes = {**self.compiled.fixed, **bind_sizes(self.spec.tensors, tensors)}
        if 0 in (sizes["B"], sizes["Hq"], sizes["M"], sizes["N"]):
            return None
        if not self.is_planned:
            return arguments(self.compiled, tensors, known), sizes, 1
        tables = self.tables(sizes, tensors)
        of_tables = {"jobs": tables.jobs, "lists": tables.lists, "visits": tables.visits}
        return arguments(self.compiled, tensors, known, of_tables), sizes | tables.sizes, tables.min_resident

    def tables(self, sizes: Mapping[str, int], tensors: Sequence[torch.Tensor]) -> Tables:
        """The tables for these sizes and captured tensors, on their device; made where the mask's tiles are new."""
        own = {name: size for name, size in sizes.items() if name not in ("D", "Dv")}
        device = tensors[0].device
        key: object = (device, self.order, *sorted(own.items()))
        captured = {t.name: x for t, x in zip(self.spec.tensors, tensors, strict=True)}
        classes = None
        if is_data_dependent(self.spec):
            classes = block_classes(self.spec, self.tile, sizes, captured)
            key = key, classes.tobytes()
        found = self._tables.get(key)
        if found is None:
            if classes is None:
                classes = block_classes(self.spec, self.tile, sizes, captured)
            found = make_tables(classes, sizes, self.order).to(device)
            if self.compiled.lowered.target == "cpu":
                found = found.head_by_head()
            with self._lock:
                if len(self._tables) >= MAX_TABLES:
                    self._tables.clear()
                self._tables[key] = found
        return found
