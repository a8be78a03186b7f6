"""A generative model of ensembles that answer questions, chosen before anything was measured with it.

Every question has a true answer (0) and a difficulty b ~ N(0, 1). Every model has a skill a, and knows the answer with
probability 1 / (1 + exp(b - a)), each model for itself. A model that knows gives the true answer with probability 0.9,
else any of the others. One that does not is, half of the time, unsure: its distribution over all answers is drawn from
a flat Dirichlet; half of the time it is sure of something wrong: 0.9 on one wrong answer, which is one time in three
the question's common misconception and else its own. Every model is sampled a few times. The ensemble's answer is the
one with the largest mass; what is to be foretold is that it is wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

SKILLS = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)
ANSWERS = 8
SURE = 0.9
UNSURE = 0.5  # of those that do not know
COMMON = 1 / 3  # of those that are sure of something wrong


@dataclass(frozen=True)
class Question:
    """What each model answered, time after time."""

    answers: dict[str, list[int]]


def _peaked(at: int) -> np.ndarray:
    p = np.full(ANSWERS, (1 - SURE) / (ANSWERS - 1))
    p[at] = SURE
    return p


def _belief(rng: np.random.Generator, skill: float, difficulty: float, misconception: int) -> np.ndarray:
    if rng.random() < 1 / (1 + math.exp(difficulty - skill)):
        return _peaked(0)
    if rng.random() < UNSURE:
        return rng.dirichlet(np.ones(ANSWERS))
    return _peaked(misconception if rng.random() < COMMON else int(rng.integers(1, ANSWERS)))


def questions(count: int, models: int, samples: int, seed: int) -> list[Question]:
    """Drawn from the model above; the first models are the most skilled."""
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(count):
        difficulty, misconception = rng.normal(), int(rng.integers(1, ANSWERS))
        beliefs = [_belief(rng, skill, difficulty, misconception) for skill in SKILLS[:models]]
        answers = {f"model {n}": rng.choice(ANSWERS, samples, p=p).tolist() for n, p in enumerate(beliefs)}
        drawn.append(Question(answers))
    return drawn
