"""Ground truth of bazaar's simulated shoppers: why they bought, and how much each modality counts for them.

Taste, the last purchase and the request influence every choice: even all true vectors do not tell its cause for sure,
and `bayes_optimal` is the upper bound.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr

from m6rec.config import MODALITIES
from m6rec.data import bazaar, load
from m6rec.data.context import encode_events
from m6rec.explain.explainers import Explainer, one, tokens
from m6rec.recommender import M6Rec
from m6rec.tasks.heldout import ColdStart

# Modalities that are kept -> those that are dropped.
SUBSETS = {k: tuple(m for m in MODALITIES if m not in k) for n in (3, 2, 1) for k in combinations(MODALITIES, n)}
# Training on next events alone, at full size: items are known by their contents, not as themselves.
CONTENTS = {
    "identity": False, "patch_weight": 0.0, "align_weight": 0.0, "dropout": 0.1, "text_length": 16,
    "pretrain_epochs": 16, "learning_rate": 4e-3, "batch": 32, "validate_every": 2,
}  # fmt: skip
REQUESTS = 10  # a user's last requests, whose scores are averaged: no single purchase decides


class Bazaar(ColdStart):
    """bazaar without the items and users that its truth holds out; users: the first so many alone."""

    def __init__(self, users: int | None = None):
        data, self.truth = load("bazaar"), bazaar.truth()
        if users is not None:
            data = data.without([], np.arange(users, data.n_users))
        super().__init__(data, np.flatnonzero(self.truth.held_out), np.flatnonzero(self.truth.cold_users))
        self.ceiling = bazaar.BayesOptimal(self.truth)
        absent = {field: np.zeros_like(values) for field, values in self.truth.requests.items()}
        self.no_context_ceiling = bazaar.BayesOptimal(self.truth._replace(requests=absent))  # no field moves a choice
        shares = self.truth.shares[self.data.targets(self.cases["valid"][0]).users]
        # (U, M), in the order of MODALITIES, of the validation users
        self.modality_weights = shares[:, [("image", "sound", "text").index(m) for m in MODALITIES]]

    def agreement(self, runs: Sequence[np.ndarray]) -> list[float]:
        """Spearman's correlation of measured weights (U, M) with the true ones."""
        return [float(spearmanr(weights.ravel(), self.modality_weights.ravel()).statistic) for weights in runs]


@torch.no_grad()
def mean_logits(model: M6Rec, trial: ColdStart, drop: tuple[str, ...] = ()) -> torch.Tensor:
    """Logits (U, N) for the validation users, the mean over their last REQUESTS."""
    targets = trial.data.targets(trial.cases["valid"][0])
    back = np.minimum(np.arange(REQUESTS), (targets.events - trial.data.offsets[targets.users])[:, None])  # (U, 10)
    context = model.target_context(targets)
    request = encode_events(trial.data, model.fields).request[targets.events[:, None] - back]
    position = (context.position - torch.from_numpy(back)).clamp(min=0)
    vectors = model.item_vectors(drop=drop)
    fused = model.fuse(context._replace(request=torch.from_numpy(request), position=position), vectors)
    return fused.state.mean(1) @ vectors.T


def weights_by_dropping(model: M6Rec, trial: ColdStart) -> np.ndarray:
    """Each modality's weight for each validation user: (U, M), rows add up to 1.

    The standard deviation over items of the change that dropping it makes, over the mean user's: an equal change of all
    items changes no list.
    """
    before = mean_logits(model, trial)
    change = torch.stack([(mean_logits(model, trial, (m,)) - before).std(1) for m in MODALITIES], 1)
    change /= change.mean(0).clamp(min=1e-9)
    return (change / change.sum(1, keepdim=True).clamp(min=1e-9)).cpu().numpy()


@torch.no_grad()
def weights_by_attention(model: M6Rec, trial: ColdStart, k: int = 50) -> np.ndarray:
    """The encoder's attention in each user's k best items: (U, M), rows add up to 1."""
    weights = model.network.encode_items(weights=True).modality_weights()
    return weights[mean_logits(model, trial).topk(k).indices].mean(1).cpu().numpy()


class CauseRanks(NamedTuple):
    """explainer -> (E,) bool, whether the stored cause ranks first."""

    first: dict[str, np.ndarray]  # of all events and request fields
    among: dict[str, np.ndarray]  # of its own type, events or fields


@torch.no_grad()
def caused_events(
    models: Sequence[M6Rec], shop: Bazaar, *, top: int | None = 50, most: int | None = None, seed: int = 0
) -> np.ndarray:
    """Warm test events (E,) caused by an event or a request field, of items among every model's first `top`.

    top=None: at any rank. most: draw so many. Items bought before are not ranked.
    """
    rows = shop.cases["warm"][0]
    rows = rows[shop.truth.events["cause"].iloc[rows].isin(["event", "request"])]
    for model in models if top is not None else ():
        targets = shop.data.targets(rows)
        scores = model.scores(targets).cpu().numpy()
        scores[targets.seen().toarray()] = -np.inf
        rows = rows[(scores > scores[np.arange(len(rows)), targets.items, None]).sum(1) < top]
    drawn = most is not None and most < len(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False)) if drawn else rows


def cause_ranks(model: M6Rec, shop: Bazaar, explainers: Mapping[str, Explainer], events: np.ndarray) -> CauseRanks:
    """Explain purchases of `caused_events`."""
    ranks = CauseRanks(*({name: np.zeros(len(events), bool) for name in explainers} for _ in range(2)))
    names = [f.name for f in model.fields.request]
    for row, (event, stored) in enumerate(zip(events, shop.truth.events.iloc[events].itertuples(), strict=True)):
        target = shop.data.targets(np.array([event]))
        context = one(model.target_context(target))
        types, positions = map(np.array, tokens(context)[:2])
        if stored.cause == "request":
            cause = np.flatnonzero((types == "request") & (positions == names.index(stored.cause_field)))[0]
        else:
            cause = np.flatnonzero(types == "history")[int(stored.cause_event) - event]
        for name, explain in explainers.items():
            effects = explain(model, context, int(target.items[0]))
            for rivals, out in zip((np.isin(types, ("history", "request")), types == types[cause]), ranks, strict=True):
                out[name][row] = np.where(rivals, effects, -np.inf).argmax() == cause
    return ranks


def bayes_optimal(shop: Bazaar, events: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The most probable causes, by Bayes' rule on the simulation's formula, given all true vectors and the purchase.

    -> as `CauseRanks`, and the probability of the most probable event or field: (E,) each.
    """
    stored = shop.truth.events.iloc[events]
    posterior = shop.ceiling.causes(shop.data.targets(events))  # (E, causes)
    types = np.array([cause.kind for cause in bazaar.CAUSES])
    back = events - stored["cause_event"].to_numpy()
    which = [field or int(b) for field, b in zip(stored["cause_field"], back, strict=True)]
    true = np.array([[cause.which for cause in bazaar.CAUSES].index(w) for w in which])
    every = np.where(np.isin(types, ["event", "request"]), posterior, -1)
    own = np.where(types == types[true][:, None], posterior, -1)
    return every.argmax(1) == true, own.argmax(1) == true, every.max(1)
