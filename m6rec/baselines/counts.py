"""Baselines that count, and mixtures of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from m6rec.data.cooccurrence import DECAY, WINDOW, following, scaled
from m6rec.data.dataset import Dataset, Split, Targets, training_matrix
from m6rec.data.text import words
from m6rec.errors import InputError

BLOCK = 1_024  # scored items at a time


class Count:
    """Scores = history profile (B, N) x weights (N, N): row = item of the history, column = item scored.

    A sparse profile is summed in one order, so that scores do not depend on the chunk.
    """

    weights: np.ndarray | sp.csr_array | None = None
    length: int | None = None  # of the history that counts; None: all of it
    profile_decay: float | None = None

    def fit(self, data: Dataset, split: Split) -> Self:
        self.weights = self.count(data, split)
        return self

    def profile(self, users: Targets) -> sp.csr_array:
        """(B, N) float32: profile_decay ^ events ago, summed over the history; without a decay 1 for each item."""
        if self.profile_decay is None:
            return sp.csr_array(users.seen(), dtype=np.float32)
        history = users.history(self.length)  # (B, T), -1 before the first
        rows, positions = np.nonzero(history >= 0)
        gains = self.profile_decay ** (history.shape[1] - 1 - positions.astype(np.float64))
        shape = (len(users), users.data.n_items)
        return sp.csr_array((gains.astype(np.float32), (rows, history[rows, positions])), shape=shape)

    def scores(self, users: Targets) -> np.ndarray:
        """(B, N) float32, higher = better. InputError before `fit`."""
        if self.weights is None:
            raise InputError(f"{type(self).__name__} has no weights yet: call fit(data, split) before scores(users)")
        scores = self.profile(users) @ self.weights
        return scores.toarray() if sp.issparse(scores) else scores


class Popularity(Count):
    """Score = number of users with the item in training, the same for everybody."""

    def count(self, data: Dataset, split: Split) -> np.ndarray:
        return training_matrix(data, split).sum(axis=0, dtype=np.float32)[None]  # (1, N)

    def profile(self, users: Targets) -> np.ndarray:
        return np.ones((len(users), 1), np.float32)


@dataclass(eq=False)
class Markov(Count):
    """Dirichlet smoothing: P(j after i) = (n_ij + smoothing * j's share of events) / (n_i + smoothing)."""

    smoothing: float = 10.0
    length, profile_decay = 1, 1.0

    def count(self, data: Dataset, split: Split) -> sp.csr_array:
        item = data.events["item"].to_numpy()[split.train]
        self.shares = (np.bincount(item, minlength=data.n_items) / len(item)).astype(np.float32)
        counts = following(data, split, window=1)
        return (sp.diags_array(1 / (counts.sum(1) + self.smoothing)) @ counts).astype(np.float32)

    def scores(self, users: Targets) -> np.ndarray:
        """(B, N) float32 probabilities. InputError before `fit`."""
        moves = super().scores(users)
        return moves + (1 - moves.sum(1, keepdims=True)) * self.shares  # what the moves leave is smoothing / (n_i + it)


@dataclass(eq=False)
class ItemKNN(Count):
    """similarity(i, j) = n_ij / (sqrt(n_i n_j) + shrink), kept for the `neighbours` nearest i of each scored item j.

    n_ij: users who have both. The defaults have ML-100K's best validation NDCG@10 among 20 to 1000 and 0 to 200.
    """

    neighbours: int = 300
    shrink: float = 5.0

    def count(self, data: Dataset, split: Split) -> sp.csr_array:
        users_items = training_matrix(data, split)
        both, norms = (users_items.T @ users_items).tocsr(), np.sqrt(users_items.sum(axis=0))

        def similar(to: slice) -> np.ndarray:
            return both[to].toarray() / np.maximum(np.outer(norms[to], norms) + self.shrink, 1e-9)

        return _nearest(similar, data.n_items, self.neighbours).astype(np.float32)


@dataclass(eq=False)
class EASE(Count):
    """argmin_B |X - XB|^2 + l2 |B|^2 with diag(B) = 0: P = (X'X + l2 I)^-1, B = I - P / diag(P) (Steck 2019).

    N^2 memory, N^3 time. The default has ML-100K's best validation NDCG@10 among 20 to 5000.
    """

    l2: float = 100.0

    def count(self, data: Dataset, split: Split) -> np.ndarray:
        users_items = training_matrix(data, split)
        gram = (users_items.T @ users_items).toarray().astype(np.float64)
        gram[np.diag_indices_from(gram)] += self.l2
        inverse = np.linalg.inv(gram)
        weights = inverse / -np.diag(inverse)
        np.fill_diagonal(weights, 0)
        return weights.astype(np.float32)


@dataclass(eq=False)
class CoOccurrence(Count):
    """weights[i, j] = C[i, j] / (C's row sum i ^ row * C's column sum j ^ col).

    C[i, j] gains decay ^ (d - 1) when j comes d <= window events after i in a training history, and `backward` times
    that when before. It is the prior of the networks.
    """

    window: int = WINDOW
    decay: float = DECAY
    backward: float = 0.3
    row: float = 0.5
    col: float = 0.3
    profile_decay: float = 0.8

    def count(self, data: Dataset, split: Split) -> np.ndarray | sp.csr_array:
        return self.weigh(following(data, split, self.window, self.decay)).weights

    def weigh(self, forward: sp.csr_array) -> Self:
        """Fit to counts (N, N) that `following` made with this window and decay."""
        counts = sp.csr_array(forward + self.backward * forward.T)
        weights = scaled(counts, self.row, self.col).astype(np.float32)
        dense = weights.nnz > 0.1 * np.prod(weights.shape)  # it is faster, then
        self.weights = weights.toarray() if dense else weights
        return self


@dataclass(eq=False)
class ContentKNN(Count):
    """weights[i, j] = cosine of the texts' TF-IDF for the `neighbours` nearest i of each scored item j.

    The defaults are within .001 of ML-100K's best validation NDCG@10.
    """

    neighbours: int = 500
    profile_decay: float = 0.8

    def count(self, data: Dataset, split: Split) -> sp.csr_array:
        texts = tfidf(data)
        return _nearest(lambda to: (texts[to] @ texts.T).toarray(), data.n_items, self.neighbours)


@dataclass(eq=False)
class Mixture:
    """Linear interpolation (Jelinek & Mercer 1980) of scores of 0 or more: sum of share · scores / the scores' sum."""

    parts: Sequence[tuple[Any, float]]  # fitted baselines, each with its share

    def scores(self, users: Targets) -> np.ndarray:
        """(B, N); a row's sum is 1, or less where a part has counted nothing."""
        mixed = np.zeros((len(users), users.data.n_items))
        for model, share in self.parts:
            counts = np.asarray(model.scores(users), np.float64)
            mixed += share / np.maximum(counts.sum(1, keepdims=True), 1e-12) * counts
        return mixed


def tfidf(data: Dataset) -> sp.csr_array:
    """(N, words) float32, rows of unit length. InputError where no text has a word."""
    try:
        bag = TfidfVectorizer(analyzer=words, dtype=np.float32).fit_transform(data.items["text"])
    except ValueError as error:
        raise InputError(f"no item of {data.name} has a word in its text: give items a title or a text.") from error
    return sp.csr_array(bag)


def _nearest(similar: Callable[[slice], np.ndarray], items: int, neighbours: int) -> sp.csr_array:
    """(N, N): each item's column has its `neighbours`, and ties with the last."""
    blocks = []
    for start in range(0, items, BLOCK):
        block = similar(slice(start, start + BLOCK))
        block[np.arange(len(block)), start + np.arange(len(block))] = 0  # no item is its own neighbour
        least = torch.from_numpy(block).topk(min(neighbours, items)).values[:, -1:].numpy()
        blocks.append(sp.csr_array(np.where(block >= least, block, 0)))
    return sp.vstack(blocks).T.tocsr()
