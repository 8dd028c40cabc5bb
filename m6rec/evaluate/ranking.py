"""Full ranking, measures of lists, combined models, and probes for leaks.

A model is any object with scores(users: Targets) -> (B, N). Lists (U, k) hold item codes, -1 where there is none.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from sklearn.preprocessing import normalize
from torch import Tensor

from m6rec.data.dataset import Dataset, Split, Targets, training_matrix
from m6rec.data.text import words
from m6rec.errors import InputError

_SMOOTH = 0.01  # Steck's alpha: keeps the divergence finite


class Evaluation(NamedTuple):
    """metrics: means of per_user, coverage, gini, hit_debiased and ndcg_debiased, named as "hit@10".

    per_user: for each target user_id, item_id, rank (from 1; inf: scored -inf), hit, ndcg, mrr, and its list's novelty
    (bits), diversity and miscalibration (nats); `attrs` name the settings. lists: best first, ties in catalogue order.
    debiased: weighted by 1 / (users + 1) of the target, self-normalised (Yang et al. 2018, gamma = 1).
    """

    name: str
    metrics: dict[str, float]
    per_user: pd.DataFrame
    lists: np.ndarray
    seconds: float  # for scoring and ranking


def evaluate(
    model: Any,
    data: Dataset,
    *,
    split: str | Split = "leave_one_out",
    part: str = "test",
    mask_seen: bool = True,
    pool: np.ndarray | None = None,
    k: int = 10,
    chunk: int = 256,
) -> Evaluation:
    """Rank all items for each target; `chunk` users are scored at a time.

    pool: the only item codes, of targets too. mask_seen: the history is not ranked, the target always is.
    rank = 1 + items scored higher + half of the others scored equal; hit = rank <= k; mrr = hit / rank.
    InputError: no scores method, a wrong shape, NaN, no targets, k outside the catalogue or above `model.longest`.
    """
    name = name_of(model)
    if not callable(getattr(model, "scores", None)):
        raise InputError(f"{name} cannot be ranked: give it a method scores(users) that returns (users, items) numbers")
    if not 1 <= k <= data.n_items:
        raise InputError(f"k={k} is outside the catalogue of {data.n_items} items: choose k from 1 to {data.n_items}")
    if k > (longest := getattr(model, "longest", k)):
        raise InputError(f"k={k} is more than the {longest} items that {name} lists: make it with scorer(…, beam={k}).")
    if chunk < 1:
        raise InputError(f"chunk={chunk} scores no user at a time: choose 1 or more")
    split, targets = targets_of(data, split, part)
    outside = np.zeros(data.n_items, bool) if pool is None else ~np.isin(np.arange(data.n_items), pool)
    targets = targets[~outside[targets.items]]
    if not len(targets):
        raise InputError(f"the pool has no targets of the {part} part: add the items of some")

    started = time.perf_counter()
    ranks, lists = [], []
    for users, scores in scored(model, targets, chunk):
        scores[:, outside] = -np.inf
        ranks.append(mid_ranks(scores, users, mask_seen))
        lists.append(_top(scores, k))
    seconds = time.perf_counter() - started

    rank, lists, training = np.concatenate(ranks), np.concatenate(lists), training_matrix(data, split)
    hit = rank <= k
    columns = {
        "user_id": np.asarray(targets),
        "item_id": data.items["item_id"].to_numpy()[targets.items],
        "rank": rank,
        "hit": hit.astype(np.float64),
        "ndcg": ndcg(rank, k),
        "mrr": hit / rank,
        "novelty": novelty(lists, training),
        "diversity": diversity(lists, normalize(_texts(data))),
        "miscalibration": miscalibration(lists, targets.seen(), categories(data)),
    }
    per_user = pd.DataFrame(columns)
    per_user.attrs = {"name": name, "split": split.name, "part": part, "mask_seen": mask_seen, "k": k}
    metrics = dict(per_user.iloc[:, 3:].mean()) | {f.__name__: f(lists, data.n_items) for f in (coverage, gini)}
    weights = 1 / (training.sum(axis=0).astype(np.float64) + 1)[targets.items]
    metrics |= {f"{column}_debiased": np.average(per_user[column], weights=weights) for column in ("hit", "ndcg")}
    return Evaluation(name, {f"{n}@{k}": float(value) for n, value in metrics.items()}, per_user, lists, seconds)


def sampled(
    model: Any, data: Dataset, negatives: int = 100, by: str = "uniform", k: int = 10, seed: int = 0, chunk: int = 256
) -> pd.DataFrame:
    """user_id, rank, hit and ndcg of each test target among `negatives` unseen items, drawn without replacement.

    It misleads: the order of models may change (Krichene & Rendle 2020). by: "uniform" or "popularity" (training
    events). InputError for another `by`, or no negatives.
    """
    if by not in ("uniform", "popularity"):
        raise InputError(f"by={by!r} is unknown: choose 'uniform' or 'popularity'")
    if negatives < 1:
        raise InputError(f"negatives={negatives} leaves nothing to rank the target against: choose 1 or more")
    rng, weight = np.random.default_rng(seed), np.zeros(data.n_items)
    if by == "popularity":
        with np.errstate(divide="ignore"):
            weight = np.log(np.bincount(data.events["item"].to_numpy()[data.split().train], minlength=data.n_items))

    def scores(users: Targets) -> np.ndarray:
        (_, found), rows = next(scored(model, users, chunk)), np.arange(len(users))
        keys = weight + rng.gumbel(size=found.shape)  # the largest are drawn
        keys[users.seen().nonzero()] = keys[rows, users.items] = -np.inf
        least = torch.from_numpy(keys).topk(min(negatives, data.n_items)).values[:, -1:].numpy()
        drawn = (keys >= least) & (keys > -np.inf)
        drawn[rows, users.items] = True
        return np.where(drawn, found, -np.inf)

    ranked = SimpleNamespace(name=name_of(model), scores=scores)
    found = evaluate(ranked, data, mask_seen=False, k=min(k, data.n_items), chunk=chunk)
    return found.per_user[["user_id", "rank", "hit", "ndcg"]]


def ndcg(rank: np.ndarray, k: int = 10) -> np.ndarray:
    """One relevant item at each rank (from 1, or inf): 1 / log2(1 + rank) within k, else 0."""
    return (rank <= k) / np.log2(1 + rank)


def name_of(model: Any) -> str:
    return getattr(model, "name", type(model).__name__)


def targets_of(data: Dataset, split: str | Split, part: str) -> tuple[Split, Targets]:
    """InputError for an unknown part, or one without targets."""
    if part not in ("valid", "test"):
        raise InputError(f"part={part!r} is unknown: choose 'valid' or 'test'")
    split = data.split(split) if isinstance(split, str) else split
    targets = data.targets(getattr(split, part))
    if not len(targets):
        raise InputError(f"the {part} part of the split {split.name} has no targets: give users longer histories")
    return split, targets


def scored(model: Any, targets: Targets, chunk: int = 256) -> Iterator[tuple[Targets, np.ndarray]]:
    """Chunks of targets with scores (B, N): float64 copies. InputError for a wrong shape or NaN."""
    name, items = name_of(model), targets.data.items["item_id"]
    for start in range(0, len(targets), chunk):
        users = targets[start : start + chunk]
        scores = model.scores(users)
        if isinstance(scores, torch.Tensor):
            scores = scores.detach().cpu().double().numpy()
        scores, shape = np.array(scores, dtype=np.float64), (len(users), len(items))
        if scores.shape != shape:
            raise InputError(
                f"{name}.scores gave the shape {scores.shape} and must return {shape}: a column for each item"
            )
        if np.isnan(scores).any():
            row, column = np.argwhere(np.isnan(scores))[0]
            raise InputError(
                f"{name}.scores gave NaN, first for user {np.asarray(users)[row]} and item {items.iloc[column]}: "
                f"mend the model, or use -inf for an item that must not be recommended"
            )
        yield users, scores


def mid_ranks(scores: np.ndarray, users: Targets, mask_seen: bool) -> np.ndarray:
    """(B,) mid-ranks of the targets; masks `scores` in place."""
    rows = np.arange(len(users))
    truth = scores[rows, users.items]
    if mask_seen:
        scores[users.seen().nonzero()] = -np.inf
        scores[rows, users.items] = truth
    higher = (scores > truth[:, None]).sum(1)
    equal = (scores == truth[:, None]).sum(1) - 1
    return np.where(truth > -np.inf, 1 + higher + equal / 2, np.inf)


def _top(scores: np.ndarray, k: int) -> np.ndarray:
    """(B, k) item codes, best first, -1 for a score of -inf. Ties fall the same way on every machine."""
    # np.partition is fifty times slower on rows of mostly equal counts.
    least = torch.from_numpy(scores).topk(k).values[:, -1:].numpy()
    above, tied = scores > least, scores == least
    tied &= tied.cumsum(axis=1, dtype=np.int32) <= k - above.sum(1, keepdims=True)
    codes = np.nonzero(above | tied)[1].reshape(-1, k)  # k in each row
    found = np.take_along_axis(scores, codes, 1)
    order = np.argsort(-found, axis=1, kind="stable")
    return np.take_along_axis(np.where(found > -np.inf, codes, -1), order, 1)


def coverage(lists: np.ndarray, n_items: int) -> float:
    """Listed share of the catalogue."""
    return len(np.unique(lists[lists >= 0])) / n_items


def gini(lists: np.ndarray, n_items: int) -> float:
    """0 = all items are listed equally often, 1 - 1/N = only one is, NaN = none is.

    sum of (2i - N - 1) x_i / (N sum of x), counts x ascending.
    """
    shown = np.sort(np.bincount(lists[lists >= 0], minlength=n_items))
    if not shown.any():
        return float("nan")
    return float((2 * np.arange(1, n_items + 1) - n_items - 1) @ shown / (n_items * shown.sum()))


def novelty(lists: np.ndarray, training: sp.csr_array) -> np.ndarray:
    """(U,) bits: mean of -log2 of the share of users with the item, plus-one smoothed (Zhou et al. 2010).

    training: (users, N). NaN for an empty list.
    """
    share = (training.sum(axis=0).astype(np.float64) + 1) / (training.shape[0] + 1)
    bits, length = np.where(lists >= 0, -np.log2(share)[lists], 0.0), (lists >= 0).sum(1)
    return np.where(length > 0, bits.sum(1) / np.maximum(length, 1), np.nan)


def diversity(lists: np.ndarray, unit: sp.csr_array) -> np.ndarray:
    """(U,) 1 - mean cosine over the pairs of a list, NaN below two items. unit: (N, features), rows of length 1."""
    chosen = _chosen(lists, unit.shape[0])
    # Cosines of all ordered pairs: |sum of the unit rows|^2, less each row with itself.
    pairs = (chosen @ unit).power(2).sum(axis=1) - chosen @ unit.power(2).sum(axis=1)
    length = chosen.sum(axis=1)
    return np.where(length > 1, 1 - pairs / np.maximum(length * (length - 1), 1), np.nan)


def miscalibration(lists: np.ndarray, history: sp.csr_array, shares: sp.csr_array) -> np.ndarray:
    """(U,) nats: KL(p | .99 q + .01 p) of the history's mean category shares p and the list's q (Steck 2018).

    history: (U, N). shares: (N, categories). NaN where either has none.
    """
    weights = history.astype(np.float64), _chosen(lists, shares.shape[0])
    past, listed = (normalize(rows @ shares, "l1") for rows in weights)  # (U, categories), sum 1 or empty
    # Where p is above 0, so is the mixture: both have the same entries.
    mixed = sp.csr_array(_SMOOTH * past + (1 - _SMOOTH) * listed.multiply(past > 0))
    past.sort_indices()
    mixed.sort_indices()
    terms = sp.csr_array((past.data * np.log(past.data / mixed.data), past.indices, past.indptr), shape=past.shape)
    known = (np.diff(past.indptr) > 0) & (np.diff(listed.indptr) > 0)
    return np.where(known, np.maximum(terms.sum(axis=1), 0), np.nan)  # rounding may leave -1e-17


def categories(data: Dataset) -> sp.csr_array:
    """(N, categories) shares of `genres` or `category`, else of words; rows sum to 1."""
    column = next((name for name in ("genres", "category") if name in data.items.columns), "text")
    if column == "text":
        return normalize(_texts(data), "l1")
    return normalize(_bag(data.items[column].str.lower().str.findall(r"[^\s|,]+")), "l1")


@lru_cache(2)  # validation needs it after every epoch
def _texts(data: Dataset) -> sp.csr_array:
    return _bag(data.items["text"].map(words))


def _bag(words: pd.Series) -> sp.csr_array:
    """Lists (N,) -> (N, words): 1 where the item has the word."""
    each = words.reset_index(drop=True).explode().dropna()
    codes, vocabulary = pd.factorize(each)
    bag = sp.csr_array((np.ones(len(each)), (each.index, codes)), shape=(len(words), max(len(vocabulary), 1)))
    bag.data[:] = 1
    return bag


def _chosen(lists: np.ndarray, n_items: int) -> sp.csr_array:
    rows, positions = np.nonzero(lists >= 0)
    return sp.csr_array((np.ones(len(rows)), (rows, lists[rows, positions])), shape=(len(lists), n_items))


_MOST = 256  # targets: enough to show a leak, and one chunk


def leaks(model: Any, data: Dataset, split: str | Split = "leave_one_out", *, part: str = "test") -> list[str]:
    """What a fitted model's scores give away in a sentence; empty = nothing found.

    No score may move with the targets' items, values and actions, or with later events. The model must read events
    from `users`.
    """
    split, targets = targets_of(data, split, part)
    first = np.full(data.n_users, data.n_events)
    first[targets.users] = targets.events
    after = np.arange(data.n_events) - first[data.events["user"].to_numpy()]  # the target's is 0
    other, some = _replaced(data, after >= 0, after > 0), _some(targets)
    return _found("knows targets or what follows them", (model, data.targets(some)), (model, other.targets(some)))


def fit_leaks(fit: Callable[[Dataset, Split], Any], data: Dataset, split: str | Split = "leave_one_out") -> list[str]:
    """What fitting takes from events outside training; empty = nothing found.

    fit(data, split) -> a model, with a fixed seed and without early stopping. It also runs with other events outside
    training.
    """
    split, targets = targets_of(data, split, "test")
    users, other = data.targets(_some(targets)), _replaced(data, ~split.train, ~split.train)  # the histories are true
    return _found("is fitted on events outside training", (fit(data, split), users), (fit(other, split), users))


def shuffled(data: Dataset, seed: int = 0) -> Dataset:
    """The data with each user's events in random order, but for the last: the test target. Codes stay.

    What a model's NDCG@10 loses is what order is worth (Klenitskiy et al. 2024, Does It Look Sequential?).
    """
    user = data.events["user"].to_numpy()
    last = np.diff(user, append=-1) != 0
    order = np.lexsort((np.random.default_rng(seed).permutation(data.n_events), last, user))
    moved = ["item", "action", "value"]  # times and requests stay
    events = data.events.assign(**{column: data.events[column].to_numpy()[order] for column in moved})
    return replace(data, name=f"{data.name}-shuffled", events=events)


def _some(targets: Targets) -> np.ndarray:
    return targets.events[np.unique(np.linspace(0, len(targets) - 1, min(_MOST, len(targets))).astype(np.int64))]


def _replaced(data: Dataset, outcome: np.ndarray, whole: np.ndarray, seed: int = 0) -> Dataset:
    """Other items, values and actions at events in `outcome` (E,); in `whole`, all but the user. Places stay."""
    rng = np.random.default_rng(seed)
    events = data.events.copy()
    other = rng.integers(1, data.n_items, outcome.sum())  # never the same
    events.loc[outcome, "item"] = (events["item"].to_numpy()[outcome] + other) % data.n_items
    for column in events.columns.drop(["user", "item", "timestamp"]):
        rows = np.flatnonzero(outcome if column in ("value", "action") else whole)
        donors = np.arange(data.n_events)
        donors[rows] = rng.integers(data.n_events, size=len(rows))
        events[column] = events[column].to_numpy()[donors]
    if data.timed:  # a user's events stay in order
        total = np.cumsum(np.where(whole, rng.integers(1, 10**6, data.n_events), 0))
        start = np.concatenate([[0], total])[data.offsets[events["user"].to_numpy()]]
        events["timestamp"] = events["timestamp"].to_numpy() + total - start
    return replace(data, events=events)


def _found(what: str, *served: tuple[Any, Targets]) -> list[str]:
    """A sentence if two models' scores differ by more than rounding."""
    one, other = (next(scored(model, users, _MOST))[1] for model, users in served)
    moved = ~np.isclose(one, other, rtol=1e-5, atol=1e-7, equal_nan=True).all(1)
    rows = f"{moved.sum()} of {len(moved)} rows of scores move when these change"
    return [f"{name_of(served[0][0])} {what}: {rows}"] if moved.any() else []


