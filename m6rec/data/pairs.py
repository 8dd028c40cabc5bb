"""Which items stand near which in the training histories: counts, neighbourhoods, and vectors to start from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.utils.extmath import randomized_svd
from torch import Tensor

from m6rec.data.dataset import Dataset
from m6rec.data.splits import Split

WINDOW, DECAY = 10, 0.8
NEAR = 20  # neighbours of an item
COMMON = 0.4  # exponent by which common items count for less


class Neighbourhood(NamedTuple):
    """What a target's probability is shared among: the item itself first, then its neighbours."""

    item: Tensor  # (N, K) item codes
    share: Tensor  # (N, K), rows sum to 1

    def to(self, device: torch.device) -> Neighbourhood:
        """The same on a device."""
        return Neighbourhood(self.item.to(device), self.share.to(device))


def following(data: Dataset, split: Split, window: int = WINDOW, decay: float = DECAY) -> sp.csr_array:
    """(N, N): [i, j] gains decay ^ (d - 1) for each time that j comes d <= window training events after i."""
    user, item = data.events[["user", "item"]].to_numpy()[split.train].T
    pairs, gains = [], []
    for distance in range(1, window + 1):
        same = user[distance:] == user[:-distance]
        pairs.append(np.stack([item[:-distance][same], item[distance:][same]]))
        gains.append(np.full(same.sum(), decay ** (distance - 1)))
    rows, columns = np.concatenate(pairs, axis=1)
    return sp.csr_array((np.concatenate(gains), (rows, columns)), shape=(data.n_items, data.n_items))


def scaled(counts: sp.csr_array, row: float, col: float) -> sp.csr_array:
    """Each count divided by its row's sum ^ row and by its column's sum ^ col: (N, N)."""
    rows, columns = ((sums := counts.sum(axis)) + (sums == 0) for axis in (1, 0))  # no pairs, nothing to divide by
    data = np.repeat(rows**-row, np.diff(counts.indptr)) * counts.data * (columns**-col)[counts.indices]
    return sp.csr_array((data, counts.indices, counts.indptr), shape=counts.shape)


def neighbourhood(data: Dataset, split: Split, share: float) -> Neighbourhood:
    """Each item keeps 1 - share, and its nearest others have the rest, by how often they stand near it, either way."""
    counts = _company(data, split)
    counts = sp.csr_array(counts @ sp.diags_array(np.maximum(counts.sum(0), 1e-12) ** -COMMON))
    item, shares = np.tile(np.arange(data.n_items)[:, None], (1, NEAR + 1)), np.zeros((data.n_items, NEAR + 1))
    for row, (start, end) in enumerate(zip(counts.indptr[:-1], counts.indptr[1:], strict=True)):
        best = start + np.argsort(-counts.data[start:end], kind="stable")[:NEAR]
        item[row, 1 : 1 + len(best)] = counts.indices[best]
        shares[row, 1 : 1 + len(best)] = share * counts.data[best] / max(counts.data[best].sum(), 1e-12)
    shares[:, 0] = 1 - shares.sum(1)
    return Neighbourhood(torch.from_numpy(item), torch.from_numpy(shares.astype(np.float32)))


def spectral(data: Dataset, split: Split, width: int) -> np.ndarray:
    """Vectors (N, width) with products like the items' positive pointwise mutual information, scaled to deviation 1.

    They are what skip-gram would learn of the training histories (Levy & Goldberg 2014), in a second and by a singular
    value decomposition. Items without company have zeros, and so have channels beyond the number of items.
    """
    counts = _company(data, split).tocoo()
    sums = counts.sum(0)
    information = np.log(counts.data * sums.sum() / (sums[counts.row] * sums[counts.col]))
    near = sp.csr_array((np.maximum(information, 0), (counts.row, counts.col)), shape=counts.shape)
    left, size, _ = randomized_svd(near, min(width, data.n_items), random_state=0)
    vectors = np.zeros((data.n_items, width), np.float32)
    vectors[:, : len(size)] = left * np.sqrt(size)
    return vectors / max(vectors.std(), 1e-12)


def _company(data: Dataset, split: Split) -> sp.csr_array:
    """(N, N): how often two items stand near each other, either way; what is had again is no company of its own."""
    counts = following(data, split)
    counts = sp.csr_array(counts + counts.T)
    counts.setdiag(0)
    counts.eliminate_zeros()
    return counts
