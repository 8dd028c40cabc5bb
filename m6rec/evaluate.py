"""Full ranking, measures of lists, a probe for leaks, blends; intervals, paired comparisons and slices of targets.

A model is any object with scores(users: Targets) -> (B, N). Lists (U, k) hold item codes, -1 where there is none."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from numpy.typing import ArrayLike
from scipy import stats
from sklearn.preprocessing import normalize

from m6rec.config import Array, Frame, InputError, at_least, choose, typed
from m6rec.data.dataset import REPEATS, Dataset, Split, Targets, row_numbers, training_matrix
from m6rec.data.text import words

LEVEL, POWER = 0.95, 0.8
_AT_ONCE = 2_000_000  # resampled users held at a time: 16 MB
_SMOOTH = 0.01  # Steck's alpha: keeps the divergence finite


class Evaluation(NamedTuple):
    """metrics: means of per_user, and coverage, the listed share of the catalogue; named as "hit@10".

    per_user: for each target user_id, item_id, rank (from 1; inf: scored -inf), hit, ndcg, mrr, expected_ndcg (under
    random ties), and its list's novelty (bits), diversity and miscalibration (nats); `attrs` name the settings. lists:
    best first, ties in catalogue order.
    """

    name: str
    metrics: dict[str, float]
    per_user: Frame
    lists: Array

    def __repr__(self) -> str:
        means = ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())
        return f"Evaluation of {self.name}, {len(self.per_user):,} targets: {means}"

    def _repr_html_(self) -> str:
        return pd.Series(self.metrics, name=self.name).to_frame().round(4).to_html()


@typed
def evaluate(
    model: Any, data: Dataset, *, split: str | Split = "leave_one_out", part: str = "test",
    mask_seen: bool | None = None, pool: Array | Sequence[int] | None = None, k: int = 10, chunk: int = 256,
) -> Evaluation:  # fmt: skip
    """Rank all items for each target; `chunk` users are scored at a time.

    pool: the only item codes, of targets too. mask_seen: the history is not ranked, the target always is; by default
    where `data.repeats` is small.
    rank = 1 + items scored higher + half of the others scored equal; hit = rank <= k; mrr = hit / rank.
    InputError: no scores method, a wrong shape, NaN, no targets, a model fitted on them or on other items, k outside
    the catalogue or above `model.longest`."""
    name = name_of(model)
    if not callable(getattr(model, "scores", None)):
        raise InputError(f"{name} cannot be ranked: give it scores(users), which returns (users, items) numbers")
    if not 1 <= k <= data.n_items:
        raise InputError(f"k={k} is outside the catalogue of {data.n_items} items: choose 1 to {data.n_items}")
    if k > (longest := getattr(model, "longest", k)):
        raise InputError(f"k={k} is more than the {longest} items that {name} lists: make it with scorer(…, beam={k}).")
    at_least(1, chunk=chunk)
    split, targets = targets_of(data, split, part)
    mask_seen = data.repeats < REPEATS if mask_seen is None else mask_seen
    inside = np.full(data.n_items, pool is None)
    if pool is not None:
        inside[row_numbers("the pool's codes", pool, data.n_items, "data.item_codes()")] = True
    targets = Targets(data, targets.events[inside[targets.items]], inside, mask_seen)
    if not len(targets):
        raise InputError(f"the pool has no targets of the {part} part: add the items of some")

    ranks, lists = [], []
    for start in range(0, len(targets), chunk):
        users = targets[start : start + chunk]
        scores = scored(model, users)
        scores[:, ~inside] = -np.inf
        ranks.append(mid_ranks(scores, users, mask_seen))
        lists.append(_top(scores, k))

    (rank, ties), lists, (texts, categories) = np.hstack(ranks), np.concatenate(lists), _contents(data)
    hit = rank <= k
    per_user = Frame({
        "user_id": np.asarray(targets),
        "item_id": data.items["item_id"].to_numpy()[targets.items],
        "rank": rank,
        "hit": hit.astype(float),
        "ndcg": ndcg(rank, k),
        "mrr": hit / rank,
        "expected_ndcg": expected_ndcg(rank, ties, k),
        "novelty": novelty(lists, training_matrix(data, split)),
        "diversity": diversity(lists, texts),
        "miscalibration": miscalibration(lists, targets.seen(), categories),
    })  # fmt: skip
    per_user.attrs = {"name": name, "split": split.name, "part": part, "mask_seen": mask_seen, "k": k}
    metrics = {**per_user.iloc[:, 3:].mean(), "coverage": len(np.unique(lists[lists >= 0])) / data.n_items}
    return Evaluation(name, {f"{n}@{k}": float(value) for n, value in metrics.items()}, per_user, lists)


def ndcg(rank: Array, k: int = 10) -> Array:
    """One relevant item at each rank (from 1, or inf): 1 / log2(1 + rank) within k, else 0."""
    return (rank <= k) / np.log2(1 + rank)


def expected_ndcg(rank: Array, ties: Array, k: int = 10) -> Array:
    """Its mean over all orders of the `ties` other items that are scored as the target of a mid-rank is."""
    above = np.concatenate(([0.0], ndcg(np.arange(1, k + 1), k).cumsum()))  # [n]: sum of the first n ranks
    higher = np.minimum(rank - 1 - ties / 2, k).astype(int)
    return (above[np.minimum(higher + ties + 1, k).astype(int)] - above[higher]) / (ties + 1)


def name_of(model: Any) -> str:
    return getattr(model, "name", type(model).__name__)


def targets_of(data: Dataset, split: str | Split, part: str) -> tuple[Split, Targets]:
    """InputError for an unknown part, or one without targets."""
    choose("part", part, ("valid", "test"))
    split = data.split(split) if isinstance(split, str) else split
    targets = data.targets(getattr(split, part))
    if not len(targets):
        raise InputError(f"the {part} part of the split {split.name} has no targets: give users longer histories")
    return split, targets


def scored(model: Any, users: Targets) -> Array:
    """(B, N) float64, a copy. InputError for a wrong shape, NaN, and a model fitted on other items."""
    name, items, (data, split) = name_of(model), users.data.items["item_id"], getattr(model, "fitted_on", (None, None))
    if data is not None and data.catalogue != users.data.catalogue:
        raise InputError(f"{name} was fitted on other items than those of {users.data.name}: fit it on this catalogue.")
    if data is users.data and split.train[users.events].any():
        raise InputError(f"{name} was fitted on events that it should predict: evaluate it on later ones.")
    scores = model.scores(users)
    if isinstance(scores, torch.Tensor):
        scores = scores.detach().cpu().double().numpy()
    scores, shape = np.array(scores, float), (len(users), len(items))
    if scores.shape != shape:
        raise InputError(f"{name}.scores gave the shape {scores.shape} and must return {shape}: a column for each item")
    if np.isnan(scores).any():
        row, column = np.argwhere(np.isnan(scores))[0]
        first = f"user {np.asarray(users)[row]} and item {items.iloc[column]}"
        raise InputError(f"{name}.scores gave NaN, first for {first}: mend it, or use -inf for what must not be listed")
    return scores


def mid_ranks(scores: Array, users: Targets, mask_seen: bool) -> tuple[Array, Array]:
    """(B,) mid-ranks of the targets, and how many other items are scored the same; masks `scores` in place."""
    rows = np.arange(len(users))
    truth = scores[rows, users.items]
    if mask_seen:
        scores[users.seen().nonzero()] = -np.inf
        scores[rows, users.items] = truth
    higher = (scores > truth[:, None]).sum(1)
    equal = (scores == truth[:, None]).sum(1) - 1
    return np.where(truth > -np.inf, 1 + higher + equal / 2, np.inf), equal


def _top(scores: Array, k: int) -> Array:
    """(B, k) item codes, best first, -1 for -inf. Ties fall the same way on every machine."""
    # np.partition is fifty times slower on rows of mostly equal counts.
    least = torch.from_numpy(scores).topk(k).values[:, -1:].numpy()
    above, tied = scores > least, scores == least
    tied &= tied.cumsum(axis=1, dtype=np.int32) <= k - above.sum(1, keepdims=True)
    codes = np.nonzero(above | tied)[1].reshape(-1, k)  # k in each row
    found = np.take_along_axis(scores, codes, 1)
    order = np.argsort(-found, axis=1, kind="stable")
    return np.take_along_axis(np.where(found > -np.inf, codes, -1), order, 1)


def novelty(lists: Array, training: sp.csr_array) -> Array:
    """(U,) bits: mean of -log2 of the share of users with the item, plus-one smoothed (Zhou et al. 2010).

    training: (users, N). NaN for an empty list."""
    share = (training.sum(0).astype(float) + 1) / (training.shape[0] + 1)
    bits, length = np.where(lists >= 0, -np.log2(share)[lists], 0.0), (lists >= 0).sum(1)
    return np.where(length > 0, bits.sum(1) / np.maximum(length, 1), np.nan)


def diversity(lists: Array, unit: sp.csr_array) -> Array:
    """(U,) 1 - mean cosine over the pairs of a list, NaN below two items. unit: (N, features), rows of length 1."""
    chosen = _chosen(lists, unit.shape[0])
    # Cosines of all ordered pairs: |sum of the unit rows|^2, less each row with itself.
    pairs = (chosen @ unit).power(2).sum(1) - chosen @ unit.power(2).sum(1)
    length = chosen.sum(1)
    return np.where(length > 1, 1 - pairs / np.maximum(length * (length - 1), 1), np.nan)


def miscalibration(lists: Array, history: sp.csr_array, shares: sp.csr_array) -> Array:
    """(U,) nats: KL(p | .99 q + .01 p) of the history's mean category shares p and the list's q (Steck 2018).

    history: (U, N). shares: (N, categories). NaN where either has none."""
    weights = history.astype(float), _chosen(lists, shares.shape[0])
    past, listed = (normalize(rows @ shares, "l1") for rows in weights)  # (U, categories), sum 1 or empty
    # Where p is above 0, so is the mixture: both have the same entries.
    mixed = sp.csr_array(_SMOOTH * past + (1 - _SMOOTH) * listed.multiply(past > 0))
    past.sort_indices()
    mixed.sort_indices()
    nats = sp.csr_array((past.data * np.log(past.data / mixed.data), past.indices, past.indptr), shape=past.shape)
    known = (np.diff(past.indptr) > 0) & (np.diff(listed.indptr) > 0)
    return np.where(known, np.maximum(nats.sum(1), 0), np.nan)  # rounding may leave -1e-17


@lru_cache(2)  # validation needs them after every epoch
def _contents(data: Dataset) -> tuple[sp.csr_array, sp.csr_array]:
    """(N, words) unit rows of texts; (N, categories) shares of `genres` or `category`, else of words; sum 1."""
    bag = texts = _bag(data.items["text"].map(words))
    if column := next((name for name in ("genres", "category") if name in data.items.columns), None):
        bag = _bag(data.items[column].str.lower().str.findall(r"[^\s|,]+"))
    return normalize(texts), normalize(bag, "l1")


def _bag(words: pd.Series) -> sp.csr_array:
    """Lists (N,) -> (N, words) of 0 and 1."""
    each = words.reset_index(drop=True).explode().dropna()
    codes, vocabulary = pd.factorize(each)
    bag = sp.csr_array((np.ones(len(each)), (each.index, codes)), shape=(len(words), max(len(vocabulary), 1)))
    bag.data[:] = 1
    return bag


def _chosen(lists: Array, n_items: int) -> sp.csr_array:
    rows, positions = np.nonzero(lists >= 0)
    return sp.csr_array((np.ones(len(rows)), (rows, lists[rows, positions])), shape=(len(lists), n_items))


@typed
def leaks(fit: Callable[[Dataset, Split], Any], data: Dataset, split: str | Split = "leave_one_out") -> list[str]:
    """What scores of validation targets give away, a sentence each.

    fit(data, split) -> a model that reads events from `users`; a fixed seed, no early stopping. `lambda *_: model` asks
    a fitted one. Asked again with other targets and later events, and fitted again with other events outside training,
    no score may move."""
    split, targets = targets_of(data, split, "valid")
    users = targets[np.unique(np.linspace(0, len(targets) - 1, 256).astype(np.int64))]  # enough to show a leak
    model, first, found = fit(data, split), np.full(data.n_users, data.n_events), []
    first[targets.users] = targets.events
    after = np.arange(data.n_events) - first[data.events["user"].to_numpy()]  # the target's is 0
    probes = {
        "knows targets or what follows them": (model, _replaced(data, after >= 0, after > 0).targets(users.events)),
        "is fitted on events outside training": (fit(_replaced(data, ~split.train, ~split.train), split), users),
    }
    for what, probe in probes.items():
        moved = ~np.isclose(scored(model, users), scored(*probe), rtol=1e-5, atol=1e-7).all(1)  # by more than rounding
        if moved.any():
            rows = f"{moved.sum()} of {len(moved)} rows of scores move when these change"
            found.append(f"{name_of(model)} {what}: {rows}")
    return found


def _replaced(data: Dataset, outside: Array, whole: Array, seed: int = 0) -> Dataset:
    """Other items, values and actions at events `outside` (E,); in `whole`, all but the user."""
    rng, events = np.random.default_rng(seed), data.events.copy()
    events["item"] = (events["item"] + outside * rng.integers(1, data.n_items, data.n_events)) % data.n_items  # another
    donors = data.events.iloc[rng.integers(data.n_events, size=data.n_events)]
    for column in events.columns.drop(["user", "item", "timestamp"]):
        rows = outside if column in ("value", "action") else whole
        events[column] = events[column].mask(rows, donors[column].array)
    if data.timed:  # a user's events stay in order
        events["timestamp"] += whole * rng.integers(1, 1_000, data.n_events).cumsum()
    return replace(data, events=events)


class Interpolation(NamedTuple):
    """log p_model + weight · log p_prior. The prior's scores are counts; 1 % is uniform: no item is impossible."""

    model: Any
    prior: Any
    weight: float

    fitted_on = property(lambda self: self.model.fitted_on)

    def scores(self, users: Targets) -> torch.Tensor:
        log_p, counts = (torch.as_tensor(one.scores(users)).cpu().double() for one in (self.model, self.prior))
        share = 0.99 * (counts / counts.sum(1, keepdim=True).clamp(min=1e-12)) + 0.01 / counts.shape[1]
        return log_p.log_softmax(-1) + self.weight * share.log()