UNIFORM = 0.01  # share of the prior, so that no item is impossible
TUNING_TARGETS = 5_000  # validation targets at most


class Interpolation(NamedTuple):
    """log p_model + weight · log p_prior. The prior's scores are counts: 0 or more."""

    model: Any
    prior: Any
    weight: float

    def scores(self, users: Targets) -> Tensor:
        counts = _scores(self.prior, users)
        share = (1 - UNIFORM) * (counts / counts.sum(1, keepdim=True).clamp(min=1e-12)) + UNIFORM / counts.shape[1]
        return _scores(self.model, users).log_softmax(-1) + self.weight * share.log()


class CachedScorer:
    def __init__(self, model: Any):
        self.model, self._scores = model, {}

    def scores(self, users: Targets) -> Tensor:
        key = users.events.tobytes()
        if key not in self._scores:
            self._scores[key] = torch.as_tensor(self.model.scores(users)).cpu()
        return self._scores[key]


class Precomputed:
    """Scores (U, N) of target events (U,)."""

    def __init__(self, name: str, events: np.ndarray, scores: np.ndarray):
        self.name, self._events, self._scores = name, pd.Index(events), scores

    def scores(self, users: Targets) -> np.ndarray:
        """(B, N). InputError for a target without scores."""
        rows = self._events.get_indexer(users.events)
        if (rows < 0).any():
            missing = users.events[rows < 0][0]
            raise InputError(f"{self.name} has no scores for the target event {missing}: rank the split's own.")
        return self._scores[rows]


