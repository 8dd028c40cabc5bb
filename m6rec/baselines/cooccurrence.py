"""Decayed directed co-occurrence: which items follow which, how closely, in the training histories.

The strongest of the count-based baselines on ordered histories, and the count prior that can be blended with a network.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from m6rec.baselines.linear import ItemToItem, recent
from m6rec.data.dataset import Dataset, Split, Targets
from m6rec.data.pairs import DECAY, WINDOW, following, power


class CoOccurrence(ItemToItem):
    """weights[i, j] = C[i, j] / (C's row sum i ^ row * C's column sum j ^ col), profile = profile_decay ^ events ago.

    C[i, j] gains decay ^ (d - 1) when j comes d <= window events after i, and backward times that when before.
    """

    name = "CoOccurrence"

    def __init__(
        self,
        window: int = WINDOW,
        decay: float = DECAY,
        backward: float = 0.3,
        row: float = 0.5,
        col: float = 0.3,
        profile_decay: float = 0.8,
    ):
        self.window, self.decay, self.backward = window, decay, backward
        self.row, self.col, self.profile_decay = row, col, profile_decay

    def fit(self, data: Dataset, split: Split) -> CoOccurrence:
        """Count the training events, which lie by user and time. Returns self."""
        forward = following(data, split, self.window, self.decay)
        counts = forward + self.backward * forward.T
        self.weights = (power(counts.sum(1), -self.row) @ counts @ power(counts.sum(0), -self.col)).astype(np.float32)
        return self

    def profile(self, users: Targets) -> sp.csr_array:
        """(B, N) float32: the nearer an event to the target, the more it weighs."""
        return recent(users, self.profile_decay)
