"""Sampled metrics, only to show how they mislead: `evaluate` ranks the whole catalogue, as one should."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from m6rec.data.dataset import Dataset
from m6rec.data.splits import Split
from m6rec.errors import InputError
from m6rec.evaluate.ranking import mid_ranks, ndcg, scored, targets_of


def sampled(
    model: Any,
    data: Dataset,
    *,
    split: str | Split = "leave_one_out",
    part: str = "test",
    negatives: int = 100,
    by: str = "uniform",
    k: int = 10,
    seed: int = 0,
    chunk: int = 256,
) -> pd.DataFrame:
    """user_id, rank, hit and ndcg of each target among `negatives` unseen items alone, drawn without replacement.

    by: "uniform", or "popularity" (in proportion to training events). Such figures may order models otherwise than the
    full ranking does (Krichene & Rendle 2020). InputError for another `by`, or negatives below 1.
    """
    if by not in ("uniform", "popularity"):
        raise InputError(f"by={by!r} is unknown: choose 'uniform' or 'popularity'")
    if negatives < 1:
        raise InputError(f"negatives={negatives} leaves nothing to rank the target against: choose 1 or more")
    split, targets = targets_of(data, split, part)
    count = np.bincount(data.events["item"].to_numpy()[split.train], minlength=data.n_items)
    with np.errstate(divide="ignore"):
        weight = np.log(count) if by == "popularity" else np.zeros(data.n_items)
    rng = np.random.default_rng(seed)
    ranks = []
    for users, scores in scored(model, targets, chunk):
        keys = weight + rng.gumbel(size=scores.shape)  # the largest of these are a draw without replacement
        keys[users.seen().nonzero()] = -np.inf
        keys[np.arange(len(users)), users.items] = -np.inf
        least = torch.from_numpy(keys).topk(min(negatives, data.n_items)).values[:, -1:].numpy()
        drawn = (keys >= least) & (keys > -np.inf)
        drawn[np.arange(len(users)), users.items] = True
        ranks.append(mid_ranks(np.where(drawn, scores, -np.inf), users, mask_seen=False))
    rank = np.concatenate(ranks)
    hit = (rank <= k).astype(np.float64)
    return pd.DataFrame({"user_id": np.asarray(targets), "rank": rank, "hit": hit, "ndcg": ndcg(rank, k)})
