"""Item co-occurrence in the training histories: counts, nearest neighbours, and spectral start vectors."""

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
NEIGHBOURS = 20
COMMON = 0.4  # exponent by which common items count for less


class Neighbourhood(NamedTuple):
    """Smoothed targets: the items that share a target's probability, itself first, then its neighbours."""

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
    return sp.csr_array((np.concatenate(gains), np.concatenate(pairs, axis=1)), shape=(data.n_items, data.n_items))


def scaled(counts: sp.csr_array, row: float, col: float) -> sp.csr_array:
    """Each count divided by its row's sum ^ row and by its column's sum ^ col: (N, N)."""
    rows, columns = ((sums := counts.sum(axis)) + (sums == 0) for axis in (1, 0))  # no pairs, nothing to divide by
    data = np.repeat(rows**-row, np.diff(counts.indptr)) * counts.data * (columns**-col)[counts.indices]
    return sp.csr_array((data, counts.indices, counts.indptr), shape=counts.shape)


def neighbourhood(data: Dataset, split: Split, share: float) -> Neighbourhood:
    """Each item keeps 1 - share; its nearest others divide the rest by their co-occurrence, in either order."""
    counts = _symmetric(data, split)
    counts = sp.csr_array(counts @ sp.diags_array(np.maximum(counts.sum(0), 1e-12) ** -COMMON))
    item, shares = np.tile(np.arange(data.n_items)[:, None], NEIGHBOURS + 1), np.zeros((data.n_items, NEIGHBOURS + 1))
    for row, (start, end) in enumerate(zip(counts.indptr[:-1], counts.indptr[1:], strict=True)):
        best = start + np.argsort(-counts.data[start:end], kind="stable")[:NEIGHBOURS]
        item[row, 1 : 1 + len(best)] = counts.indices[best]
        shares[row, 1 : 1 + len(best)] = share * counts.data[best] / max(counts.data[best].sum(), 1e-12)
    shares[:, 0] = 1 - shares.sum(1)
    return Neighbourhood(torch.from_numpy(item), torch.from_numpy(shares.astype(np.float32)))


def spectral(data: Dataset, split: Split, width: int) -> np.ndarray:
    """Vectors (N, width) whose products approximate the items' positive PMI, scaled to standard deviation 1.

    They are what skip-gram would learn of the training histories (Levy & Goldberg 2014), by a singular value
    decomposition. Items without co-occurrence have zeros, and so have channels beyond the number of items.
    """
    counts = _symmetric(data, split).tocoo()
    sums = counts.sum(0)
    pmi = np.log(counts.data * sums.sum() / (sums[counts.row] * sums[counts.col]))
    positive = sp.csr_array((np.maximum(pmi, 0), (counts.row, counts.col)), shape=counts.shape)
    left, size, _ = randomized_svd(positive, min(width, data.n_items), random_state=0)
    vectors = np.zeros((data.n_items, width), np.float32)
    vectors[:, : len(size)] = left * np.sqrt(size)
    return vectors / max(vectors.std(), 1e-12)


def _symmetric(data: Dataset, split: Split) -> sp.csr_array:
    """(N, N): how often two items co-occur, in either order; an item does not co-occur with itself."""
    counts = following(data, split)
    counts = sp.csr_array(counts + counts.T)
    counts.setdiag(0)
    counts.eliminate_zeros()
    return counts
