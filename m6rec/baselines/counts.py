"""Baselines that count: popularity, Markov chain, item-kNN, EASE, co-occurrence, content-kNN, and mixtures of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from m6rec.data.cooccurrence import DECAY, WINDOW, following, scaled
from m6rec.data.dataset import Dataset, Split, Targets, training_matrix
from m6rec.data.text import clean
from m6rec.errors import InputError

FILLED = 0.1  # share of pairs from which on a dense table is multiplied faster
BLOCK = 1_024  # scored items whose similarities are held at a time


class Popularity:
    """Score of an item = number of users who have it among their training events."""

    name = "Popularity"
    counts: np.ndarray | None = None

    def fit(self, data: Dataset, split: Split) -> Popularity:
        """Returns self."""
        self.counts = training_matrix(data, split).sum(axis=0, dtype=np.float32)
        return self

    def scores(self, users: Targets) -> np.ndarray:
        """(B, N) float32, each row the same. InputError before `fit`."""
        if self.counts is None:
            raise InputError(f"{self.name} has no counts yet: call fit(data, split) before scores(users)")
        return np.tile(self.counts, (len(users), 1))


class ItemToItem:
    """Scores = history profile (B, N) x weights (N, N): row = item of the history, column = item scored.

    A profile is sparse, so that each row is summed in the same order whatever the chunk: scores do not depend on it.
    """

    name: str
    weights: np.ndarray | sp.csr_array | None = None
    profile_decay: float | None = None

    def profile(self, users: Targets) -> sp.csr_array:
        """(B, N) float32: profile_decay ^ events ago for each event before the target; without a decay 1 an item."""
        if self.profile_decay is None:
            return sp.csr_array(users.seen(), dtype=np.float32)
        return recent(users, self.profile_decay)

    def scores(self, users: Targets) -> np.ndarray:
        """(B, N) float32, higher = better. InputError before `fit`."""
        if self.weights is None:
            raise InputError(f"{self.name} has no weights yet: call fit(data, split) before scores(users)")
        scores = self.profile(users) @ self.weights
        return scores.toarray() if sp.issparse(scores) else scores


class Markov(ItemToItem):
    """First order: P(j after i) = (n_ij + smoothing * share of j among all events) / (n_i + smoothing).

    Dirichlet smoothing: where the last item was followed by few, popularity decides. From .5 to 200, NDCG@10 on
    ML-100K's validation events moves by .0003.
    """

    name = "Markov"

    def __init__(self, smoothing: float = 10.0):
        self.smoothing = smoothing

    def fit(self, data: Dataset, split: Split) -> Markov:
        """Count the training events, which lie by user and time. Returns self."""
        user, item = data.events[["user", "item"]].to_numpy()[split.train].T
        same = user[1:] == user[:-1]
        pair = (item[:-1][same], item[1:][same])
        counts = sp.csr_array((np.ones(same.sum()), pair), shape=(data.n_items, data.n_items))
        self.weights = (sp.diags_array(1 / (counts.sum(1) + self.smoothing)) @ counts).astype(np.float32)
        self.shares = (np.bincount(item, minlength=data.n_items) / len(item)).astype(np.float32)
        return self

    def profile(self, users: Targets) -> sp.csr_array:
        """(B, N) float32: 1 for the last item before the target."""
        return recent(users, 1.0, length=1)

    def scores(self, users: Targets) -> np.ndarray:
        """(B, N) float32: probabilities, rows sum to 1. InputError before `fit`."""
        moves = super().scores(users)
        return moves + (1 - moves.sum(1, keepdims=True)) * self.shares  # what the moves leave is smoothing / (n_i + it)


class ItemKNN(ItemToItem):
    """similarity(i, j) = n_ij / (sqrt(n_i n_j) + shrink), kept for the `neighbours` nearest i of each scored item j.

    n_ij is the number of users who have both. The defaults have the best NDCG@10 on ML-100K's validation events among
    20, 50, 100, 200, 300, 500 and 1000 neighbours with a shrinkage of 0, 5, 10, 20, 50, 100 and 200.
    """

    name = "ItemKNN"

    def __init__(self, neighbours: int = 300, shrink: float = 5.0):
        self.neighbours, self.shrink = neighbours, shrink

    def fit(self, data: Dataset, split: Split) -> ItemKNN:
        """Returns self."""
        users_items = training_matrix(data, split)
        both = (users_items.T @ users_items).tocsr()
        both.setdiag(0)
        norms = np.sqrt(users_items.sum(axis=0))

        def similar(to: slice) -> np.ndarray:
            block = both[to].toarray()
            block /= np.maximum(np.outer(norms[to], norms) + self.shrink, 1e-9)
            return block

        self.weights = _nearest(similar, data.n_items, self.neighbours).astype(np.float32)
        return self


class EASE(ItemToItem):
    """argmin_B |X - XB|^2 + l2 |B|^2 with diag(B) = 0: P = (X'X + l2 I)^-1, B = I - P / diag(P) (Steck 2019).

    The default has the best NDCG@10 on ML-100K's validation events among 20, 50, 100, 200, 500, 1000, 2000 and 5000.
    """

    name = "EASE"

    def __init__(self, l2: float = 100.0):
        self.l2 = l2

    def fit(self, data: Dataset, split: Split) -> EASE:
        """Solve for the (N, N) weights: N^2 memory, N^3 time. Returns self."""
        users_items = training_matrix(data, split)
        gram = (users_items.T @ users_items).toarray().astype(np.float64)
        gram[np.diag_indices_from(gram)] += self.l2
        inverse = np.linalg.inv(gram)
        weights = inverse / -np.diag(inverse)
        np.fill_diagonal(weights, 0)
        self.weights = weights.astype(np.float32)
        return self


class CoOccurrence(ItemToItem):
    """weights[i, j] = C[i, j] / (C's row sum i ^ row * C's column sum j ^ col), profile = profile_decay ^ events ago.

    C[i, j] gains decay ^ (d - 1) when j comes d <= window events after i in a training history, and backward times
    that when before. The strongest of the counts on ordered histories, and the prior that is blended with a network.
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


class ContentKNN(ItemToItem):
    """weights[i, j] = cosine of the texts' TF-IDF for the `neighbours` nearest i of each scored item j, cold or warm.

    profile = profile_decay ^ events ago. The defaults are within .001 of the best NDCG@10 on ML-100K's validation
    events among 20, 50, 100, 200, 500 and 2000 (all) neighbours with a decay of .7, .8, .9 and .95.
    """

    name = "ContentKNN"

    def __init__(self, neighbours: int = 500, profile_decay: float = 0.8):
        self.neighbours, self.profile_decay = neighbours, profile_decay

    def fit(self, data: Dataset, split: Split) -> ContentKNN:
        """Returns self. InputError where no text has a word."""
        texts = tfidf(data)

        def similar(to: slice) -> np.ndarray:
            block = (texts[to] @ texts.T).toarray()
            block[np.arange(len(block)), to.start + np.arange(len(block))] = 0
            return block

        self.weights = _nearest(similar, data.n_items, self.neighbours)
        return self


class Mixture:
    """Linear interpolation (Jelinek & Mercer 1980): sum of share · scores / the scores' sum, of counts (0 or more).

    Where one has counted nothing for a user, the others keep their proportions.
    """

    name = "Mixture"

    def __init__(self, parts: Sequence[tuple[Any, float]]):
        """parts: fitted baselines, each with its share."""
        self.parts = tuple(parts)

    def scores(self, users: Targets) -> np.ndarray:
        """(B, N), higher = better; a row's sum is 1, or less where a part has counted nothing."""
        mixed = np.zeros((len(users), users.data.n_items))
        for model, share in self.parts:
            counts = np.asarray(model.scores(users), np.float64)
            mixed += share / np.maximum(counts.sum(1, keepdims=True), 1e-12) * counts
        return mixed


def recent(users: Targets, decay: float, length: int | None = None) -> sp.csr_array:
    """A profile (B, N) float32 of the last `length` events (None: all): each weighs decay ^ the events after it."""
    history = users.history(length)  # (B, T), most recent last, -1 before the first
    rows, positions = np.nonzero(history >= 0)
    gains = decay ** (history.shape[1] - 1 - positions.astype(np.float64))
    shape = (len(users), users.data.n_items)
    return sp.csr_array((gains.astype(np.float32), (rows, history[rows, positions])), shape=shape)


def tfidf(data: Dataset) -> sp.csr_array:
    """(N, words) float32, rows of unit length: TF-IDF of the items' texts. InputError where no text has a word."""
    try:
        words = TfidfVectorizer(token_pattern=r"\w+", dtype=np.float32).fit_transform(data.items["text"].map(clean))
    except ValueError as error:
        raise InputError(f"no item of {data.name} has a word in its text: give items a title or a text.") from error
    return sp.csr_array(words)


def _nearest(similar: Callable[[slice], np.ndarray], items: int, neighbours: int) -> sp.csr_array:
    """Weights (N, N): in the column of each item its `neighbours` most similar items, and what equals the last of them.

    similar: rows of similarities (n, N) of some of the items.
    """
    blocks = []
    for start in range(0, items, BLOCK):
        block = similar(slice(start, start + BLOCK))
        least = torch.from_numpy(block).topk(min(neighbours, items)).values[:, -1:].numpy()
        blocks.append(sp.csr_array(np.where(block >= least, block, 0)))
    return sp.vstack(blocks).T.tocsr()
