"""What the item-to-item baselines share: scores = history profile x item-to-item weights."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch

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


def recent(users: Targets, decay: float, length: int | None = None) -> sp.csr_array:
    """A profile (B, N) float32 of the last `length` events (None: all): each weighs decay ^ the events after it."""
    history = users.history(length)  # (B, T), most recent last, -1 before the first
    rows, places = np.nonzero(history >= 0)
    gains = decay ** (history.shape[1] - 1 - places.astype(np.float64))
    shape = (len(users), users.data.n_items)
    return sp.csr_array((gains.astype(np.float32), (rows, history[rows, places])), shape=shape)


def nearest(similarity: np.ndarray, neighbours: int) -> sp.csr_array:
    """The `neighbours` largest of each row (n, N), and whatever equals the last of them."""
    least = torch.from_numpy(similarity).topk(min(neighbours, similarity.shape[1])).values[:, -1:].numpy()
    return sp.csr_array(np.where(similarity >= least, similarity, 0))
