"""Settings by validation: a few numbers that go up and down their grids, judged on validation targets alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from m6rec.data.dataset import Dataset
from m6rec.data.splits import Split
from m6rec.evaluate.ranking import checked, mid_ranks, ndcg

JUDGES = 5_000  # validation targets that judge
CHUNK = 256  # scored at a time


def judge(data: Dataset, split: Split, seed: int = 0) -> Callable[[Any], float]:
    """A model's NDCG@10, seen items masked, on the validation targets, or on 5,000 of them drawn by seed."""
    targets = data.targets(np.sort(np.random.default_rng(seed).permutation(split.valid)[:JUDGES]))

    def score(model: Any) -> float:  # as `evaluate`'s, without all else that it says of a list
        parts = [targets[start : start + CHUNK] for start in range(0, len(targets), CHUNK)]
        ranks = [mid_ranks(checked(model.scores(users), users, model.name), users, mask_seen=True) for users in parts]
        return float(ndcg(np.concatenate(ranks)).mean())

    return score


def climb(
    score: Callable[[dict[str, float]], float], start: Mapping[str, float], grid: Mapping[str, Sequence[float]]
) -> dict[str, float]:
    """Coordinate ascent: each setting in turn goes along its grid while the score gets better, until none does.

    start: a value of its grid for each setting. Every setting is scored once. Example: climb(lambda s: -s["x"] ** 2,
    {"x": 2}, {"x": [-1, 0, 1, 2]}) is {"x": 0}.
    """
    known: dict[tuple, float] = {}

    def value(settings: dict[str, float]) -> float:
        key = tuple(settings.values())
        if key not in known:
            known[key] = score(settings)
        return known[key]

    best, before = dict(start), None
    while best != before:
        before = best
        for name, steps in grid.items():
            for direction in (-1, 1):
                place = steps.index(best[name]) + direction
                while 0 <= place < len(steps) and value({**best, name: steps[place]}) > value(best):
                    best = {**best, name: steps[place]}
                    place += direction
    return best
