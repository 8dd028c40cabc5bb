"""Models as one: a network's log-probabilities and a count's added, or several networks' averaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from m6rec.data.splits import Targets
from m6rec.errors import InputError

UNIFORM = 0.01  # share of the prior that all items get alike, so that none is impossible


class Blended:
    """log p_model + weight · log p_prior. The prior's scores are counts: 0 or more, and fitted on training events."""

    def __init__(self, model: Any, prior: Any, weight: float):
        self.model, self.prior, self.weight = model, prior, weight
        self.name = f"{model.name} with a prior"

    def scores(self, users: Targets) -> Tensor:
        """(B, N), higher = better."""
        own = _spoken(self.model, users)
        counts = torch.as_tensor(self.prior.scores(users)).cpu().double()
        share = counts / counts.sum(1, keepdim=True).clamp(min=1e-12)
        return own + self.weight * ((1 - UNIFORM) * share + UNIFORM / counts.shape[1]).log()


class Averaged:
    """Several models as one, an ensemble: the mean of their log-probabilities."""

    def __init__(self, models: Sequence[Any]):
        self.models = tuple(models)
        self.name = f"{len(self.models)} models averaged"

    def scores(self, users: Targets) -> Tensor:
        """(B, N), higher = better."""
        return torch.stack([_spoken(model, users) for model in self.models]).mean(0)


class Precomputed:
    """Scores (U, N) of target events (U,) that were computed elsewhere."""

    def __init__(self, name: str, events: np.ndarray, scores: np.ndarray):
        self.name, self._scores, self._rows = name, scores, {event: row for row, event in enumerate(events.tolist())}

    def scores(self, users: Targets) -> np.ndarray:
        """(B, N), in the order of the users asked for. InputError for a target without scores."""
        events = users.events.tolist()
        missing = [event for event in events if event not in self._rows]
        if missing:
            raise InputError(f"{self.name} has no scores for the target event {missing[0]}: rank the split's own.")
        return self._scores[[self._rows[event] for event in events]]


class Once:
    """A model whose scores are worked out once for each list of targets, however often it is blended."""

    def __init__(self, model: Any):
        self.model, self.name, self._known = model, model.name, {}

    def scores(self, users: Targets) -> Tensor:
        """(B, N), the model's own."""
        key = users.events.tobytes()
        if key not in self._known:
            self._known[key] = torch.as_tensor(self.model.scores(users)).cpu()
        return self._known[key]


def _spoken(model: Any, users: Targets) -> Tensor:
    """A model's log-probabilities (B, N)."""
    return torch.as_tensor(model.scores(users)).cpu().double().log_softmax(-1)
