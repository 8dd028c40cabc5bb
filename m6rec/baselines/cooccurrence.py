"""Decayed directed co-occurrence: which items follow which, how closely, in the training histories.

The strongest of the count-based baselines on ordered histories, and the count prior that can be blended with a network.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from m6rec.baselines.linear import ItemToItem, recent
from m6rec.data.cooccurrence import DECAY, WINDOW, following, scaled
from m6rec.data.dataset import Dataset, Split, Targets

FILLED = 0.1  # share of pairs from which on a dense table is multiplied faster


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
        return self.weigh(following(data, split, self.window, self.decay))

    def weigh(self, forward: sp.csr_array) -> CoOccurrence:
        """Fit to counts (N, N) that `following` made with this window and decay: all else is quick. Returns self."""
        counts = sp.csr_array(forward + self.backward * forward.T)
        weights = scaled(counts, self.row, self.col).astype(np.float32)
        self.weights = weights.toarray() if weights.nnz > FILLED * np.prod(weights.shape) else weights
        return self

    def profile(self, users: Targets) -> sp.csr_array:
        """(B, N) float32: the nearer an event to the target, the more it weighs."""
        return recent(users, self.profile_decay)
