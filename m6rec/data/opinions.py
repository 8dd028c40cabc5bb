"""Scoring: will this person like this film? Which events are judged, and what is known at each, in numbers and words.

A rating of 4 or 5 is a like. Of each user's events, by time, the last tenth is test and the tenth before it validation.
Whatever describes an event comes from training events alone: the user's own *before* it, and the film's ratings by
*others*, so that no label is among its own features. The text says the same numbers in words.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import pandas as pd
from sklearn.preprocessing import StandardScaler

from m6rec.data import plaintext
from m6rec.data.dataset import Dataset
from m6rec.data.domains import Domain, domain
from m6rec.data.plaintext import Text
from m6rec.errors import InputError

LIKED = 4.0  # the lowest rating that is a like
SHRINK = 5.0  # training events' worth of the overall mean in every mean
NEAR = 10  # films like this one, among those that the user has rated
FOLDS = 10  # users are in so many parts, each with its own means of films
STEPS = 20  # ranks are told in steps of so many to the whole
NUMBERS = ("user", "others", "count", "genres", "similar")


class Opinions:
    """The examples of a data set of ratings. Rows are rows of data.events; `train`, `valid` and `test` are such rows.

    InputError for a data set without ratings from 1 to 5, or without any like or dislike.
    """

    def __init__(self, data: Dataset, share: float = 0.1):
        self.data = data
        self.user, self.item = (data.events[name].to_numpy() for name in ("user", "item"))
        self.value = data.events["value"].to_numpy(float)
        self.liked = (self.value >= LIKED).astype(np.int64)  # (E,)
        if self.value.min() < 1 or self.value.max() > 5 or self.liked.min() == self.liked.max():
            raise InputError(f"scoring needs likes and dislikes among ratings from 1 to 5, and {data.name} has none.")
        sizes = np.diff(data.offsets)
        held = (sizes * share).astype(int)
        place = np.arange(data.n_events) - data.offsets[self.user]
        self.seen = np.minimum(place, (sizes - 2 * held)[self.user])  # (E,) the user's training events before each
        self.known = place < (sizes - 2 * held)[self.user]  # (E,) bool: training events
        tested = place >= (sizes - held)[self.user]
        self.train, self.valid, self.test = (
            np.flatnonzero(part) for part in (self.known, ~self.known & ~tested, tested)
        )
        self.genres = data.items["genres"].str.get_dummies(" ").to_numpy(float)  # (N, genres)
        self.numbers = self._numbers()

    def history(self, rows: np.ndarray, length: int) -> np.ndarray:
        """(n, T) the user's training events before each event, most recent last, left-padded with -1."""
        back = np.arange(length, 0, -1)
        end = self.data.offsets[self.user[rows]] + self.seen[rows]
        return np.where(back <= self.seen[rows, None], end[:, None] - back, -1)

    def _numbers(self) -> pd.DataFrame:
        """(E, 5) the user's mean, the others' mean of the film, how many they are, the user's taste in it, twice.

        The others are all users but a tenth, the user's own: were only the user left out, a film's mean would be low
        just where its own rating is high, and a network that knows the film could read the label off it.
        """
        known = self.known
        fold, given = self.user % FOLDS, np.where(known, self.value, 0.0)
        sums, counts = np.zeros((2, FOLDS, self.data.n_items))
        np.add.at(sums, (fold, self.item), given)
        np.add.at(counts, (fold, self.item), known)
        sums, counts = sums.sum(0) - sums, counts.sum(0) - counts  # of the others
        total, count = sums[fold, self.item], counts[fold, self.item]
        overall = (sums.sum(1) / counts.sum(1).clip(min=1))[fold]
        start = self.data.offsets[self.user]
        end = start + self.seen
        running = np.concatenate([[0.0], np.cumsum(given)])
        mine = (running[end] - running[start] + SHRINK * overall) / (self.seen + SHRINK)
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
            past = self.history(rows, 200)
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
        """(E, 5) each number as its rank among the training events', in per cent: 0, 5, … 95."""
        told = np.sort(self.numbers.to_numpy()[self.train], 0)
        edges = told[(np.arange(1, STEPS) * len(told)) // STEPS]  # (19, 5)
        steps = [
            np.searchsorted(edge, all_, side="right")
            for edge, all_ in zip(edges.T, self.numbers.to_numpy().T, strict=True)
        ]
        return np.stack(steps, 1) * (100 // STEPS)

    @cached_property
    def words(self) -> Told:
        """All events in words, row for row; what is known before an event stands where its circumstances would."""
        said = [" ".join(f"{name}-{rank}" for name, rank in zip(NUMBERS, row, strict=True)) for row in self.standing]
        return Told(*domain(self.data)._replace(requests=np.array(said, dtype=object)))

    def texts(self, rows: np.ndarray, events: int = 2) -> list[Text]:
        """Each example in words: who, the last events, and what is judged: its numbers and the film."""
        first = self.data.offsets[self.user[rows]]
        last = first + self.seen[rows]
        return [
            self.words.judged(row, range(max(a, b - events), b)) for row, a, b in zip(rows, first, last, strict=True)
        ]

    def pretraining(self, people: float = 1.0) -> Told:
        """The training events of three users in four, or of a share of these: the others' are labelled examples."""
        mine = self.known & (self.user % 4 != 0) & (self.user % 100 < 100 * people)
        parts = {part: getattr(self.words, part)[mine] for part in ("user", "item", "requests", "values")}
        return self.words._replace(name=f"{self.data.name}, what three people in four said", **parts)

    def drawn(self, seed: int) -> np.ndarray:
        """The training examples of the users whom pretraining has not read, in a drawn order."""
        return np.random.default_rng(seed).permutation(self.train[self.user[self.train] % 4 == 0])


class Told(Domain):
    """A domain in which numbers are told before each item and an opinion after it; item and opinion are to be written.

    "user-60" says that the user's mean rating is above that of 60 % of all training events, and so on. It is one word,
    and so becomes one token: which number is meant need not be found out from the word beside it.
    """

    def windows(self, rng: np.random.Generator, before: int = 2, size: int = 3) -> Iterator[Text]:
        """As in a `Domain`, but shorter; in two of three, the items are given too and opinions alone are written."""
        for text in super().windows(rng, before, size):
            given = rng.random() < 2 / 3
            yield text._replace(target=tuple(map(_given, text.target))) if given else text

    def text(self, rows: range, since: int, rng: np.random.Generator | None = None) -> Text:
        """Events `rows` of one user with opinions as a target, and the events from `since` to them as the history."""
        told = [(*self._asked(row), plaintext.OPINIONS[int(self.values[row])]) for row in rows]
        return self._text(rows[0], range(since, rows[0]), tuple(part for one in told for part in one))

    def judged(self, row: int, before: range) -> Text:
        """One event, up to where its opinion would be written, after a history; all of it is given."""
        return self._text(row, before, tuple(map(_given, self._asked(row))))

    def _asked(self, row: int) -> tuple[str, ...]:
        return f"{self.requests[row]}:", self.items[self.item[row]]

    def _text(self, row: int, before: range, target: tuple[str, ...]) -> Text:
        return Text(self.profiles[self.user[row]], history=tuple(map(self.said, before)), target=target)


def _given(part: str) -> str:
    """A segment of a target that is not to be written: it ends in a colon. Opinions stay as they are."""
    return part if part.endswith(":") or part in plaintext.OPINIONS.values() else f"{part}:"