class Precomputed(NamedTuple):
    name: str
    events: Array  # (U,) target events
    table: Array  # (U, N) their scores
    catalogue: str = ""  # of its `Dataset`, where it is known

    def scores(self, users: Targets) -> Array:
        """(B, N). InputError for other targets or items."""
        rows = pd.Index(self.events).get_indexer(users.events)
        wrong = len(self.table) != len(self.events) or self.catalogue not in ("", users.data.catalogue)
        if wrong or (rows < 0).any():
            raise InputError(f"{self.name} has scores of other targets or items than {users.data.name}'s: rank these.")
        return self.table[rows]


class Interval(NamedTuple):
    """n = users (0: none), seeds = runs averaged."""

    value: float
    low: float
    high: float
    n: int
    seeds: int


def auc_by_user(scores: Array, positive: Array, user: Array) -> Array:
    """(U,) whose mean is the AUC over all pairs, and whose spread gives its interval over users (Obuchowski 1997).

    scores, positive (bool), user: (E,). A user's events add how far their shares of won pairs are from the AUC."""
    below, won = stats.rankdata(scores), np.empty(len(scores))
    for own in (positive, ~positive):
        won[own] = (below[own] - stats.rankdata(scores[own])) / (~own).sum()
    won = np.where(positive, won, 1 - won)  # a like above dislikes, a dislike below likes
    auc, user = won[positive].mean(), np.unique(user, return_inverse=True)[1]
    apart = (won - auc) / np.where(positive, positive.sum(), (~positive).sum())
    return auc + (user.max() + 1) * np.bincount(user, apart)


