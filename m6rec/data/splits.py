"""Which events are fitted on and which are predicted, and what may be known when one is predicted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.sparse import csr_array, csr_matrix

from m6rec.errors import InputError

if TYPE_CHECKING:
    from m6rec.data.dataset import Dataset


class Split(NamedTuple):
    """Training events as a mask, targets as event indexes (at most one a user in `valid`, one in `test`)."""

    name: str
    train: np.ndarray  # (E,) bool: may be fitted on
    valid: np.ndarray  # (≤U,) int64
    test: np.ndarray  # (≤U,) int64


def leave_one_out(data: Dataset) -> Split:
    """Last event test, last but one validation; users with fewer than three events only train."""
    last = data.offsets[1:][np.diff(data.offsets) >= 3] - 1
    train = np.ones(data.n_events, dtype=bool)
    train[last] = train[last - 1] = False
    return Split("leave_one_out", train, last - 1, last)


def global_time(data: Dataset, fractions: tuple[float, float] = (0.8, 0.1)) -> Split:
    """Two cuts through time for everyone, so that nothing fitted lies after anything predicted.

    A user's target is their first event in the period that has an earlier event of theirs.
    """
    if not data.timed:
        raise InputError(f"split 'global_time' needs timestamps, and {data.name} has none; use 'leave_one_out'.")
    if len(fractions) != 2 or min(fractions) <= 0 or sum(fractions) >= 1:
        raise InputError(f"fractions={fractions!r} must be two positive numbers with a sum below 1, as in (0.8, 0.1).")
    time = data.events["timestamp"].to_numpy()
    first, second = np.quantile(time, [fractions[0], sum(fractions)], method="lower")
    user = data.events["user"].to_numpy()
    has_past = np.arange(data.n_events) > data.offsets[user]

    def targets(inside: np.ndarray) -> np.ndarray:
        events = np.flatnonzero(inside & has_past)
        return events[np.unique(user[events], return_index=True)[1]]

    return Split("global_time", time < first, targets((time >= first) & (time < second)), targets(time >= second))


def training_matrix(data: Dataset, split: Split) -> csr_array:
    """(U, N) float32, 1 where the user has the item among the split's *training* events: all that may be counted."""
    events = data.events[["user", "item"]].to_numpy()[split.train]
    ones = np.ones(len(events), np.float32)
    matrix = csr_array((ones, (events[:, 0], events[:, 1])), shape=(data.n_users, data.n_items))
    matrix.data[:] = 1  # building it added up repeated events
    return matrix


class Targets:
    """Events to predict. Looks like an array of raw user ids (so that any model can be ranked), and carries more."""

    def __init__(self, data: Dataset, events: np.ndarray):
        if len(events) and not (events.min() >= 0 and events.max() < data.n_events):
            raise InputError(f"target events must lie in 0..{data.n_events - 1}; take them from data.split().")
        self.data = data
        self.events = events  # (B,) int64 rows of data.events

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
        starts = self.data.offsets[self.users]
        lengths = self.events - starts
        ends = np.cumsum(lengths)
        # Row b takes events starts[b] .. events[b]-1: one arange, shifted row by row.
        rows = np.arange(lengths.sum()) + np.repeat(starts - (ends - lengths), lengths)
        items = self.data.events["item"].to_numpy()[rows]
        seen = csr_matrix(
            (np.ones(len(items), dtype=bool), items, np.concatenate([[0], ends])), shape=(len(self), self.data.n_items)
        )
        seen.sum_duplicates()
        return seen
