"""Targets by item, history, time and profile, and a metric's mean in each slice."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from m6rec.data.dataset import Dataset
from m6rec.data.splits import Split
from m6rec.errors import InputError
from m6rec.evaluate.ranking import targets_of
from m6rec.evaluate.statistics import mean_interval

_HEAD = 0.2  # the share of the training events that the head's items have
_FEW = 10  # a profile column with more values than this would make slices too small to say anything
_DAY = 86_400


def slices(data: Dataset, split: str | Split = "leave_one_out", part: str = "test") -> pd.DataFrame:
    """Boolean columns, one row a target in `evaluate`'s order (index 0..U-1). part: "valid" or "test".

    item cold: no training event; head: the fewest items that together have a fifth of the training events. history
    short: up to the median. activity: the user's training events, in thirds. gap: since the event before. Then each
    value of the profile's columns, numbers in thirds. A missing value is in no slice.
    """
    split, targets = targets_of(data, split, part)
    count = np.bincount(data.events["item"].to_numpy()[split.train], minlength=data.n_items)
    active = np.bincount(data.events["user"].to_numpy()[split.train], minlength=data.n_users)
    length = targets.events - data.offsets[targets.users]
    head = _head(count)[targets.items]
    found = {
        "item known": count[targets.items] > 0,
        "item cold": count[targets.items] == 0,
        "item head": head,
        "item tail": ~head,
        "history short": length <= np.median(length),
        "history long": length > np.median(length),
        **_thirds("activity", active[targets.users]),
    }
    if data.timed:
        time = data.events["timestamp"].to_numpy()
        gap = time[targets.events] - time[np.maximum(targets.events - 1, 0)]
        found["gap under a day"] = (length > 0) & (gap < _DAY)
        found["gap a day or more"] = (length > 0) & (gap >= _DAY)
    for column in data.profile_columns:
        found |= _profile(column, data.users[column].iloc[targets.users].reset_index(drop=True))
    return pd.DataFrame(found)


def by_slice(per_user: ArrayLike, slices: pd.DataFrame, **options) -> pd.DataFrame:
    """One row a slice: n (targets), mean, and the bootstrap's low and high; NaN for an empty slice.

    per_user: (U,) or (S, U), in the order of `slices`. options: `mean_interval`'s.
    """
    values = np.asarray(per_user, dtype=np.float64)
    if values.shape[-1:] != (len(slices),):
        raise InputError(f"slices of {len(slices)} targets do not fit values {values.shape}: take one split")
    rows = {}
    for name, inside in slices.items():
        chosen = values[..., inside.to_numpy()]
        found = mean_interval(chosen, **options) if inside.any() else (np.nan,) * 3
        rows[name] = (int(inside.sum()), *found[:3])
    return pd.DataFrame.from_dict(rows, orient="index", columns=["n", "mean", "low", "high"])


def _head(count: np.ndarray) -> np.ndarray:
    """(N,) the most frequent items, until they have their share of the events; ties in the catalogue's order."""
    order = np.argsort(-count, kind="stable")
    before = np.cumsum(count[order]) - count[order]
    head = np.zeros(len(count), dtype=bool)
    head[order[before < _HEAD * count.sum()]] = True
    return head


def _profile(name: str, values: pd.Series) -> dict[str, np.ndarray]:
    """A column's slices: thirds of numbers, the values of what has few, none of anything else."""
    known = sorted(values.dropna().unique(), key=str)
    if len(known) > 3 and pd.api.types.is_numeric_dtype(values):
        return _thirds(name, values.to_numpy(dtype=np.float64, na_value=np.nan))
    if len(known) > _FEW:
        return {}
    return {f"{name} {value}": values.eq(value).to_numpy(dtype=bool, na_value=False) for value in known}


def _thirds(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """Cut at values that occur, so that equals stay together; an empty third is left out."""
    if np.isnan(values).all():
        return {}
    low, high = np.nanquantile(values, [1 / 3, 2 / 3], method="nearest")
    found = {
        f"{name} ≤ {low:g}": values <= low,
        f"{name} {low:g} – {high:g}": (values > low) & (values <= high),
        f"{name} > {high:g}": values > high,
    }
    return {label: inside for label, inside in found.items() if inside.any()}