def gauc(scores: Array, labels: Array) -> Array:
    """The AUC of each row: scores (..., B, C), labels (B, C) of 1, 0 or, where nothing counts, -1 -> (..., B).

    Its mean over users is GAUC (Zhu et al. 2017). A tie is half a win. NaN for a row without a 1 or a 0."""
    rank, hit = stats.rankdata(np.where(labels < 0, np.inf, scores), axis=-1), labels == 1
    n = hit.sum(-1)
    return (np.where(hit, rank, 0).sum(-1) - n * (n + 1) / 2) / (n * (labels == 0).sum(-1))


def mean_interval(per_user: ArrayLike, **options) -> Interval:
    """per_user: (U,) or (seeds, U); options: level=.95, resamples=10_000, seed=0.

    A bootstrap of users and, where there are several, of seeds: each resample draws both. InputError for NaN, nothing,
    or another shape."""
    return _interval(lambda mean: mean, per_user, **options)


def difference_interval(per_user: ArrayLike, minus: ArrayLike, **options) -> Interval:
    """mean(per_user) - mean(minus), paired: the same users in order; and, if both have as many, the same seeds."""
    return _interval(np.subtract, per_user, minus, **options)


def ratio_interval(per_user: ArrayLike, over: ArrayLike, **options) -> Interval:
    """mean(per_user) / mean(over), paired in the same way. InputError when over is all 0."""
    if np.mean(over) == 0:
        raise InputError("the ratio's denominator has mean 0: record both figures, or their difference")
    return _interval(np.divide, per_user, over, **options)


