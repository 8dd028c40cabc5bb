"""Percentile bootstrap intervals over users, paired comparisons, and slices of targets."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from m6rec.config import InputError
from m6rec.data.dataset import Dataset, Split
from m6rec.evaluate.ranking import targets_of

LEVEL = 0.95
_AT_ONCE = 2_000_000  # resampled users held at a time: 16 MB


class Interval(NamedTuple):
    """n = users (0: none), seeds = runs averaged."""

    value: float
    low: float
    high: float
    n: int
    seeds: int


def mean_interval(per_user: ArrayLike, **options) -> Interval:
    """per_user: (U,) or (seeds, U); options: level=.95, resamples=10_000, seed=0.

    InputError for NaN, nothing, or another shape.
    """
    return ratio_interval(per_user, np.ones(np.shape(per_user)[-1:]), **options)


def difference_interval(per_user: ArrayLike, minus: ArrayLike, **options) -> Interval:
    """mean(per_user) - mean(minus), paired: the same users in order."""
    (one, other), seeds = _paired(per_user, minus)
    return mean_interval(one - other, **options)._replace(seeds=seeds)


def ratio_interval(
    per_user: ArrayLike, over: ArrayLike, *, level: float = LEVEL, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """mean(per_user) / mean(over), paired: both of the same drawn users. InputError when over is all 0."""
    (top, bottom), seeds = _paired(per_user, over)
    if bottom.mean() == 0:
        raise InputError("the ratio's denominator has mean 0: record the two figures apart, or their difference")
    rng, users, found = np.random.default_rng(seed), len(top), np.empty(resamples)
    rows = max(1, _AT_ONCE // users)
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample may draw only zeros
        for start in range(0, resamples, rows):
            drawn = rng.integers(users, size=(min(rows, resamples - start), users))
            found[start : start + rows] = top[drawn].mean(axis=1) / bottom[drawn].mean(axis=1)
    ordered = np.sort(found[~np.isnan(found)])
    tail = int(len(ordered) * (1 - level) / 2)
    # The ends are drawn figures: an infinite ratio cannot be interpolated.
    return Interval(*map(float, (top.mean() / bottom.mean(), ordered[tail], ordered[-1 - tail])), users, seeds)


def compare(ours: ArrayLike, others: Mapping[str, ArrayLike]) -> pd.DataFrame:
    """One model against several, paired over users: a row for each peer.

    ours, others: (U,) or (seeds, U), the same users in order. Columns: mean, peer_mean, difference; effect (Cohen's d);
    p (two-sided t); p_holm (Holm 1979); holm_low, holm_high: `mean_interval` at the level 1 - .05 / (m - j + 1) for the
    j-th smallest p of m; decided: it excludes 0, as do those of all smaller p.
    InputError: no others, fewer than two users, other users, NaN.
    """
    (one, *peers), _ = _paired(ours, *others.values())
    if not peers:
        raise InputError("there is no model to compare with: name at least one")
    if len(one) < 2:
        raise InputError("one user shows no spread: compare models on two users or more")
    differences = pd.DataFrame(one - np.stack(peers), pd.Index(others, name="peer"))  # (peers, U)
    found = pd.DataFrame({"mean": one.mean(), "peer_mean": np.mean(peers, 1)}, differences.index)
    found["difference"] = differences.mean(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):  # there may be no spread
        found["effect"] = np.nan_to_num(found["difference"] / differences.std(axis=1), posinf=np.inf, neginf=-np.inf)
    found["p"] = 2 * stats.t.sf(found["effect"].abs() * len(one) ** 0.5, len(one) - 1)
    found = found.sort_values("p", kind="stable")
    left = np.arange(len(found), 0, -1)  # m, m - 1, … 1
    found["p_holm"] = np.minimum(np.maximum.accumulate(found["p"] * left), 1)
    levels = zip(found.index, 1 - (1 - LEVEL) / left, strict=True)
    found[["holm_low", "holm_high"]] = [mean_interval(differences.loc[n], level=level)[1:3] for n, level in levels]
    found["decided"] = np.logical_and.accumulate((found["holm_low"] > 0) | (found["holm_high"] < 0))
    return found.loc[list(others)]


def slices(data: Dataset, split: str | Split = "leave_one_out", part: str = "test") -> pd.DataFrame:
    """Boolean columns, a row for each target in `evaluate`'s order; a missing value is in no slice.

    item cold: no training event; head: the fewest items with a fifth of the training events. history short: up to the
    median. Then the profile, numbers in thirds: equal ones stay together.
    """
    split, targets = targets_of(data, split, part)
    count = np.bincount(data.events["item"].to_numpy()[split.train], minlength=data.n_items)
    popular = np.argsort(-count, kind="stable")
    head = popular[np.cumsum(count[popular]) - count[popular] < 0.2 * count.sum()]
    length = targets.events - data.offsets[targets.users]
    found = {}
    for one, other, inside in (
        ("item known", "item cold", count[targets.items] > 0),
        ("item head", "item tail", np.isin(targets.items, head)),
        ("history short", "history long", length <= np.median(length)),
    ):
        found |= {one: inside, other: ~inside}
    for name in data.profile_columns:
        values, parts = data.users[name].iloc[targets.users].reset_index(drop=True), {}
        known = sorted(values.dropna().unique(), key=str)
        if len(known) > 3 and pd.api.types.is_numeric_dtype(values):
            values = values.to_numpy(dtype=np.float64, na_value=np.nan)
            low, high = np.nanquantile(values, [1 / 3, 2 / 3], method="nearest")
            parts = {f"≤ {low:g}": values <= low, f"{low:g} – {high:g}": (values > low) & (values <= high)}
            parts[f"> {high:g}"] = values > high
        elif len(known) <= 10:  # more make slices too small
            parts = {value: values.eq(value).to_numpy(dtype=bool, na_value=False) for value in known}
        found |= {f"{name} {part}": inside for part, inside in parts.items() if inside.any()}
    return pd.DataFrame(found)


def by_slice(per_user: ArrayLike, slices: pd.DataFrame, **options) -> pd.DataFrame:
    """A row for each slice: n (targets) and `mean_interval`; NaN if empty."""
    values = np.asarray(per_user, dtype=np.float64)
    if values.shape[-1:] != (len(slices),):
        raise InputError(f"slices of {len(slices)} targets do not fit values {values.shape}: take one split")
    found = {}
    for name, inside in slices.items():
        ends = mean_interval(values[..., inside], **options)[:3] if inside.any() else (np.nan,) * 3
        found[name] = int(inside.sum()), *ends
    return pd.DataFrame.from_dict(found, "index", columns=["n", "mean", "low", "high"])


def _paired(*per_user: ArrayLike) -> tuple[np.ndarray, int]:
    """(figures, U) means over seeds, and the first's number of seeds."""
    rows = [np.asarray(values, dtype=np.float64) for values in per_user]
    for values in rows:
        if values.ndim not in (1, 2) or not values.size:
            raise InputError(f"per-user values of shape {values.shape}: give (users,) or (seeds, users), not empty")
        if bad := (~np.isfinite(values)).sum():
            raise InputError(f"{bad} of the per-user values are NaN or infinite: leave those users out")
        if (other := values.shape[-1]) != (users := rows[0].shape[-1]):
            raise InputError(f"a paired figure needs the same users twice, and got {users} and {other}")
    return np.stack([np.atleast_2d(values).mean(0) for values in rows]), len(np.atleast_2d(rows[0]))
