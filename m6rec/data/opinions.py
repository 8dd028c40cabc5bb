"""Scoring: will this person like this film? What is known at each event, as numbers and as plain text.

Everything comes from training events alone (`Segmented` says which): the user's own *before* the event, and the film's
ratings by *others*, so that no example's label is among its own features. The text says the same numbers in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pandas as pd
from sklearn.preprocessing import StandardScaler

from m6rec.data import plaintext
from m6rec.data.domains import Domain, domain
from m6rec.data.plaintext import Text
from m6rec.data.segments import Part, Segmented

SHRINK = 5.0  # training events' worth of the overall mean in every mean
NEAR = 10  # films like this one, among those that the user has rated
TENS = ("ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
NUMBERS = ("user", "others", "count", "genres", "similar")


class Opinions:
    """The examples of a data set of ratings, on the split of `Segmented`. Rows are rows of data.events."""

    def __init__(self, shop: Segmented, history: int = 50):
        self.shop, self.data, self.length = shop, shop.data, history
        self.user, self.item = (self.data.events[name].to_numpy() for name in ("user", "item"))
        self.value, self.liked = self.data.events["value"].to_numpy(float), shop.liked.astype(np.int64)
        self.train = np.flatnonzero(shop.training)
        self.genres = self.data.items["genres"].str.get_dummies(" ").to_numpy(float)  # (N, genres)
        before = np.cumsum(shop.training) - shop.training  # training events before each event, of all users
        first = self.data.offsets[self.user]
        self.seen = before - before[first]  # (E,) of the user's own: they come first, so they end at first + seen
        self.numbers = self._numbers()

    def rows(self, part: Part) -> np.ndarray:
        """The events that a part judges, (W · count,)."""
        return (part.starts[:, None] + np.arange(part.count)).ravel()

    def history(self, rows: np.ndarray, length: int) -> np.ndarray:
        """(n, T) the user's training events before each event, most recent last, left-padded with -1."""
        back = np.arange(length, 0, -1)
        end = self.data.offsets[self.user[rows]] + self.seen[rows]
        return np.where(back <= self.seen[rows, None], end[:, None] - back, -1)

    def _numbers(self) -> pd.DataFrame:
        """(E, 5) the user's mean, the others' mean of the film, how many they are, the user's taste in its kinds."""
        known = self.shop.training
        overall = self.value[known].mean()
        given = np.where(known, self.value, 0.0)
        start = self.data.offsets[self.user]
        end = start + self.seen
        sums = np.concatenate([[0.0], np.cumsum(given)])
        mine = (sums[end] - sums[start] + SHRINK * overall) / (self.seen + SHRINK)
        count = np.bincount(self.item[known], minlength=self.data.n_items)[self.item] - known
        total = np.bincount(self.item, given, self.data.n_items)[self.item] - given
        others = (total + SHRINK * overall) / (count + SHRINK)
        off = np.where(known, self.value - others - mine + overall, 0.0)  # what neither the person nor the film says
        kinds = self.genres[self.item]
        told, often = (
            np.concatenate([np.zeros((1, kinds.shape[1])), np.cumsum(kinds * weight[:, None], 0)])
            for weight in (off, known.astype(float))
        )
        taste = (kinds * (told[end] - told[start]) / (often[end] - often[start] + SHRINK)).sum(1)
        columns = (mine, others, np.log1p(count), taste / kinds.sum(1).clip(min=1), self._similar(off))
        return pd.DataFrame(dict(zip(NUMBERS, columns, strict=True)))

    def _similar(self, off: np.ndarray) -> np.ndarray:
        """(E,) what the user thought of the films before that are most like this one: by who rated both."""
        had = np.zeros((self.data.n_users, self.data.n_items), np.float32)
        had[self.user[self.train], self.item[self.train]] = 1
        together = had.T @ had
        counts = np.sqrt(np.diag(together))
        likeness = together / (np.outer(counts, counts) + 10)
        np.fill_diagonal(likeness, 0)
        out = []
        for rows in np.array_split(np.arange(len(off)), max(1, len(off) // 5000)):
            past = self.history(rows, 4 * self.length)
            near = np.where(past >= 0, likeness[self.item[rows, None], self.item[past]], 0)
            top = np.argpartition(-near, min(NEAR, near.shape[1] - 1), 1)[:, :NEAR]
            weight = np.take_along_axis(near, top, 1)
            said = np.where(weight > 0, off[np.take_along_axis(past, top, 1)], 0)
            out.append((weight * said).sum(1) / (weight.sum(1) + 0.3))
        return np.concatenate(out)

    @cached_property
    def features(self) -> np.ndarray:
        """(E, F) float32, standardised on training events: the numbers, year, genres and profile."""
        year = pd.to_numeric(self.data.items.get("year", pd.Series(0, self.data.items.index)), errors="coerce")
        year = year.where(year > 0, year.median()).to_numpy(float)[self.item]
        profile = pd.get_dummies(self.data.users[self.data.profile_columns]).to_numpy(float)[self.user]
        table = np.column_stack([self.numbers, year, self.genres[self.item], profile])
        return StandardScaler().fit(table[self.train]).transform(table).astype(np.float32)

    @cached_property
    def standing(self) -> np.ndarray:
        """(E, 5) each number as its rank among the training events', in tenths from 0 to 9."""
        known = np.sort(self.numbers.to_numpy()[self.train], 0)
        tenths = known[(np.arange(1, 10) * len(known)) // 10]  # (9, 5)
        return (self.numbers.to_numpy()[:, None] >= tenths).sum(1)

    def texts(self, rows: np.ndarray, events: int = 3) -> list[Text]:
        """Each example in words: who, the last events, and in the region read from the left the numbers and the film."""
        past = self.history(rows, events)
        profiles, items = self.words.profiles, self.words.items
        return [
            Text(
                profile=profiles[self.user[row]],
                history=tuple(plaintext.event(items[self.item[r]], self.value[r]) for r in own if r >= 0),
                target=(f"{self.words.requests[row]}:", items[self.item[row]]),
            )
            for row, own in zip(rows, past, strict=True)
        ]

    @cached_property
    def words(self) -> Domain:
        """All events in words, row for row; what is known before an event stands where its circumstances would."""
        requests = np.array([said(row) for row in self.standing], dtype=object)
        return domain(self.data)._replace(requests=requests)

    @cached_property
    def pretraining(self) -> Domain:
        """The training events in words: no validation or test event is among them."""
        parts = {part: getattr(self.words, part)[self.train] for part in ("user", "item", "requests", "values")}
        return self.words._replace(name=f"{self.data.name}, training events", **parts)


def said(standing: Sequence[int]) -> str:
    """Ranks in tenths -> "user sixty others ninety count …": the rating is above that of sixty in a hundred."""
    return " ".join(f"{name} {('low', *TENS)[tenth]}" for name, tenth in zip(NUMBERS, standing, strict=True))
