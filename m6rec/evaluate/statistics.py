"""Bootstrap intervals: how much a figure would move with other users, paired where two models met the same users.

The users are resampled with replacement and the figure is taken of the mean over seeds; low and high are percentiles.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from m6rec.errors import InputError

_AT_ONCE = 2_000_000  # resampled users held at a time: 16 MB, whatever the number of users


class Interval(NamedTuple):
    """A figure with its interval; n = users (0 when there are none), seeds = runs averaged."""

    value: float
    low: float
    high: float
    n: int
    seeds: int


def mean_interval(per_user: ArrayLike, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Interval of the mean. per_user (U,) or (S, U). InputError for NaN, nothing, or another shape."""
    values, seeds = over_seeds(per_user)
    means = resampled(values[None], resamples, seed)[0]
    return Interval(float(values.mean()), *percentiles(means, level), len(values), seeds)


def difference_interval(per_user: ArrayLike, minus: ArrayLike, **options) -> Interval:
    """Interval of mean(per_user) - mean(minus), paired: both have the same users in order."""
    (one, seeds), (other, _) = over_seeds(per_user), over_seeds(minus)
    same_users(one, other)
    return mean_interval(one - other, **options)._replace(seeds=seeds)


def ratio_interval(
    per_user: ArrayLike, over: ArrayLike, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Interval of mean(per_user) / mean(over), paired. InputError when over is all 0."""
    (above, seeds), (below, _) = over_seeds(per_user), over_seeds(over)
    same_users(above, below)
    if below.mean() == 0:
        raise InputError("the ratio's denominator has mean 0: record the two figures apart, or their difference")
    tops, bottoms = resampled(np.stack([above, below]), resamples, seed)
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample may draw only zeros; 0 / 0 says nothing
        ratios = tops / bottoms
    return Interval(float(above.mean() / below.mean()), *percentiles(ratios, level), len(above), seeds)


def seeds_interval(values: ArrayLike, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Interval of the mean of one number a seed, for figures without users: () or (S,), resampled over seeds alone."""
    interval = mean_interval(np.ravel(values), level=level, resamples=resamples, seed=seed)
    return interval._replace(n=0, seeds=interval.n)


def over_seeds(per_user: ArrayLike) -> tuple[np.ndarray, int]:
    """(U,) means over seeds, and how many seeds; checked."""
    values = np.asarray(per_user, dtype=np.float64)
    if values.ndim not in (1, 2) or not values.size:
        raise InputError(f"per-user values have the shape {values.shape}: give (users,) or (seeds, users), not empty")
    if not np.isfinite(values).all():
        bad = (~np.isfinite(values)).sum()
        raise InputError(f"{bad} of the per-user values are NaN or infinite: leave those users out")
    return (values, 1) if values.ndim == 1 else (values.mean(axis=0), len(values))


def same_users(one: np.ndarray, other: np.ndarray) -> None:
    """InputError unless both have as many users."""
    if len(one) != len(other):
        raise InputError(f"a paired figure needs the same users twice, and got {len(one)} and {len(other)} of them")


def resampled(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """(figures, U) -> (figures, resamples) means, the same users drawn for every figure."""
    users = values.shape[1]
    rng = np.random.default_rng(seed)
    rows = max(1, _AT_ONCE // users)
    means = np.empty((len(values), resamples))
    for start in range(0, resamples, rows):
        drawn = rng.integers(users, size=(min(rows, resamples - start), users))
        for figure, out in zip(values, means, strict=True):
            out[start : start + rows] = figure[drawn].mean(axis=1)
    return means


def percentiles(figures: np.ndarray, level: float) -> tuple[float, float]:
    """Two of the resampled figures themselves: a ratio may be infinite in some, which cannot be interpolated."""
    ordered = np.sort(figures[~np.isnan(figures)])
    tail = int(len(ordered) * (1 - level) / 2)
    return float(ordered[tail]), float(ordered[-1 - tail])
