"""A second simulator, written from the contract of `tilewright schedule --json` and from nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Order = dict[str, Any]


def replay(order: Order, workers: int, compute: float, reduce: float, overlap: int = 0, latency: float = 0.0) -> float:
    """Small steps and no cleverness: among all visits that may reduce now, the one that ends first happens.

    Returns the makespan; raises AssertionError on a deadlock or where the order is not carried out to its end.
    """
    queue = [tuple(job) for job in order["issue"]]
    lists = None if order["lists"] is None else [[tuple(job) for job in jobs] for jobs in order["lists"]]
    visits = {job: order["visits"][f"{job[0]},{job[1]}"] for job in queue}
    turns = {tuple(map(int, name.split(","))): list(kvs) for name, kvs in order["reduction"].items()}
    now = [0.0] * workers  # when a worker took its job, later when it is free
    running: dict[int, dict[str, Any]] = {}
    last: dict[tuple[int, int], float] = {}  # when the sum into a q tile was ready for the next

    def take(worker: int) -> None:
        source = queue if lists is None else lists[worker] if worker < len(lists) else []
        if source:
            job = source.pop(0)
            running[worker] = {"job": job, "left": list(visits[job]), "ends": [now[worker]] * (overlap + 1), "done": now[worker]}

    def end_of(worker: int) -> float | None:
        """When the worker's next reduction would end, if it is its turn."""
        state = running[worker]
        head, kv = state["job"]
        tile = head, state["left"][0]
        if turns[tile][0] != kv:
            return None
        done = max(state["done"], state["ends"][-1 - overlap]) + compute
        return max(done, state["ends"][-1], last.get(tile, 0.0)) + reduce

    def step(worker: int, end: float) -> None:
        state = running[worker]
        head, _ = state["job"]
        tile = head, state["left"].pop(0)
        turns[tile].pop(0)
        state["done"] = max(state["done"], state["ends"][-1 - overlap]) + compute
        state["ends"].append(end)
        last[tile] = end + latency
        if not state["left"]:
            now[worker] = end
            del running[worker]

    while True:
        ready = [(end, worker) for worker in running if (end := end_of(worker)) is not None]
        free = sorted((now[worker], worker) for worker in range(workers) if worker not in running)
        waits = bool(queue) if lists is None else any(lists)
        can_take = [(at, worker) for at, worker in free if waits and (lists is None or (worker < len(lists) and lists[worker]))]
        if can_take and (not ready or can_take[0][0] <= min(ready)[0]):
            take(can_take[0][1])
        elif ready:
            step(min(ready)[1], min(ready)[0])
        else:
            break
    assert not running, f"deadlock: {[state['job'] for state in running.values()]}"
    assert not waits
    assert not any(turns.values())
    return max(now)


@pytest.fixture
def independent() -> Callable[..., float]:
    return replay
