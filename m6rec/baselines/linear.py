"""What the item-to-item baselines share: scores = history profile x item-to-item weights."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from m6rec.data.splits import Targets
from m6rec.errors import InputError


class ItemToItem:
    """A baseline whose scores are the history profile times weights (N, N): row = item had, column = item scored.

    A profile is sparse, so that each row is summed in the same order whatever the chunk: scores do not depend on it.
    """

    name: str
    weights: np.ndarray | sp.csr_array | None = None

    def profile(self, users: Targets) -> sp.csr_array:
        """(B, N) float32: 1 for each item before the target."""
        return sp.csr_array(users.seen(), dtype=np.float32)

    def scores(self, users: Targets) -> np.ndarray:
        """(B, N) float32, higher = better. InputError before `fit`."""
        if self.weights is None:
            raise InputError(f"{self.name} has no weights yet: call fit(data, split) before scores(users)")
        scores = self.profile(users) @ self.weights
        return scores.toarray() if sp.issparse(scores) else scores
