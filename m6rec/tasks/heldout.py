"""Items and users that training never sees, and bazaar, where it is known why shoppers bought."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr

from m6rec.config import MODALITIES, Array, choose
from m6rec.data import Dataset, bazaar, load
from m6rec.data.context import encode_events
from m6rec.evaluate import Interpolation, evaluate
from m6rec.explain.explainers import Explainer, one, tokens
from m6rec.recommender import M6Rec

# Training on next events alone, at full size: items are known by their contents.
CONTENTS = {
    "identity": False, "patch_weight": 0.0, "align_weight": 0.0, "dropout": 0.1, "text_length": 16,
    "pretrain_epochs": 16, "learning_rate": 4e-3, "batch": 32, "validate_every": 2,
}  # fmt: skip
# Everything: contents, then events beside contents and prompts, then digits and fusion.
JOINT = {
    **CONTENTS, "vocabulary": 1500, "recency": 0.0, "item_epochs": 60, "pretrain_epochs": 20, "finetune_epochs": 3,
    "catalogue_dropout": 0.15, "infill_weight": 0.2, "patch_weight": 0.2, "align_weight": 0.1, "text_weight": 0.2,
}  # fmt: skip
REQUESTS = 10  # a user's last, whose scores are averaged: no single purchase decides


class ColdStart:
    """Items and users (codes) are held out; `train` has the other events, `shots` the rows of held-out items that known
    users bought before any target.

    cases: name -> rows of data.events, and the codes that are ranked (None: all). "warm"; "cold" (known users, held-out
    items, ranked among these), "cold_both" (held-out users, too), "cold_any" (both); "cold_users" and "cold_last"
    (held-out users' first and last event, if its item is known); "valid" and "valid_cold" of the validation part."""

    def __init__(self, data: Dataset, items: Array, users: Sequence[int] = ()):
        self.data, self.split, self.items = data, data.split(), np.asarray(items)
        self.train = data.without(items, users)
        user, item = data.events["user"].to_numpy(), data.events["item"].to_numpy()
        cold, new = np.isin(item, items), np.isin(user, users)  # (E,)
        self.shots = np.flatnonzero(self.split.train & cold & ~new)
        # Users with fewer than three events left only train.
        warm = ~(cold | new) & (np.diff(self.train.offsets) >= 3)[user]
        test, valid, first = self.split.test, self.split.valid, np.flatnonzero(np.diff(user, prepend=-1))
        cases = {
            "warm": (test, warm, None),
            "cold": (test, cold & ~new, self.items),
            "cold_both": (test, cold & new, self.items),
            "cold_any": (test, cold, self.items),
            "cold_users": (first, new & ~cold, None),
            "cold_last": (test, new & ~cold, None),
            "valid": (valid, warm, None),
            "valid_cold": (valid, cold & ~new, self.items),
        }
        self.cases = {case: (rows[mask[rows]], pool) for case, (rows, mask, pool) in cases.items()}

    @classmethod
    def drawn(cls, data: Dataset, share: float = 0.1, seed: int = 0) -> "ColdStart":
        """A random share of the items."""
        return cls(data, np.random.default_rng(seed).permutation(data.n_items)[: round(share * data.n_items)])

    @property
    def chance(self) -> float:
        """The expected NDCG@10 of a random ranking of held-out items; of all, if there are none."""
        return float((1 / np.log2(np.arange(2, 12))).sum() / (len(self.items) or self.data.n_items))

    def ndcg(self, models: Sequence[object], case: str = "warm", first: int | None = None) -> Array:
        """NDCG@10 (S, U) of each model and a case's `first` targets. InputError for an unknown case."""
        choose("case", case, self.cases)
        rows, pool = self.cases[case]
        split = self.split._replace(test=rows[:first])
        return np.stack([evaluate(m, self.data, split=split, pool=pool).per_user["ndcg"].to_numpy() for m in models])


def beside(trials: Mapping[str, tuple], weights: Sequence[float]) -> dict[str, tuple[Array, ...]]:
    """NDCG@10 in "cold_any" by trial: of models (S, U), a prior (1, U), and both (S, U) interpolated.

    trials: name -> `ColdStart`, models, prior. The prior's weight is the best in "valid_cold" of the *other* trials."""

    def both(name, weight, case):
        trial, models, prior = trials[name]
        return trial.ndcg([Interpolation(model, prior, weight) for model in models], case)

    tuned = {name: np.array([both(name, weight, "valid_cold").mean() for weight in weights]) for name in trials}
    found = {}
    for name, (trial, models, prior) in trials.items():
        best = sum(ndcg / ndcg.max() for other, ndcg in tuned.items() if other != name).argmax()
        parts = (trial.ndcg(some, "cold_any") for some in (models, [prior]))
        found[name] = *parts, both(name, weights[best], "cold_any")
    return found


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
        shares = self.truth.shares[data.targets(self.cases["valid"][0]).users]
        # (U, M), in the order of MODALITIES, of the validation users
        self.modality_weights = shares[:, [("image", "sound", "text").index(m) for m in MODALITIES]]

    def agreement(self, runs: Sequence[Array]) -> list[float]:
        """Spearman's correlation of weights (U, M) with the true ones."""
        return [float(spearmanr(weights.ravel(), self.modality_weights.ravel()).statistic) for weights in runs]


@torch.no_grad()
def mean_logits(model: M6Rec, trial: ColdStart, drop: tuple[str, ...] = ()) -> torch.Tensor:
    """Mean logits (U, N) of validation users' last REQUESTS."""
    targets = trial.data.targets(trial.cases["valid"][0])
    back = np.minimum(np.arange(REQUESTS), (targets.events - trial.data.offsets[targets.users])[:, None])  # (U, 10)
    context = model.target_context(targets)
    request = encode_events(trial.data, model.fields).request[targets.events[:, None] - back]
    position = (context.position - torch.from_numpy(back)).clamp(min=0)
    vectors = model.item_vectors(drop=drop)
    fused = model.fuse(context._replace(request=torch.from_numpy(request), position=position), vectors)
    return fused.state.mean(1) @ vectors.T


def weights_by_dropping(model: M6Rec, trial: ColdStart) -> Array:
    """Each modality's weight for validation users (U, M): the standard deviation over items of the change that dropping
    it makes, over the mean user's; rows sum to 1."""
    before = mean_logits(model, trial)
    change = torch.stack([(mean_logits(model, trial, (m,)) - before).std(1) for m in MODALITIES], 1)
    change /= change.mean(0).clamp(min=1e-9)
    return (change / change.sum(1, keepdim=True).clamp(min=1e-9)).cpu().numpy()


def swapped(model: M6Rec, modality: str, groups: pd.Series, within: bool, seed: int = 0) -> M6Rec:
    """Items have the photographs or recordings of others, `within` their group or of other groups.

    groups: (N,), NaN for items that lack the modality and stay as they are."""
    rng, donors = np.random.default_rng(seed), np.arange(len(groups))
    for group, rows in groups.groupby(groups).indices.items():
        others, n = np.flatnonzero(groups.notna() & (groups != group)), len(rows)
        own = rows[(np.arange(n) + rng.integers(1, max(n, 2), n)) % n]
        donors[rows] = own if within else rng.choice(others, n)
    return model.with_contents(model.features._replace(**{modality: getattr(model.features, modality)[donors]}))


def caused_events(models: Sequence[M6Rec], shop: Bazaar, *, top: int | None = 50, most: int | None = None) -> Array:
    """Warm test events (E,) caused by an event or request field, of items in every model's first `top`.

    top=None: at any rank. most: draw so many."""
    rows = shop.cases["warm"][0]
    rows = rows[shop.truth.events["cause"].iloc[rows].isin(["event", "request"])]
    for model in models if top is not None else ():
        ranks = evaluate(model, shop.data, split=shop.split._replace(test=rows)).per_user["rank"]
        rows = rows[ranks.to_numpy() <= top]
    return np.sort(np.random.default_rng(0).permutation(rows)[:most])


def causes_found(model: M6Rec, shop: Bazaar, explainers: Mapping[str, Explainer], events: Array) -> dict[str, Array]:
    """(E,) bool of each: whether a purchase's stored cause ranks first of all events and request fields."""
    found = {name: np.zeros(len(events), bool) for name in explainers}
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
            found[name][row] = np.where(np.isin(types, ("history", "request")), effects, -np.inf).argmax() == cause
    return found


def bayes_optimal(shop: Bazaar, events: Array) -> tuple[Array, Array]:
    """As `causes_found`, the upper bound: the likeliest event or field given all true vectors and the purchase; its
    probability."""
    stored = shop.truth.events.iloc[events]
    ways = [cause.which if cause.kind in ("event", "request") else None for cause in bazaar.CAUSES]
    posterior = np.where([way is not None for way in ways], shop.ceiling.causes(shop.data.targets(events)), -1)
    true = [field or int(b) for field, b in zip(stored["cause_field"], events - stored["cause_event"], strict=True)]
    return posterior.argmax(1) == [ways.index(way) for way in true], posterior.max(1)
