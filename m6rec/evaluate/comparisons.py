"""One model against several others: paired tests and intervals, corrected for there being several."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from m6rec.errors import InputError
from m6rec.evaluate.statistics import over_seeds, percentiles, resampled, same_users


def compare(
    ours: ArrayLike,
    others: Mapping[str, ArrayLike],
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row a peer, in the order given: is `ours` better, by how much, and is that decided?

    ours, others: (U,) or (S, U), the same users in order; seeds are averaged first. The columns are

    mean, peer_mean, difference; effect = Cohen's d of the paired differences; p = two-sided paired t; low and high =
    paired bootstrap interval of the difference; p_holm = p corrected by Holm (1979); holm_low and holm_high = interval
    of the j-th smallest p of m at 1 - (1 - level) / (m - j + 1); decided = that interval excludes 0, and so do those of
    all smaller p, since Holm's procedure stops at the first that does not.
    InputError: no others, fewer than two users, other users, NaN.
    """
    if not others:
        raise InputError("there is no model to compare with: name at least one")
    one, _ = over_seeds(ours)
    if len(one) < 2:
        raise InputError("one user shows no spread: compare models on two users or more")
    peers = [over_seeds(values)[0] for values in others.values()]
    for peer in peers:
        same_users(one, peer)
    differences = one - np.stack(peers)  # (peers, U)
    means = resampled(differences, resamples, seed)
    found = pd.DataFrame(
        {
            "mean": one.mean(),
            "peer_mean": np.stack(peers).mean(1),
            "difference": differences.mean(1),
            "effect": [_effect(values) for values in differences],
            "p": [_p(values) for values in differences],
        },
        index=pd.Index(others, name="peer"),
    )
    found[["low", "high"]] = [percentiles(row, level) for row in means]

    order = np.argsort(found["p"].to_numpy(), kind="stable")  # smallest p first
    left = len(order) - np.arange(len(order))  # hypotheses not yet rejected: m, m - 1, … 1
    place = np.argsort(order)
    found["p_holm"] = np.minimum(np.maximum.accumulate(found["p"].to_numpy()[order] * left), 1)[place]
    intervals = np.array([percentiles(means[i], 1 - (1 - level) / n) for i, n in zip(order, left, strict=True)])
    found[["holm_low", "holm_high"]] = intervals[place]
    excludes = (intervals[:, 0] > 0) | (intervals[:, 1] < 0)
    found["decided"] = np.logical_and.accumulate(excludes)[place]
    return found


def _effect(values: np.ndarray) -> float:
    spread = values.std(ddof=1)
    return float(values.mean() / spread) if spread else float(np.sign(values.mean()) * np.inf if values.any() else 0)


def _p(values: np.ndarray) -> float:
    if np.ptp(values) == 0:  # the t statistic is 0 / 0, or infinite
        return float(not values.any())
    return float(stats.ttest_1samp(values, 0).pvalue)
