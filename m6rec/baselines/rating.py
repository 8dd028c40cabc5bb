"""Baselines that predict from `Ratings` whether a user will like an item; scores (n,), higher = likelier."""

import copy
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from m6rec.config import pick_device
from m6rec.data.ratings import Ratings
from m6rec.train.fit import train_epoch

HISTORY = 20  # items rated before that DIN attends to


class ItemMean:
    """The mean of the others' ratings of the item."""

    def fit(self, ratings: Ratings, rows: np.ndarray) -> Self:
        """They are counted already, on all training events."""
        self.means = ratings.numbers["others"].to_numpy()
        return self

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """(n,) stars"""
        return self.means[rows]


class Logistic:
    """A logistic regression on all numeric features."""

    def fit(self, ratings: Ratings, rows: np.ndarray) -> Self:
        """rows: the labelled examples."""
        self.features = ratings.features
        self.model = LogisticRegression(C=0.01, max_iter=1000).fit(ratings.features[rows], ratings.liked[rows])
        return self

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """(n,) log-odds"""
        return self.model.decision_function(self.features[rows])


@dataclass
class DIN:
    """A DIN-like network: the candidate attends to the items rated before (Zhou et al. 2018, section 4.3).

    Users, items, genres and stars are embedded; `numbers` adds the regression's features. The attention weights come
    from an MLP over [h, c, h - c, h · c] and are not normalised. The epoch that validates best is kept.
    """

    numbers: bool = False
    epochs: int = 4
    seed: int = 0

    def fit(self, ratings: Ratings, rows: np.ndarray) -> Self:
        """Adam over the labelled examples."""
        torch.manual_seed(self.seed)
        rng, self.ratings = np.random.default_rng(self.seed), ratings
        self.features = ratings.features[:, 0 if self.numbers else ratings.numbers.shape[1] :]
        self.network, best = DINNetwork(ratings, self.features.shape[1]).to(pick_device()), -1.0
        optimizer = torch.optim.Adam(self.network.parameters(), 1e-3, weight_decay=1e-5)

        def losses(network: nn.Module, batch: np.ndarray) -> dict[str, Tensor]:
            truth = torch.from_numpy(ratings.liked[batch]).float().to(network.genres.device)
            return {"liked": F.binary_cross_entropy_with_logits(network(*self._inputs(batch)), truth)}

        for _ in range(self.epochs):
            batches = np.array_split(rng.permutation(rows), max(1, len(rows) // 128))
            train_epoch(self.network, optimizer, batches, losses)
            self.network.eval()
            auc = roc_auc_score(ratings.liked[ratings.valid], self.scores(ratings.valid))
            if auc >= best:
                best, weights = auc, copy.deepcopy(self.network.state_dict())
        self.network.load_state_dict(weights)
        return self

    @torch.no_grad()
    def scores(self, rows: np.ndarray) -> np.ndarray:
        """(n,) log-odds"""
        parts = np.array_split(rows, max(1, len(rows) // 1000))
        return np.concatenate([self.network(*self._inputs(part)).cpu().numpy() for part in parts])

    def _inputs(self, rows: np.ndarray) -> tuple[Tensor, ...]:
        """Users and items (B,), items before (B, T) or -1, their stars (B, T), numbers (B, F)."""
        ratings, past = self.ratings, self.ratings.history(rows, HISTORY)
        seen, stars = np.where(past >= 0, ratings.item[past], -1), np.rint(ratings.value[past]).astype(np.int64)
        inputs = ratings.user[rows], ratings.item[rows], seen, stars, self.features[rows]
        return tuple(torch.from_numpy(part).to(self.network.genres.device) for part in inputs)


class DINNetwork(nn.Module):
    def __init__(self, ratings: Ratings, features: int, width: int = 16):
        super().__init__()
        self.register_buffer("genres", torch.from_numpy(ratings.genres.astype(np.float32)))
        sizes = (ratings.data.n_users, ratings.data.n_items, 6)
        self.users, self.items, self.stars = (nn.Embedding(size, width) for size in sizes)
        self.genre = nn.Linear(ratings.genres.shape[1], width, bias=False)
        self.weight = nn.Sequential(nn.Linear(4 * width, 36), nn.PReLU(), nn.Linear(36, 1))
        inputs = 4 * width + features
        self.head = nn.Sequential(nn.Linear(inputs, 64), nn.PReLU(), nn.Dropout(0.2), nn.Linear(64, 1))
        for embedding in (self.users, self.items):
            nn.init.normal_(embedding.weight, std=0.01)

    def forward(self, user: Tensor, item: Tensor, seen: Tensor, stars: Tensor, numbers: Tensor) -> Tensor:
        c, present = self._item(item), (seen >= 0)[..., None]
        h = self._item(seen.clamp(min=0))  # (B, T, D)
        candidate = c[:, None].expand_as(h)
        weights = self.weight(torch.cat((h, candidate, h - candidate, h * candidate), -1))  # (B, T, 1)
        pooled = (weights * present * (h + self.stars(stars))).sum(1) / present.sum(1).clamp(min=1)
        return self.head(torch.cat((self.users(user), c, pooled, pooled * c, numbers), -1)).squeeze(-1)

    def _item(self, item: Tensor) -> Tensor:
        return self.items(item) + self.genre(self.genres[item])
