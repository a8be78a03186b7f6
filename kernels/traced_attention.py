"""`attention` inside torch.compile: the callables become a subgraph, and the subgraph a kernel.

Dynamo traces score_mod and mask_mod once, on one element, with whatever they capture as operands of a higher-order
operator, guards included, also where they are defined inside of the compiled code. When the graph is lowered, or
run as it is, the operator turns the subgraph back into two callables and calls `attention` with them, so that one
`tilewright::call` is what remains.

Dynamo takes functions as operands of subclasses of its BaseHOP only, a private name of torch.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._higher_order_ops.base_hop import BaseHOP

from .modifiers import Modifier

__all__ = ["traced_attention"]

Outputs = tuple[torch.Tensor, ...]
RESULTS = 4  # o, lse, changed score, keep; then something of every argument
ARGUMENTS = 8  # q, k, v, score, b, h, q_idx, kv_idx
SCORE, KEEP = 2, 3


@dataclass(frozen=True, slots=True)
class Options:
    """What else `attention` is asked for."""

    scale: float | None
    enable_gqa: bool
    return_lse: bool
    has_score: bool
    has_mask: bool


class TracedAttention(BaseHOP):
    """hop(subgraph, *operands, options) -> o, lse, and tensors that nobody reads."""

    def __init__(self) -> None:
        super().__init__("tilewright_attention")

    def __call__(self, subgraph: Any, *operands: Any, options: tuple[Any, ...]) -> Outputs:
        """Only ever called on the subgraph that dynamo made."""
        from .attention import attention

        asked, parts = Options(*options), _parts(subgraph)
        q, k, v, score = (operands[place] for place in parts.places[:4])
        score_mod = _modifier(parts, parts.score, operands, 3) if asked.has_score else None
        mask_mod = _modifier(parts, parts.keep, operands, 4) if asked.has_mask else None
        found = attention(q, k, v, score_mod, mask_mod, asked.scale, asked.enable_gqa, return_lse=asked.return_lse)
        o, lse = found if isinstance(found, tuple) else (found, score)
        return o, lse, *[score] * (RESULTS - 2 + ARGUMENTS)


_hop = TracedAttention()


def traced_attention(  # noqa: PLR0913 - what `attention` takes
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    score_mod: Modifier | None,
    mask_mod: Modifier | None,
    scale: float | None,
    enable_gqa: bool,
    return_lse: bool,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """What dynamo traces in the place of `attention`."""

    def body(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, score: torch.Tensor, *index: torch.Tensor) -> Outputs:
        arguments = [q.new_empty(0), k.new_empty(0), v.new_empty(0), score + 0, *[one + 0 for one in index]]
        batch, heads, rows, _ = q.shape
        o = q.new_empty((batch, heads, rows, v.shape[3]))
        lse = q.new_empty((batch, heads, rows), dtype=torch.float32) if return_lse else score + 1
        changed = score + 2 if score_mod is None else score_mod(score, *index).clone()
        keep = index[0] == 0 if mask_mod is None else mask_mod(*index).clone()
        return o, lse, changed, keep, *arguments

    # One element, not none: indexing with a tensor of no dimension would ask dynamo for its value.
    index = [torch.zeros(1, dtype=torch.int64, device=q.device) for _ in range(4)]
    options = (scale, enable_gqa, return_lse, score_mod is not None, mask_mod is not None)
    o, lse, *_ = _hop(body, q, k, v, q.new_zeros(1), *index, options=options)
    return (o, lse) if return_lse else o


@dataclass(frozen=True, slots=True)
class Part:
    """The code of one output as a plain function of all operands, and which of them it reads."""

    function: types.FunctionType
    reads: frozenset[int]


@dataclass(frozen=True, slots=True)
class Parts:
    """A subgraph's two callables, and at which operands the arguments are."""

    places: tuple[int, ...]
    score: Part
    keep: Part


@functools.lru_cache(256)
def _parts(subgraph: torch.fx.GraphModule) -> Parts:
    """Dynamo lists operands as they are first used; the outputs that name one argument each tell which is which."""
    operands = [node for node in subgraph.graph.nodes if node.op == "placeholder"]
    outputs: Any = subgraph.graph.output_node().args[0]
    places = tuple(operands.index(node.args[0]) for node in outputs[RESULTS:])
    return Parts(places, _part(subgraph, SCORE), _part(subgraph, KEEP))


def _part(subgraph: torch.fx.GraphModule, position: int) -> Part:
    graph = torch.fx.Graph()
    outputs: Any = graph.graph_copy(subgraph.graph, {})
    graph.output(outputs[position])
    graph.eliminate_dead_code()
    operands = [node for node in graph.nodes if node.op == "placeholder"]
    reads = frozenset(place for place, operand in enumerate(operands) if operand.users)
    forward: Any = torch.fx.GraphModule(subgraph, graph).forward
    return Part(types.FunctionType(forward.__func__.__code__, forward.__func__.__globals__, "forward"), reads)


def _modifier(parts: Parts, part: Part, operands: Sequence[Any], first: int) -> Modifier:
    """A callable of the user's kind again, whose arguments are those from `first` on."""
    function, places = part.function, parts.places[first:]
    others = [_constant(operands[place]) if place in part.reads else None for place in range(len(operands))]
    for place in parts.places:
        others[place] = None

    def modifier(*elements: torch.Tensor) -> torch.Tensor:
        given = list(others)
        for place, element in zip(places, elements, strict=True):
            given[place] = element
        result: torch.Tensor = function(None, *given)
        return result

    return modifier


def _constant(operand: Any) -> Any:
    """Numbers that the callables capture are part of the kernel: dynamo compiles anew for others."""
    return int(operand) if isinstance(operand, torch.SymInt) else operand
