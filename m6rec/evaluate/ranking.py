"""Full ranking of the catalogue for every target, in one pass over chunks of users, for all metrics at once.

Any object with scores(users) -> (B, N) is ranked by this code: `users` looks like an array of raw user ids and can also
give histories (see Targets). Nothing of size users x items is ever held.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from m6rec.data.dataset import Dataset
from m6rec.data.splits import Split, Targets, training_matrix
from m6rec.errors import InputError


class Evaluation(NamedTuple):
    """What `evaluate` found. Ranks count from 1; a rank of inf says that the target was scored -inf: never listed."""

    name: str
    metrics: dict[str, float]
    """hit, ndcg, mrr, coverage, novelty and diversity, each as "hit@10" and so on."""
    per_user: pd.DataFrame
    """One row a target: user_id, item_id (the truth), rank, hit, ndcg, mrr, novelty (bits), diversity."""
    lists: np.ndarray
    """(U, k) int64 item codes, best first, equal scores in the catalogue's order; -1 where there is none."""
    seconds: float
    """For scoring and ranking."""

    def save(self, path: str | Path) -> Path:
        """Write `per_user` as Parquet; its `attrs` say which model, split, part, mask and k."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.per_user.to_parquet(path, index=False)
        return path


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
    """Rank all items for each target of the split's part; `chunk` users are scored at a time.

    pool: item codes, if only these are to be ranked, for the targets among them: the cold items, say.

    rank = 1 + items scored higher + half of the other items scored equal; hit = rank <= k; where hit, ndcg =
    1 / log2(1 + rank) and mrr = 1 / rank. `mask_seen` takes the items before the target out, the target itself never.
    Over the k listed items: coverage = listed items / all items; novelty = mean of -log2 of the (smoothed) share of
    users with the item in training (Zhou et al. 2010); diversity = 1 - mean pairwise cosine of the texts' word sets.
    InputError: no scores method, scores of a wrong shape or with NaN, k outside the catalogue, a part without targets.
    """
    name = getattr(model, "name", type(model).__name__)
    if not callable(getattr(model, "scores", None)):
        raise InputError(f"{name} cannot be ranked: give it a method scores(users) that returns (users, items) numbers")
    if not 1 <= k <= data.n_items:
        raise InputError(f"k={k} is outside the catalogue of {data.n_items} items: choose k from 1 to {data.n_items}")
    if chunk < 1:
        raise InputError(f"chunk={chunk} scores no user at a time: choose 1 or more")
    if part not in ("valid", "test"):
        raise InputError(f"part={part!r} is unknown: choose 'valid' or 'test'")
    split = data.split(split) if isinstance(split, str) else split
    targets = data.targets(getattr(split, part))
    outside = np.zeros(data.n_items, dtype=bool)
    if pool is not None:
        outside[:] = True
        outside[pool] = False
        targets = targets[~outside[targets.items]]
    if not len(targets):
        raise InputError(f"the {part} part of the split {split.name} has no targets: give users longer histories")

    started = time.perf_counter()
    ranks, lists = [], []
    for start in range(0, len(targets), chunk):
        users = targets[start : start + chunk]
        scores = _checked(model.scores(users), users, name)
        scores[:, outside] = -np.inf
        ranks.append(_rank(scores, users, mask_seen))
        lists.append(_top(scores, k))
    seconds = time.perf_counter() - started

    rank, lists = np.concatenate(ranks), np.concatenate(lists)
    hit = rank <= k
    per_user = pd.DataFrame(
        {
            "user_id": np.asarray(targets),
            "item_id": data.items["item_id"].to_numpy()[targets.items],
            "rank": rank,
            "hit": hit.astype(np.float64),
            "ndcg": np.where(hit, 1 / np.log2(1 + rank), 0.0),
            "mrr": np.where(hit, 1 / rank, 0.0),
            "novelty": _novelty(lists, training_matrix(data, split)),
            "diversity": _diversity(lists, _words(data.items["text"])),
        }
    )
    per_user.attrs = {"name": name, "split": split.name, "part": part, "mask_seen": mask_seen, "k": k}
    metrics = {f"{column}@{k}": float(per_user[column].mean()) for column in per_user.columns[3:]}
    metrics[f"coverage@{k}"] = len(np.unique(lists[lists >= 0])) / data.n_items
    return Evaluation(name, metrics, per_user, lists, seconds)


def _checked(scores: Any, users: Targets, name: str) -> np.ndarray:
    """A float64 copy (the mask must not write into the model's own array); float32 and bf16 stay exact."""
    if hasattr(scores, "detach"):  # a torch tensor, on any device, of any precision
        scores = scores.detach().cpu().double().numpy()
    scores = np.array(scores, dtype=np.float64)
    shape = (len(users), users.data.n_items)
    if scores.shape != shape:
        raise InputError(
            f"{name}.scores gave the shape {scores.shape} for {shape[0]} users and {shape[1]} items: "
            f"return {shape}, a column for each row of data.items"
        )
    if np.isnan(scores).any():
        row, column = np.argwhere(np.isnan(scores))[0]
        user, item = np.asarray(users)[row], users.data.items["item_id"].iloc[column]
        raise InputError(
            f"{name}.scores gave NaN, first for user {user} and item {item}: mend the model, "
            f"or use -inf for an item that must not be recommended"
        )
    return scores


def _rank(scores: np.ndarray, users: Targets, mask_seen: bool) -> np.ndarray:
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
    """(B, k) item codes, best first, -1 where fewer are scored above -inf. Ties fall the same way on every machine."""
    # np.partition is fifty times slower on rows that are mostly equal, as counts are.
    least = torch.from_numpy(scores).topk(k).values[:, -1:].numpy()
    tied = scores == least
    tied &= tied.cumsum(axis=1, dtype=np.int32) <= k  # no more than could be listed, lest thousands of zeros be sorted
    rows, codes = np.nonzero(((scores > least) | tied) & (scores > -np.inf))
    order = np.lexsort((codes, -scores[rows, codes], rows))
    rows, codes = rows[order], codes[order]
    place = np.arange(len(rows)) - np.searchsorted(rows, rows)
    lists = np.full((len(scores), k), -1, np.int64)
    lists[rows[place < k], place[place < k]] = codes[place < k]
    return lists


def _novelty(lists: np.ndarray, training: sp.csr_array) -> np.ndarray:
    """(U,) bits, NaN for an empty list. One is added to both counts, so that an item nobody has is not infinite."""
    share = (training.sum(axis=0).astype(np.float64) + 1) / (training.shape[0] + 1)
    bits = np.where(lists >= 0, -np.log2(share)[lists], 0.0)
    length = (lists >= 0).sum(1)
    return np.where(length > 0, bits.sum(1) / np.maximum(length, 1), np.nan)


def _words(text: pd.Series) -> sp.csr_array:
    """(N, words) unit rows: which lower-case words each item's text has."""
    words = text.reset_index(drop=True).str.lower().str.findall(r"\w+").explode().dropna()
    codes, vocabulary = pd.factorize(words)
    bag = sp.csr_array((np.ones(len(words)), (words.index, codes)), shape=(len(text), max(len(vocabulary), 1)))
    bag.data[:] = 1
    norms = np.sqrt(bag.sum(axis=1))
    return sp.csr_array(sp.diags_array(1 / np.maximum(norms, 1)) @ bag)


def _diversity(lists: np.ndarray, unit: sp.csr_array) -> np.ndarray:
    """(U,) 1 - mean cosine over the pairs of a list, NaN below two items."""
    rows, places = np.nonzero(lists >= 0)
    chosen = sp.csr_array((np.ones(len(rows)), (rows, lists[rows, places])), shape=(len(lists), unit.shape[0]))
    # The cosines of all ordered pairs add up to |sum of the unit rows|^2, less each row with itself.
    whole = (chosen @ unit).power(2).sum(axis=1)
    itself = chosen @ unit.power(2).sum(axis=1)
    length = chosen.sum(axis=1)
    return np.where(length > 1, 1 - (whole - itself) / np.maximum(length * (length - 1), 1), np.nan)
