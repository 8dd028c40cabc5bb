"""A data set in words: profiles, requests and events are rendered, and histories cut into training prompts."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from m6rec.data.context import CORE_COLUMNS
from m6rec.data.dataset import Dataset
from m6rec.data.text import Prompt, clean
from m6rec.errors import InputError

HISTORY = 8  # events before those of the target
RATINGS = {1: "hated", 2: "disliked", 3: "found fair", 4: "liked", 5: "loved"}
DECADES = ("child", "teens", "twenties", "thirties", "forties", "fifties", "sixties")
DAYTIMES = ("night", "morning", "afternoon", "evening")


def item(words: object, longest: int = 8) -> str:
    """An item in words: the first ones of its text, without the marks between its parts."""
    return " ".join(clean(words).replace("|", " ").split()[:longest]).rstrip(":").lower()


FORMATS = {
    "age": lambda years: DECADES[min(int(years) // 10, 6)],
    "hour": lambda hour: DAYTIMES[int(hour) // 6 % 4],
    "weekday": lambda day: "weekend" if int(day) >= 5 else "workday",
}  # of columns whose values are not written as they are


def fields(row: Mapping[str, object], *, names: bool = False) -> str:
    """A profile's or request's columns in words: {"hour": 21, "device": "phone"} -> "evening phone".

    names: before each value, as in a profile: {"age": 24, "gender": "M"} -> "age twenties gender m".
    """
    given = {name: value for name, value in row.items() if name != "user_id" and not pd.isna(value)}
    words = {name: FORMATS.get(name, lambda v: clean(str(v)).lower())(value) for name, value in given.items()}
    return " ".join(f"{name} {value}" if names else value for name, value in words.items())


def event(words: str, value: float = np.nan) -> str:
    """An item of a history, after its rating of 1 to 5 in words where it has one."""
    return words if np.isnan(value) else f"{RATINGS[int(np.clip(round(value), 1, 5))]} {words}"


class Domain(NamedTuple):
    """Everything of one data set in words. The first two by code, the others by event."""

    name: str
    items: np.ndarray  # (N,) str
    profiles: np.ndarray  # (U,) str
    user: np.ndarray  # (E,) int64, sorted; within a user by time
    item: np.ndarray  # (E,) int64
    requests: np.ndarray  # (E,) str, empty where the data set has no request columns
    values: np.ndarray  # (E,) float, NaN where there are no ratings of 1 to 5

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all words and events."""
        digest = hashlib.sha256()
        for part in self[1:]:
            digest.update("\0".join(map(str, part)).encode() if part.dtype == object else part.tobytes())
        return digest.hexdigest()

    def only(self, events: np.ndarray) -> "Domain":
        """The same items and profiles with these events (E,) bool alone."""
        return self._make([*self[:3], *(part[events] for part in self[3:])])

    def event(self, row: int) -> str:
        """One event of a history in words."""
        return event(self.items[self.item[row]], self.values[row])

    def windows(self, rng: np.random.Generator, before: int = HISTORY, size: int = 8) -> Iterator[Prompt]:
        """All events once, cut into targets of `size`, after a history of up to `before` events; users in order."""
        starts = np.flatnonzero(np.diff(self.user, prepend=-1))
        for start, end in zip(starts, [*starts[1:], len(self.user)], strict=True):
            for first in range(start - int(rng.integers(size)), end, size):
                rows = range(max(first, start), min(first + size, end))
                if rows:
                    yield self.prompt(rows, max(start, rows[0] - int(rng.integers(before + 1))))

    def prompt(self, rows: range, since: int) -> Prompt:
        """Events `rows` of one user as a target, and the events from `since` to them as the history.

        In the target a request precedes its item, unless it is the same as that of the item before.
        """
        target, last = [], ""
        for row in rows:
            request, item = self.requests[row], self.items[self.item[row]]
            target += [item] if request == last else [f"{request}:", item]
            last = request
        history = tuple(map(self.event, range(since, rows[0])))
        return Prompt(profile=self.profiles[self.user[rows[0]]], history=history, target=tuple(target))

    def prompts(self, rows: np.ndarray, history: int = HISTORY, *, in_source: bool = False) -> list[Prompt]:
        """Single events `rows`, each after up to `history` events; in_source: with the request in the source, too."""
        starts = np.searchsorted(self.user, self.user[rows])
        prompts = (self.prompt(range(r, r + 1), max(start, r - history)) for r, start in zip(rows, starts, strict=True))
        return [p._replace(request=self.requests[r]) if in_source else p for r, p in zip(rows, prompts, strict=True)]


def domain(data: Dataset, events: np.ndarray | None = None, name: str = "") -> Domain:
    """A data set in words; events: (E,) bool, those that may be read (default all). InputError without a text."""
    items = data.items["text"].map(item).to_numpy(object)
    if not any(items):
        raise InputError(f"{data.name} has no text: a domain is read from its items' titles or texts.")
    table = data.events if events is None else data.events[events]
    user, item_, value = (table[name].to_numpy() for name in ("user", "item", "value"))
    own = [column for column in table.columns if column not in CORE_COLUMNS]
    requests = np.full(len(table), "", dtype=object)
    if own and data.timed:
        time = table["timestamp"]
        rows = pd.DataFrame({"hour": time % 86400 // 3600, "weekday": (time // 86400 + 3) % 7, **table[own]})
        texts = rows.astype(str).agg("\0".join, axis=1)
        first, codes = np.unique(texts, return_index=True, return_inverse=True)[1:]
        requests = np.array([fields(row) for row in rows.iloc[first].to_dict("records")], dtype=object)[codes]
    rated = table["value"].nunique() > 1 and table["value"].between(1, 5).all()
    profiles = np.array([fields(row, names=True) for row in data.users.to_dict("records")], dtype=object)
    values = value.astype(float) if rated else np.full(len(table), np.nan)
    return Domain(name or data.name, items, profiles, user, item_, requests, values)
