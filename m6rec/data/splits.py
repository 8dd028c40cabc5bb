"""Which events are fitted on and which are predicted, and what is known at the moment of a prediction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, csr_matrix

from m6rec.errors import InputError


class Split(NamedTuple):
    """Training events as a mask, targets as event indexes (at most one a user in `valid`, one in `test`)."""

    name: str
    train: np.ndarray  # (E,) bool: may be fitted on
    valid: np.ndarray  # (≤U,) int64
    test: np.ndarray  # (≤U,) int64


class Tables(Protocol):
    """What targets read of a `Dataset`."""

    name: str
    users: pd.DataFrame
    events: pd.DataFrame
    offsets: np.ndarray
    n_items: int


def leave_one_out(offsets: np.ndarray) -> Split:
    """Last event test, last but one validation; users with fewer than three events only train. offsets: (U+1,)."""
    last = offsets[1:][np.diff(offsets) >= 3] - 1
    train = np.ones(offsets[-1], dtype=bool)
    train[last] = train[last - 1] = False
    return Split("leave_one_out", train, last - 1, last)


def global_time(user: np.ndarray, time: np.ndarray, fractions: tuple[float, float] = (0.8, 0.1)) -> Split:
    """Two cuts through time for everyone, so that nothing fitted lies after anything predicted.

    A user's target is their first event in the period that has an earlier event of theirs. user, time: (E,), sorted.
    """
    if len(fractions) != 2 or min(fractions) <= 0 or sum(fractions) >= 1:
        raise InputError(f"fractions={fractions!r} must be two positive numbers with a sum below 1, as in (0.8, 0.1).")
    first, second = np.quantile(time, [fractions[0], sum(fractions)], method="lower")
    has_past = np.diff(user, prepend=-1) == 0

    valid, test = (np.flatnonzero(has_past & part) for part in ((time >= first) & (time < second), time >= second))
    valid, test = (events[np.unique(user[events], return_index=True)[1]] for events in (valid, test))
    return Split("global_time", time < first, valid, test)


def training_matrix(data: Tables, split: Split) -> csr_array:
    """(U, N) float32, 1 where the user has the item among the split's *training* events: all that may be counted."""
    user, item = data.events[["user", "item"]].to_numpy()[split.train].T
    matrix = csr_array((np.ones(len(user), np.float32), (user, item)), shape=(len(data.users), data.n_items))
    matrix.data[:] = 1  # building it added up repeated events
    return matrix


class Targets:
    """Events to predict. It converts to an array of raw user ids, so that any model can be ranked."""

    def __init__(self, data: Tables, events: np.ndarray):
        if len(events) and not (events.min() >= 0 and events.max() < len(data.events)):
            raise InputError(f"target events must lie in 0..{len(data.events) - 1}; take them from data.split().")
        self.data, self.events = data, events  # (B,) int64 rows of data.events

    @property
    def users(self) -> np.ndarray:
        """(B,) int64 user codes."""
        return self.data.events["user"].to_numpy()[self.events]

    @property
    def items(self) -> np.ndarray:
        """(B,) int64 item codes: the truth."""
        return self.data.events["item"].to_numpy()[self.events]

    def __len__(self) -> int:
        return len(self.events)

    def __iter__(self) -> Iterator:
        return iter(self.data.users["user_id"].iloc[self.users])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self.data.users["user_id"].iloc[self.users], dtype=dtype)

    def __getitem__(self, rows: slice | np.ndarray) -> Targets:
        return Targets(self.data, np.atleast_1d(self.events[rows]))

    def __repr__(self) -> str:
        return f"Targets({len(self):,} events of {self.data.name})"

    def history_events(self, length: int | None = None) -> np.ndarray:
        """(B, T) int64 rows of data.events before each target, most recent last, left-padded with -1."""
        starts = self.data.offsets[self.users]  # (B,)
        if length is None:
            length = int((self.events - starts).max(initial=0))
        rows = self.events[:, None] - np.arange(length, 0, -1)  # (B, T)
        return np.where(rows >= starts[:, None], rows, -1)

    def history(self, length: int | None = None) -> np.ndarray:
        """(B, T) int64 item codes before each target, most recent last, left-padded with -1; None: the longest."""
        rows = self.history_events(length)
        return np.where(rows >= 0, self.data.events["item"].to_numpy()[rows], -1)

    def seen(self) -> csr_matrix:
        """(B, N) bool: the items of each target's user before the target."""
        rows = self.history_events()
        target, column = np.nonzero(rows >= 0)
        item = self.data.events["item"].to_numpy()[rows[target, column]]
        return csr_matrix((np.ones(len(item), bool), (target, item)), shape=(len(self), self.data.n_items))
