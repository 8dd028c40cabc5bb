"""Several models as one, scores computed before, and how settings are tuned."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from m6rec.data.dataset import Dataset, Split, Targets
from m6rec.errors import InputError
from m6rec.evaluate.ranking import mid_ranks, ndcg, scored

UNIFORM = 0.01  # share of the prior that is uniform, so that no item is impossible
TUNING_TARGETS = 5_000  # validation targets at most that a setting is chosen on


class Interpolation(NamedTuple):
    """Log-linear: log p_model + weight · log p_prior. The prior's scores are counts: 0 or more."""

    model: Any
    prior: Any
    weight: float

    def scores(self, users: Targets) -> Tensor:
        """(B, N), higher = better."""
        counts = _scores(self.prior, users)
        share = (1 - UNIFORM) * (counts / counts.sum(1, keepdim=True).clamp(min=1e-12)) + UNIFORM / counts.shape[1]
        return _scores(self.model, users).log_softmax(-1) + self.weight * share.log()


class Ensemble(NamedTuple):
    """The mean of several models' log-probabilities."""

    models: Sequence[Any]

    def scores(self, users: Targets) -> Tensor:
        """(B, N), higher = better."""
        return torch.stack([_scores(model, users).log_softmax(-1) for model in self.models]).mean(0)


class CachedScorer:
    """A model whose scores (B, N) are computed once for each list of targets."""

    def __init__(self, model: Any):
        self.model, self._scores = model, {}

    def scores(self, users: Targets) -> Tensor:
        key = users.events.tobytes()
        if key not in self._scores:
            self._scores[key] = torch.as_tensor(self.model.scores(users)).cpu()
        return self._scores[key]


class Precomputed:
    """Scores (U, N) of target events (U,) that were computed elsewhere."""

    def __init__(self, name: str, events: np.ndarray, scores: np.ndarray):
        self.name, self._events, self._scores = name, pd.Index(events), scores

    def scores(self, users: Targets) -> np.ndarray:
        """(B, N). InputError for a target without scores."""
        rows = self._events.get_indexer(users.events)
        if (rows < 0).any():
            missing = users.events[rows < 0][0]
            raise InputError(f"{self.name} has no scores for the target event {missing}: rank the split's own.")
        return self._scores[rows]


def validation_ndcg(data: Dataset, split: Split) -> Callable[[Any], float]:
    """A function from a model to its NDCG@10, seen items masked, on validation targets (5,000 of them at most)."""
    targets = data.targets(np.sort(np.random.default_rng(0).permutation(split.valid)[:TUNING_TARGETS]))

    def score(model: Any) -> float:  # as `evaluate`'s, without all else that it says of a list
        ranks = [mid_ranks(scores, users, mask_seen=True) for users, scores in scored(model, targets)]
        return float(ndcg(np.concatenate(ranks)).mean())

    return score


def coordinate_ascent(
    score: Callable[[dict[str, float]], float], start: Mapping[str, float], grid: Mapping[str, Sequence[float]]
) -> dict[str, float]:
    """Each setting in turn goes along its grid while the score gets better, until no step of one setting helps.

    start: a value of its grid for each setting. Every combination is scored once at most.
    """
    value = cache(lambda *settings: score(dict(zip(start, settings, strict=True))))
    best, before = dict(start), None
    while best != before:
        before = best
        for name, steps in grid.items():
            for direction in (-1, 1):
                at = steps.index(best[name]) + direction
                while 0 <= at < len(steps) and value(*(best | {name: steps[at]}).values()) > value(*best.values()):
                    best = best | {name: steps[at]}
                    at += direction
    return best


def _scores(model: Any, users: Targets) -> Tensor:
    """(B, N) float64"""
    return torch.as_tensor(model.scores(users)).cpu().double()
