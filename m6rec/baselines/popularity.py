"""The most popular items, the same for everyone."""

from __future__ import annotations

import numpy as np

from m6rec.data.dataset import Dataset
from m6rec.data.splits import Split, Targets, training_matrix
from m6rec.errors import InputError


class Popularity:
    """Score of an item = number of users who have it among their training events."""

    name = "Popularity"
    counts: np.ndarray | None = None

    def fit(self, data: Dataset, split: Split) -> Popularity:
        """Count the training events. Returns self."""
        self.counts = training_matrix(data, split).sum(axis=0, dtype=np.float32)
        return self

    def scores(self, users: Targets) -> np.ndarray:
        """(B, N) float32, each row the same. InputError before `fit`."""
        if self.counts is None:
            raise InputError(f"{self.name} has no counts yet: call fit(data, split) before scores(users)")
        return np.tile(self.counts, (len(users), 1))
