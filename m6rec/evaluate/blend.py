"""Several models as one (a network with a prior, an ensemble), scores computed before, and how settings are tuned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from m6rec.data.dataset import Dataset, Split, Targets
from m6rec.errors import InputError
from m6rec.evaluate.ranking import mid_ranks, ndcg, scored

UNIFORM = 0.01  # share of the prior that is uniform, so that no item is impossible
TUNING_TARGETS = 5_000  # validation targets at most that a setting is chosen on


class Interpolation:
    """Log-linear: log p_model + weight · log p_prior. The prior's scores are counts: 0 or more."""

    def __init__(self, model: Any, prior: Any, weight: float):
        self.model, self.prior, self.weight = model, prior, weight
        self.name = f"{model.name} with a prior"

    def scores(self, users: Targets) -> Tensor:
        """(B, N), higher = better."""
        counts = torch.as_tensor(self.prior.scores(users)).cpu().double()
        share = counts / counts.sum(1, keepdim=True).clamp(min=1e-12)
        return _log_probabilities(self.model, users) + self.weight * torch.log(
            (1 - UNIFORM) * share + UNIFORM / counts.shape[1]
        )


class Ensemble:
    """The mean of several models' log-probabilities."""

    def __init__(self, models: Sequence[Any]):
        self.models = tuple(models)
        self.name = f"{len(self.models)} models averaged"

    def scores(self, users: Targets) -> Tensor:
        """(B, N), higher = better."""
        return torch.stack([_log_probabilities(model, users) for model in self.models]).mean(0)


class CachedScorer:
    """A model whose scores are computed once for each list of targets."""

    def __init__(self, model: Any):
        self.model, self.name, self._scores = model, model.name, {}

    def scores(self, users: Targets) -> Tensor:
        """(B, N), the model's own."""
        key = users.events.tobytes()
        if key not in self._scores:
            self._scores[key] = torch.as_tensor(self.model.scores(users)).cpu()
        return self._scores[key]


class Precomputed:
    """Scores (U, N) of target events (U,) that were computed elsewhere."""

    def __init__(self, name: str, events: np.ndarray, scores: np.ndarray):
        self.name, self._scores, self._rows = name, scores, {event: row for row, event in enumerate(events.tolist())}

    def scores(self, users: Targets) -> np.ndarray:
        """(B, N). InputError for a target without scores."""
        events = users.events.tolist()
        if missing := [event for event in events if event not in self._rows]:
            raise InputError(f"{self.name} has no scores for the target event {missing[0]}: rank the split's own.")
        return self._scores[[self._rows[event] for event in events]]


def validation_ndcg(data: Dataset, split: Split, seed: int = 0) -> Callable[[Any], float]:
    """A function from a model to its NDCG@10, seen items masked, on validation targets (5,000 of them at most)."""
    targets = data.targets(np.sort(np.random.default_rng(seed).permutation(split.valid)[:TUNING_TARGETS]))

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
    values: dict[tuple, float] = {}

    def value(settings: dict[str, float]) -> float:
        key = tuple(settings.values())
        if key not in values:
            values[key] = score(settings)
        return values[key]

    best, before = dict(start), None
    while best != before:
        before = best
        for name, steps in grid.items():
            for direction in (-1, 1):
                at = steps.index(best[name]) + direction
                while 0 <= at < len(steps) and value({**best, name: steps[at]}) > value(best):
                    best = {**best, name: steps[at]}
                    at += direction
    return best


def _log_probabilities(model: Any, users: Targets) -> Tensor:
    """(B, N) float64"""
    return torch.as_tensor(model.scores(users)).cpu().double().log_softmax(-1)
