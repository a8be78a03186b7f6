"""The tables of a backward: every kept tile once, whole tiles marked, sequences alike wherever they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tilewright.ir.dtypes import DType, Kind
from tilewright.ir.expr import Op, apply, load, var
from tilewright.ir.spec import BATCH, COLUMN, HEAD, ROW, AttentionSpec, TensorSpec
from tilewright.kernels.gradients.tables import Order, Tables, block_classes, make_tables

TILE = (16, 32)
SIZES = {"B": 2, "Hq": 4, "Hkv": 2, "M": 70, "N": 90}
CAUSAL = apply(Op.LE, COLUMN, ROW)


def spec_of(keep, captured=()) -> AttentionSpec:  # type: ignore[no-untyped-def]
    return AttentionSpec("masked", DType.F32, 16, 16, 2, captured=tuple(captured), keep=keep)


def documents() -> tuple[AttentionSpec, dict[str, torch.Tensor]]:
    ids = TensorSpec("ids", DType.I32, ("B", "M"))
    same = apply(Op.EQ, load("ids", (BATCH, ROW), Kind.INT), load("ids", (BATCH, COLUMN), Kind.INT))
    values = torch.zeros(2, 96, dtype=torch.int32)
    values[0, 40:] = 1
    values[1, 20:] = 1
    values[1, 64:] = 2
    return spec_of(same, [ids]), {"ids": values}


def kept(spec: AttentionSpec, sizes: dict[str, int], tensors: dict[str, torch.Tensor]) -> np.ndarray:
    """Which elements the mask keeps, [B, Hq, M, N], evaluated one by one."""
    from tilewright.ir.evaluate import evaluate

    axes = [np.arange(sizes[name]) for name in ("B", "Hq", "M", "N")]
    env = dict(zip("bhij", np.meshgrid(*axes, indexing="ij"), strict=True)) | sizes
    return np.broadcast_to(evaluate(spec.keep, env, {n: t.numpy() for n, t in tensors.items()}), [len(a) for a in axes])


def expanded(tables: Tables) -> dict[tuple[int, int, int], list[tuple[int, int, int, int]]]:
    """(b, kv head, kv tile) -> its visits (member, q tile, rank, whole)."""
    starts, visits = tables.lists.tolist(), tables.visits.tolist()
    return {
        (b, g, n): [tuple(v) for v in visits[starts[line] : starts[line + 1]]]
        for b, g, n, line in tables.jobs.tolist()
    }


def cases() -> list[tuple[str, AttentionSpec, dict[str, torch.Tensor], dict[str, int]]]:
    by_documents, ids = documents()
    window = apply(Op.AND, CAUSAL, apply(Op.LT, ROW - COLUMN, var("h") * 8 + 20))
    return [
        ("causal", spec_of(CAUSAL), {}, SIZES),
        ("full", spec_of(apply(Op.LE, COLUMN, COLUMN)), {}, SIZES),
        ("window by head", spec_of(window), {}, SIZES),
        ("documents", by_documents, ids, SIZES | {"M": 96, "N": 96}),
        ("nothing", spec_of(apply(Op.LT, COLUMN, ROW * 0)), {}, SIZES),
    ]


@pytest.mark.parametrize(("name", "spec", "tensors", "sizes"), cases(), ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("mode", ["safe", "greedy"])
def test_every_kept_element_is_visited_once(name, spec, tensors, sizes, mode) -> None:  # type: ignore[no-untyped-def]
    tables = make_tables(block_classes(spec, TILE, sizes, tensors), sizes, Order(mode, workers=4))
    seen, elements = np.zeros((2, 4, sizes["M"], sizes["N"]), int), kept(spec, sizes, tensors)
    jobs = expanded(tables)
    assert len(jobs) == 2 * 2 * -(-sizes["N"] // TILE[1])
    ranks: dict[tuple[int, int, int], list[int]] = {}
    for (b, g, n), visits in jobs.items():
        for member, m, rank, whole in visits:
            h, rows, columns = 2 * g + member, slice(m * 16, m * 16 + 16), slice(n * 32, n * 32 + 32)
            seen[b, h, rows, columns] += 1
            ranks.setdefault((b, h, m), []).append(rank)
            if whole:
                assert elements[b, h, rows, columns].shape == TILE
                assert elements[b, h, rows, columns].all()
    assert (seen[elements] == 1).all()
    assert seen.max() <= 1
    assert all(sorted(found) == list(range(len(found))) for found in ranks.values())


def test_a_sequence_has_its_plan_wherever_it_is() -> None:
    spec, tensors = documents()
    sizes = SIZES | {"M": 96, "N": 96}
    both = expanded(make_tables(block_classes(spec, TILE, sizes, tensors), sizes, Order()))
    for b in range(2):
        alone = {"ids": tensors["ids"][b : b + 1]}
        one = sizes | {"B": 1}
        found = expanded(make_tables(block_classes(spec, TILE, one, alone), one, Order()))
        assert {(b, g, n): visits for (_, g, n), visits in found.items()} == {k: v for k, v in both.items() if k[0] == b}


def test_a_mask_for_all_is_looked_at_once() -> None:
    assert block_classes(spec_of(CAUSAL), TILE, SIZES, {}).shape[:2] == (1, 1)
    assert block_classes(spec_of(apply(Op.LE, COLUMN, ROW + HEAD)), TILE, SIZES, {}).shape[:2] == (1, 4)
    spec, tensors = documents()
    assert block_classes(spec, TILE, SIZES | {"M": 96, "N": 96}, tensors).shape[:2] == (2, 1)


def test_tables_grow_with_tiles_not_heads() -> None:
    """Heads of one mask share their lines."""
    few = make_tables(block_classes(spec_of(CAUSAL), TILE, SIZES, {}), SIZES, Order())
    many_sizes = SIZES | {"B": 8, "Hq": 64, "Hkv": 32}
    many = make_tables(block_classes(spec_of(CAUSAL), TILE, many_sizes, {}), many_sizes, Order())
    assert len(many.visits) <= 2 * len(few.visits)
    assert len(many.jobs) == 8 * 32 * 3


def test_heads_in_a_row_keep_their_own_order() -> None:
    tables = make_tables(block_classes(spec_of(CAUSAL), TILE, SIZES, {}), SIZES, Order())
    moved = tables.head_by_head()
    heads = [(b, g) for b, g, *_ in moved.jobs.tolist()]
    assert heads == sorted(heads)
    for head in set(heads):
        of_head = [job for job in tables.jobs.tolist() if (job[0], job[1]) == head]
        assert [job for job in moved.jobs.tolist() if (job[0], job[1]) == head] == of_head
    greedy = make_tables(block_classes(spec_of(CAUSAL), TILE, SIZES, {}), SIZES, Order("greedy", workers=4))
    if greedy.min_resident > 1:
        assert greedy.head_by_head() is greedy
