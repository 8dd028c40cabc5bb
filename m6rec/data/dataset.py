"""The Dataset: items, users and events as tables whose row numbers are the codes that the models use.

Raw ids are what the outside world says (196, "B00012"); codes are 0..N-1. Events lie user by user, each user's in time
order, so that one user's history is one slice. Splits and targets are in `splits.py`, the checks of raw frames in
`frames.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from m6rec.data import frames, lookup
from m6rec.data.splits import Split, Targets, global_time, leave_one_out
from m6rec.errors import InputError


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Items, users and their events. Make one with `load` or `Dataset.from_frames`; change nothing in place."""

    name: str
    timed: bool  # False: the source has no timestamps; order is the file's, `timestamp` is 0 throughout
    items: pd.DataFrame  # row i is item code i: item_id, title, text, extras
    users: pd.DataFrame  # row u is user code u: user_id, profile columns
    events: pd.DataFrame  # user, item (codes), timestamp (UTC s), action, value, context columns; by user, then time
    offsets: np.ndarray  # (U+1,) int64: the events of user u are rows offsets[u]:offsets[u+1]

    @classmethod
    def from_frames(
        cls,
        items: pd.DataFrame,
        users: pd.DataFrame | None,
        interactions: pd.DataFrame,
        *,
        name: str = "frames",
        ties: str = "file",
        seed: int = 0,
    ) -> Dataset:
        """Check raw frames and give them codes.

        items: item_id, and optionally title (default: the id), text (default: the title) and extras.
        users: user_id and profile columns; None makes a table of the ids in `interactions`, in order of appearance.
        interactions: user_id, item_id, and optionally timestamp (UTC s or datetimes; without it the row order rules),
        action (default "event"), value (default 1.0) and context columns.
        ties: how events of one user with equal timestamps are ordered: "file" (row order) or "random" (by `seed`).
        Raises InputError naming table, row, column and fix.
        """
        items, users, events, timed = frames.coded(items, users, interactions)
        if ties not in ("file", "random"):
            raise InputError(f"ties={ties!r} is not a tie rule; use 'file' (row order) or 'random' (by seed).")
        if ties == "random" and not timed:
            raise InputError(f"ties='random' needs timestamps, and {name} has none; leave ties='file'.")
        # lexsort is stable: with equal keys the file's order stays.
        keys = [events["timestamp"].to_numpy(), events["user"].to_numpy()]
        if ties == "random":
            keys.insert(0, np.random.default_rng(seed).permutation(len(events)))
        events = events.iloc[np.lexsort(keys)].reset_index(drop=True)
        return cls(name, timed, items, users, events, _offsets(events["user"].to_numpy(), len(users)))

    @property
    def n_items(self) -> int:
        return len(self.items)

    @property
    def n_users(self) -> int:
        return len(self.users)

    @property
    def n_events(self) -> int:
        return len(self.events)

    @property
    def profile_columns(self) -> list[str]:
        """The columns of `users` that describe a user."""
        return [column for column in self.users.columns if column != "user_id"]

    @cached_property
    def _titles(self) -> lookup.Titles:
        return lookup.Titles(self.items["title"], np.bincount(self.events["item"], minlength=self.n_items))

    @cached_property
    def _item_ids(self) -> lookup.Ids:
        return lookup.Ids(self.items["item_id"], "item", self.name)

    @cached_property
    def _user_ids(self) -> lookup.Ids:
        return lookup.Ids(self.users["user_id"], "user", self.name)

    def item_codes(self, raw_ids: Iterable) -> np.ndarray:
        """(n,) int64 codes of raw item ids, given as they are or as text; InputError names an unknown one."""
        return self._item_ids.codes(raw_ids)

    def user_codes(self, raw_ids: Iterable) -> np.ndarray:
        """(n,) int64 codes of raw user ids, given as they are or as text; InputError names an unknown one."""
        return self._user_ids.codes(raw_ids)

    def find(self, titles: str | Iterable[str]) -> np.ndarray:
        """(n,) int64 item codes by title: whole, without its year, in any case, or as a prefix that fits one title.

        Where several items bear the same title, the one with the most events. InputError lists the nearest titles.
        """
        titles = [titles] if isinstance(titles, str) else titles
        return np.array([self._titles.code(title) for title in titles], dtype=np.int64)

    def split(self, kind: str = "leave_one_out", fractions: tuple[float, float] = (0.8, 0.1)) -> Split:
        """Which events may be fitted on, and which are predicted.

        "leave_one_out": each user's last event is test, the last but one validation; users with fewer than three
        events only train. "global_time": the first `fractions[0]` of all events by time train, the next `fractions[1]`
        hold the validation targets, the rest the test targets.
        """
        if kind == "leave_one_out":
            return leave_one_out(self)
        if kind == "global_time":
            return global_time(self, fractions)
        raise InputError(f"split {kind!r} is unknown; use 'leave_one_out' or 'global_time'.")

    def targets(self, events: np.ndarray) -> Targets:
        """The events with these indexes as things to predict, with all that precedes them."""
        return Targets(self, np.asarray(events, dtype=np.int64))

    def subset(self, n_users: int, seed: int = 0) -> Dataset:
        """A smaller dataset of `n_users` whole users, drawn by `seed`; all items stay, so that codes stay."""
        if not 1 <= n_users <= self.n_users:
            raise InputError(f"n_users={n_users} does not fit {self.name}; use 1 to {self.n_users}.")
        kept = np.sort(np.random.default_rng(seed).permutation(self.n_users)[:n_users])
        new_codes = np.full(self.n_users, -1)
        new_codes[kept] = np.arange(n_users)
        user = new_codes[self.events["user"]]
        events = self.events[user >= 0].assign(user=user[user >= 0]).reset_index(drop=True)
        users = self.users.iloc[kept].reset_index(drop=True)
        name = f"{self.name}-{n_users}users"
        return Dataset(name, self.timed, self.items, users, events, _offsets(events["user"].to_numpy(), n_users))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the content (not the name): equal data, equal fingerprint, on every machine."""
        digest = hashlib.sha256(b"timed" if self.timed else b"untimed")
        for frame in (self.items, self.users, self.events):
            for column in frame.columns:
                digest.update(json.dumps([column, len(frame)]).encode())
                digest.update(_column_bytes(frame[column]))
        return digest.hexdigest()

    def __repr__(self) -> str:
        counts = f"{self.n_users:,} users, {self.n_items:,} items, {self.n_events:,} events"
        if not self.timed:
            return f"Dataset {self.name}: {counts}, untimed"
        first, last = (f"{pd.Timestamp(t, unit='s'):%Y-%m-%d}" for t in self.events["timestamp"].agg(["min", "max"]))
        return f"Dataset {self.name}: {counts}, {first} to {last}"


def _offsets(users: np.ndarray, n_users: int) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.bincount(users, minlength=n_users))]).astype(np.int64)


def _column_bytes(column: pd.Series) -> bytes:
    """The column's values as bytes that do not depend on the machine or on how pandas stores them."""
    if column.dtype.kind in "biuf" and isinstance(column.dtype, np.dtype):
        kind = "<f8" if column.dtype.kind == "f" else "<i8"
        return column.to_numpy().astype(kind).tobytes()
    return json.dumps([None if pd.isna(value) else str(value) for value in column]).encode()