def _interval(
    of: Callable, *per_user: ArrayLike, level: float = LEVEL, resamples: int = 10_000, seed: int = 0
) -> Interval:
    figures = _paired(*per_user)
    rng, users, found = np.random.default_rng(seed), figures[0].shape[1], []
    rows, runs = max(1, _AT_ONCE // users), np.random.default_rng((seed, 1))
    shares = {n: runs.multinomial(n, np.full(n, 1 / n), resamples) / n for n in sorted({*map(len, figures)})}
    for start in range(0, resamples, rows):
        drawn = rng.integers(users, size=(min(rows, resamples - start), users))
        flat = (drawn + users * np.arange(len(drawn))[:, None]).ravel()
        times = np.bincount(flat, minlength=drawn.size).reshape(drawn.shape).astype(float)
        means = [(times @ f.T * shares[len(f)][start : start + rows]).sum(1) / users for f in figures]
        with np.errstate(divide="ignore", invalid="ignore"):  # a resample may draw only zeros
            found.append(of(*means))
    ordered = np.sort((found := np.concatenate(found))[~np.isnan(found)])
    tail = int(len(ordered) * (1 - level) / 2)
    # The ends are drawn figures: an infinite ratio cannot be interpolated.
    value = of(*(figure.mean(1).mean() for figure in figures))
    return Interval(*map(float, (value, ordered[tail], ordered[-1 - tail])), users, len(figures[0]))


def compare(ours: ArrayLike, others: Mapping[str, ArrayLike]) -> Frame:
    """Paired over users: a row for each peer.

    ours, others: (U,) or (seeds, U), the same users in order. Columns: mean, peer_mean, difference; effect (Cohen's d
    of users); p (two-sided t, with the variance of users and seeds); detectable: the difference that such a test finds
    four times in five; p_holm (Holm 1979); holm_low, holm_high: `difference_interval` at the level 1 - .05 /
    (m - j + 1) for the j-th smallest p of m; decided: it excludes 0, as do those of all smaller p.
    InputError: no others, fewer than two users, other users, NaN."""
    one, *peers = _paired(ours, *others.values())
    if not peers:
        raise InputError("there is no model to compare with: name at least one")
    if one.shape[1] < 2:
        raise InputError("one user shows no spread: compare models on two users or more")
    found = Frame([_paired_test(one, peer) for peer in peers], pd.Index(others, name="peer"))
    found = found.sort_values("p", kind="stable")
    left = np.arange(len(found), 0, -1)  # m, m - 1, … 1
    found["p_holm"] = np.minimum(np.maximum.accumulate(found["p"] * left), 1)
    levels = zip(found.index, 1 - (1 - LEVEL) / left, strict=True)
    ends = [difference_interval(ours, others[name], level=level)[1:3] for name, level in levels]
    found[["holm_low", "holm_high"]] = ends
    found["decided"] = np.logical_and.accumulate((found["holm_low"] > 0) | (found["holm_high"] < 0))
    return found.loc[list(others)]


def _paired_test(one: Array, peer: Array) -> dict[str, float]:
    """Of (S, U) and (S', U): the columns of `compare` that need no other peer."""
    apart, means = one.mean(0) - peer.mean(0), [one.mean(1), peer.mean(1)]
    runs = [means[0] - means[1]] if len(one) == len(peer) else means  # paired as in `difference_interval`
    parts = [(apart.var(ddof=1), len(apart)), *((run.var(ddof=1), len(run)) for run in runs if len(run) > 1)]
    variance = np.array([spread / n for spread, n in parts])
    with np.errstate(divide="ignore", invalid="ignore"):  # there may be no spread
        free = variance.sum() ** 2 / sum(variance**2 / [n - 1 for _, n in parts])  # Satterthwaite's degrees of freedom
        ratios = apart.mean() / np.array([variance.sum() ** 0.5, apart.std(ddof=1)])
    t, effect = np.nan_to_num(ratios, posinf=np.inf, neginf=-np.inf)
    detectable = (stats.norm.ppf(0.5 + LEVEL / 2) + stats.norm.ppf(POWER)) * variance.sum() ** 0.5
    return {"mean": one.mean(), "peer_mean": peer.mean(), "difference": apart.mean(), "effect": effect,
            "p": 2 * stats.t.sf(abs(t), np.nan_to_num(free, nan=1.0)), "detectable": detectable}  # fmt: skip


def slices(data: Dataset, split: str | Split = "leave_one_out", part: str = "test") -> Frame:
    """Boolean columns, a row for each target of `evaluate`; a missing value is in no slice.

    item cold: no training event; head: the fewest items with a fifth of the training events. history short: up to the
    median. Then the profile, numbers in thirds: equal ones stay together."""
    split, targets = targets_of(data, split, part)
    count = np.bincount(data.events["item"].to_numpy()[split.train], minlength=data.n_items)
    popular = np.argsort(-count, kind="stable")
    head = popular[np.cumsum(count[popular]) - count[popular] < 0.2 * count.sum()]
    length = targets.events - data.offsets[targets.users]
    known, often, short = count[targets.items] > 0, np.isin(targets.items, head), length <= np.median(length)
    found = {"item known": known, "item cold": ~known, "item head": often, "item tail": ~often}
    found |= {"history short": short, "history long": ~short}
    for name in data.profile_columns:
        values, parts = data.users[name].iloc[targets.users].reset_index(drop=True), {}
        known = sorted(values.dropna().unique(), key=str)
        if len(known) > 3 and pd.api.types.is_numeric_dtype(values):
            values = values.to_numpy(dtype=float, na_value=np.nan)
            low, high = np.nanquantile(values, [1 / 3, 2 / 3], method="nearest")
            parts = {f"≤ {low:g}": values <= low, f"{low:g} – {high:g}": (values > low) & (values <= high)}
            parts[f"> {high:g}"] = values > high
        elif len(known) <= 10:  # more make slices too small
            parts = {value: values.eq(value).to_numpy(dtype=bool, na_value=False) for value in known}
        found |= {f"{name} {part}": inside for part, inside in parts.items() if inside.any()}
    return Frame(found)


def by_slice(per_user: ArrayLike, slices: Frame, **options) -> Frame:
    """A row for each slice: n (targets) and `mean_interval`; NaN if empty."""
    values = np.asarray(per_user, float)
    if values.shape[-1:] != (len(slices),):
        raise InputError(f"slices of {len(slices)} targets do not fit values {values.shape}: take one split")
    found = {}
    for name, inside in slices.items():
        ends = mean_interval(values[..., inside], **options)[:3] if inside.any() else (np.nan,) * 3
        found[name] = int(inside.sum()), *ends
    return Frame.from_dict(found, "index", columns=["n", "mean", "low", "high"])


def _paired(*per_user: ArrayLike) -> list[Array]:
    """Each (seeds, U)."""
    rows = [np.asarray(values, float) for values in per_user]
    for values in rows:
        if values.ndim not in (1, 2) or not values.size:
            raise InputError(f"per-user values of shape {values.shape}: give (users,) or (seeds, users), not empty")
        if bad := (~np.isfinite(values)).sum():
            raise InputError(f"{bad} of the per-user values are NaN or infinite: leave those users out")
        if (other := values.shape[-1]) != (users := rows[0].shape[-1]):
            raise InputError(f"a paired figure needs the same users twice, and got {users} and {other}")
    return [np.atleast_2d(values) for values in rows]
