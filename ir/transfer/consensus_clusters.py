"""Clusters of answers that mean the same, by a key or by a relation that need not be transitive."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

__all__ = ["clusters_by_key", "clusters_by_relation"]

A = TypeVar("A")
Groups = list[list[int]]


def clusters_by_key(answers: Sequence[A], key: Callable[[A], Hashable]) -> Groups:
    """Indices of answers with equal keys, a list per key; the first of each list stands for it."""
    groups: dict[Hashable, list[int]] = {}
    for number, answer in enumerate(answers):
        groups.setdefault(key(answer), []).append(number)
    return list(groups.values())


def clusters_by_relation(answers: Sequence[A], same: Callable[[A, A], bool]) -> Groups:
    """Indices of answers that are pairwise the same (complete linkage), the medoid of each list first.

    A relation such as "close to" is not transitive: chains of neighbours may join what is far apart. A cluster
    therefore starts at a medoid, the answer that is the same as most others, and takes in those that are the same as
    all it has. Two answers are the same if `same` says so in both directions. Equally central answers are taken in the
    order of their `repr`, so that the clusters do not depend on the order in which answers came.
    """
    order = sorted(range(len(answers)), key=lambda number: repr(answers[number]))
    near = _neighbours(answers, same, order)
    left, groups = list(order), []
    while left:
        open_ = set(left)
        medoid = max(left, key=lambda number: len(near[number] & open_))
        group = [medoid]
        for other in sorted(near[medoid] & open_, key=lambda number: _closeness(number, near, medoid, order)):
            if other != medoid and all(other in near[member] for member in group):
                group.append(other)
        groups.append([medoid, *sorted(group[1:])])
        left = [number for number in left if number not in set(group)]
    return groups


def _closeness(number: int, near: Sequence[set[int]], medoid: int, order: Sequence[int]) -> tuple[int, int]:
    """Sorts those first that share most neighbours with the medoid."""
    return -len(near[number] & near[medoid]), order.index(number)


def _neighbours(answers: Sequence[A], same: Callable[[A, A], bool], order: Sequence[int]) -> list[set[int]]:
    """For each answer the indices of those that are the same, its own included."""
    near = [{number} for number in range(len(answers))]
    for place, one in enumerate(order):
        for other in order[place + 1 :]:
            if same(answers[one], answers[other]) and same(answers[other], answers[one]):
                near[one].add(other)
                near[other].add(one)
    return near
