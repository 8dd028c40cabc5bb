"""A domain in words: what a text backbone may read of a data set, and the examples that it learns from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from m6rec.data import plaintext
from m6rec.data.context import CORE_COLUMNS
from m6rec.data.dataset import Dataset
from m6rec.data.plaintext import Text
from m6rec.data.splits import Split
from m6rec.errors import InputError

HISTORY = 8  # events that are read before those that are written


class Domain(NamedTuple):
    """Everything of one data set in words. The first two by code, the others by event."""

    name: str
    items: np.ndarray  # (N,) str
    profiles: np.ndarray  # (U,) str
    user: np.ndarray  # (E,) int64, sorted; within a user by time
    item: np.ndarray  # (E,) int64
    requests: np.ndarray  # (E,) str, empty where the data set has no circumstances
    values: np.ndarray  # (E,) float, NaN where there are no ratings of 1 to 5

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all words and events."""
        digest = hashlib.sha256()
        for part in self[1:]:
            digest.update("\0".join(map(str, part)).encode() if part.dtype == object else part.tobytes())
        return digest.hexdigest()

    def said(self, row: int) -> str:
        """One event of a history in words."""
        value = self.values[row]
        return plaintext.event(self.items[self.item[row]], None if np.isnan(value) else value)

    def windows(self, rng: np.random.Generator, before: int = HISTORY, size: int = 8) -> Iterator[Text]:
        """All events once, cut into targets of `size`, after a history of up to `before` events; users in order."""
        starts = np.flatnonzero(np.diff(self.user, prepend=-1))
        for start, end in zip(starts, [*starts[1:], len(self.user)], strict=True):
            for first in range(start - int(rng.integers(size)), end, size):
                rows = range(max(first, start), min(first + size, end))
                if rows:
                    yield self.text(rows, max(start, rows[0] - int(rng.integers(before + 1))))

    def text(self, rows: range, since: int) -> Text:
        """Events `rows` of one user as a target, and the events from `since` to them as the history.

        In the target a request stands before its item, unless it is the same as that of the item before.
        """
        target, asked = [], ""
        for row in rows:
            if self.requests[row] != asked:
                asked = self.requests[row]
                target.append(f"{asked}:")
            target.append(self.items[self.item[row]])
        history = tuple(self.said(row) for row in range(since, rows[0]))
        return Text(profile=self.profiles[self.user[rows[0]]], history=history, target=tuple(target))


def domain(data: Dataset, events: np.ndarray | None = None, name: str = "") -> Domain:
    """A data set in words; events: (E,) bool, those that may be read (default all). InputError without a text."""
    items = data.items["text"].map(plaintext.item).to_numpy(object)
    if not any(items):
        raise InputError(f"{data.name} has no text: a domain is read from its items' titles or texts.")
    table = data.events if events is None else data.events[events]
    own = [column for column in table.columns if column not in CORE_COLUMNS]
    rated = table["value"].nunique() > 1 and table["value"].between(1, 5).all()
    return Domain(
        name or data.name,
        items,
        np.array([plaintext.profile(row) for row in data.users.to_dict("records")], dtype=object),
        table["user"].to_numpy(),
        table["item"].to_numpy(),
        _requests(table, own) if own and data.timed else np.full(len(table), "", dtype=object),
        table["value"].to_numpy(float) if rated else np.full(len(table), np.nan),
    )


def _requests(table: pd.DataFrame, own: list[str]) -> np.ndarray:
    seconds = table["timestamp"].to_numpy()
    fields = pd.DataFrame({"hour": seconds % 86400 // 3600, "weekday": (seconds // 86400 + 3) % 7})
    fields = pd.concat([fields, table[own].reset_index(drop=True)], axis=1)
    rows, codes = np.unique(fields.astype(str).agg("\0".join, axis=1), return_index=True, return_inverse=True)[1:]
    return np.array([plaintext.request(row) for row in fields.iloc[rows].to_dict("records")], dtype=object)[codes]


class HeldOut(NamedTuple):
    """A domain that training never sees, and what is asked of it."""

    seen: Domain  # what may be trained on: no event of the held-out items, none of the newcomers
    whole: Domain  # everything, row for row with data.events: histories are read from it when they are asked for
    items: np.ndarray  # (n,) codes of the held-out items
    split: (
        Split  # targets: everyone's last held-out item, half of the people each; train: all before, for those who saw
    )
    shots: np.ndarray  # rows of the split's training events that are of held-out items and not of newcomers
    newcomer: np.ndarray  # (U,) bool: people of whom training has seen nothing
    left: np.ndarray  # (E,) bool: the events of `seen`, as rows of data.events

    def few(self, count: int, seed: int = 0) -> list[Text]:
        """So many events of the held-out items, drawn by `seed`, to learn from."""
        rows = np.random.default_rng(seed).permutation(self.shots)[:count]
        starts = np.searchsorted(self.whole.user, self.whole.user[rows])
        return [
            self.whole.text(range(row, row + 1), max(start, row - HISTORY))
            for row, start in zip(rows, starts, strict=True)
        ]


def hold_out(data: Dataset, items: np.ndarray, newcomers: np.ndarray | None = None, name: str = "") -> HeldOut:
    """Keep items (N,) bool, and people (U,) bool, from training; nobody's events after their target are trained on.

    With every item held out, `seen` is empty: train on another data set.
    """
    user, item = data.events["user"].to_numpy(), data.events["item"].to_numpy()
    newcomer = np.zeros(data.n_users, bool) if newcomers is None else newcomers
    rows = np.flatnonzero(items[item])
    target = np.full(data.n_users, data.n_events)
    target[user[rows]] = rows  # the last one stays
    before = np.arange(data.n_events) < target[user]
    asked = np.sort(target[(target < data.n_events) & (target > data.offsets[:-1])])  # with a history
    odd = user[asked] % 2 == 1
    left = before & ~items[item] & ~newcomer[user]
    return HeldOut(
        domain(data, left, name),
        domain(data),
        np.flatnonzero(items),
        Split("held_out", before, asked[~odd], asked[odd]),
        np.flatnonzero(before & items[item] & ~newcomer[user]),
        newcomer,
        left,
    )
