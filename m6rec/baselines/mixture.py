"""Counts of several kinds as one, so that one speaks where another has nothing to say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from m6rec.data.splits import Targets


class Mixture:
    """sum of share · scores / the scores' sum: a chance for each item from counts (0 or more) of several kinds.

    Where a kind has counted nothing for a person, the others keep their proportions. (Linear interpolation of language
    models: Jelinek & Mercer 1980.)
    """

    name = "Mixture"

    def __init__(self, parts: Sequence[tuple[Any, float]]):
        """parts: fitted baselines, each with its share."""
        self.parts = tuple(parts)

    def scores(self, users: Targets) -> np.ndarray:
        """(B, N), higher = better; a row's sum is 1, or less where a kind is silent."""
        mixed = np.zeros((len(users), users.data.n_items))
        for model, share in self.parts:
            counts = np.asarray(model.scores(users), np.float64)
            mixed += share / np.maximum(counts.sum(1, keepdims=True), 1e-12) * counts
        return mixed