def validation_ndcg(data: Dataset, split: Split) -> Callable[[Any], float]:
    """Model -> NDCG@10 as `evaluate`'s, on validation targets."""
    targets = data.targets(np.sort(np.random.default_rng(0).permutation(split.valid)[:TUNING_TARGETS]))

    def score(model: Any) -> float:
        ranks = [mid_ranks(scores, users, mask_seen=True) for users, scores in scored(model, targets)]
        return float(ndcg(np.concatenate(ranks)).mean())

    return score


def coordinate_ascent(
    score: Callable[[dict[str, float]], float], start: Mapping[str, float], grid: Mapping[str, Sequence[float]]
) -> dict[str, float]:
    """Move one setting after another along its grid while the score rises, until no step helps."""
    value = cache(lambda *settings: score(dict(zip(start, settings, strict=True))))
    best, before = dict(start), None
    while best != before:
        before = best
        for name, steps in grid.items():
            for direction in (-1, 1):
                at = steps.index(best[name]) + direction
                while 0 <= at < len(steps) and value(*(best | {name: steps[at]}).values()) > value(*best.values()):
                    best = best | {name: steps[at]}
                    at += direction
    return best


def _scores(model: Any, users: Targets) -> Tensor:
    return torch.as_tensor(model.scores(users)).cpu().double()
