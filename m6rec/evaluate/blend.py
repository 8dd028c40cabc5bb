"""Models as one: a network's log-probabilities and a count's, added with a weight that validation chooses; a mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from m6rec.data.dataset import Dataset
from m6rec.data.splits import Split, Targets
from m6rec.evaluate.ranking import evaluate

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
UNIFORM = 0.01  # share of the prior that all items get alike, so that none is impossible
JUDGES = 5_000  # validation targets that choose

Model = TypeVar("Model")


def best(models: Sequence[Model], data: Dataset, split: Split, seed: int = 0) -> Model:
    """The one with the highest NDCG@10 (seen masked) on the validation targets, or on 5,000 of them drawn by seed."""
    drawn = np.random.default_rng(seed).permutation(split.valid)[:JUDGES]
    judged = split._replace(valid=np.sort(drawn))
    return max(models, key=lambda model: evaluate(model, data, split=judged, part="valid").metrics["ndcg@10"])


class _Once:
    """A model whose scores are worked out once for each list of targets."""

    def __init__(self, model: Any):
        self.model, self.name, self._known = model, model.name, {}

    def scores(self, users: Targets) -> Tensor:
        key = users.events.tobytes()
        if key not in self._known:
            self._known[key] = torch.as_tensor(self.model.scores(users)).cpu()
        return self._known[key]


class Averaged:
    """Several models as one, an ensemble: the mean of their log-probabilities."""

    def __init__(self, models: Sequence[Any]):
        self.models = tuple(models)
        self.name = f"{len(self.models)} models averaged"

    def scores(self, users: Targets) -> Tensor:
        """(B, N), higher = better."""
        return torch.stack([_spoken(model, users) for model in self.models]).mean(0)


class Blended:
    """log p_model + weight · log p_prior. The prior's scores are counts: 0 or more, and fitted on training events."""

    def __init__(self, model: Any, prior: Any, weight: float):
        self.model, self.prior, self.weight = model, prior, weight
        self.name = f"{model.name} with a prior"

    @classmethod
    def chosen(cls, model: Any, priors: Sequence[Any], data: Dataset, split: Split) -> Blended:
        """With the prior and the weight that are best on validation; weight 0 leaves the model as it is."""
        own, counts = _Once(model), [_Once(prior) for prior in priors]
        found = best([cls(own, count, weight) for count in counts for weight in WEIGHTS], data, split)
        return cls(model, found.prior.model, found.weight)

    def scores(self, users: Targets) -> Tensor:
        """(B, N), higher = better."""
        own = _spoken(self.model, users)
        counts = torch.as_tensor(self.prior.scores(users)).cpu().double()
        share = counts / counts.sum(1, keepdim=True).clamp(min=1e-12)
        return own + self.weight * ((1 - UNIFORM) * share + UNIFORM / counts.shape[1]).log()


def _spoken(model: Any, users: Targets) -> Tensor:
    """A model's log-probabilities (B, N)."""
    return torch.as_tensor(model.scores(users)).cpu().double().log_softmax(-1)
