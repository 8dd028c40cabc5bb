"""Baselines that learn from `Ratings` whether a user will like an item -> scores (n,) of rows, higher = likelier."""

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


def item_mean(ratings: Ratings, rows: np.ndarray) -> np.ndarray:
    """The mean of the others' ratings of the item, in stars."""
    return ratings.numbers["others"].to_numpy()[rows]


def logistic(ratings: Ratings, rows: np.ndarray) -> np.ndarray:
    """Log-odds of a logistic regression on all numeric features."""
    x, train = ratings.features, ratings.train
    model = LogisticRegression(C=0.01, max_iter=1000).fit(x[train], ratings.liked[train])
    return model.decision_function(x[rows])


def din(ratings: Ratings, rows: np.ndarray, *, numbers: bool = False, epochs: int = 4, seed: int = 0) -> np.ndarray:
    """Log-odds of a DIN-like network: the candidate attends to the items rated before (Zhou et al. 2018, section 4.3).

    Users, items, genres and stars are embedded; `numbers` adds the regression's features. The attention weights come
    from an MLP over [h, c, h - c, h · c] and are not normalised. The epoch that validates best counts.
    """
    torch.manual_seed(seed)
    rng, device, best = np.random.default_rng(seed), pick_device(), -1.0
    features = ratings.features[:, 0 if numbers else ratings.numbers.shape[1] :]
    network = DINNetwork(ratings, features.shape[1]).to(device)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, weight_decay=1e-5)

    def logits(network: nn.Module, rows: np.ndarray) -> Tensor:
        past = ratings.history(rows, HISTORY)
        seen, stars = np.where(past >= 0, ratings.item[past], -1), np.rint(ratings.value[past]).astype(np.int64)
        inputs = ratings.user[rows], ratings.item[rows], seen, stars, features[rows]
        return network(*(torch.from_numpy(part).to(device) for part in inputs))

    def losses(network: nn.Module, rows: np.ndarray) -> dict[str, Tensor]:
        truth = torch.from_numpy(ratings.liked[rows]).float().to(device)
        return {"liked": F.binary_cross_entropy_with_logits(logits(network, rows), truth)}

    @torch.no_grad()
    def scores(rows: np.ndarray) -> np.ndarray:
        parts = np.array_split(rows, max(1, len(rows) // 1000))
        return np.concatenate([logits(network.eval(), part).cpu().numpy() for part in parts])

    for _ in range(epochs):
        batches = np.array_split(rng.permutation(ratings.train), max(1, len(ratings.train) // 128))
        train_epoch(network, optimizer, batches, losses)
        auc = roc_auc_score(ratings.liked[ratings.valid], scores(ratings.valid))
        if auc >= best:
            best, found = auc, scores(rows)
    return found


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
        """Users and items (B,), items before (B, T) or -1, their stars (B, T), numbers (B, F) -> logits (B,)."""
        c, present = self._item(item), (seen >= 0)[..., None]
        h = self._item(seen.clamp(min=0))  # (B, T, D)
        candidate = c[:, None].expand_as(h)
        weights = self.weight(torch.cat((h, candidate, h - candidate, h * candidate), -1))  # (B, T, 1)
        pooled = (weights * present * (h + self.stars(stars))).sum(1) / present.sum(1).clamp(min=1)
        return self.head(torch.cat((self.users(user), c, pooled, pooled * c, numbers), -1)).squeeze(-1)

    def _item(self, item: Tensor) -> Tensor:
        return self.items(item) + self.genre(self.genres[item])
