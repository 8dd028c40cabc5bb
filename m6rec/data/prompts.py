"""A data set in words, and its histories cut into training prompts.

A rating of 4 or 5 is a like. What describes an event comes from training events alone: the user's own *before* it, and
the item's ratings by *other* users."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from m6rec.config import Array, Frame, InputError, Rng
from m6rec.data.context import CORE_COLUMNS
from m6rec.data.dataset import Dataset
from m6rec.data.text import BOS, PAD, SOURCE_BOS, Prompt, Tokenizer, clean, pad

HISTORY = 8
RATINGS = {1: "hated", 2: "disliked", 3: "found fair", 4: "liked", 5: "loved"}
DECADES = ("child", "teens", "twenties", "thirties", "forties", "fifties", "sixties")
DAYTIMES = ("night", "morning", "afternoon", "evening")


def item(words: object) -> str:
    return " ".join(clean(words).replace("|", " ").split()[:8]).rstrip(":").lower()


FORMATS = {
    "age": lambda years: DECADES[min(int(years) // 10, 6)],
    "hour": lambda hour: DAYTIMES[int(hour) // 6 % 4],
    "weekday": lambda day: "weekend" if int(day) >= 5 else "workday",
}  # of columns that are written otherwise


def fields(row: Mapping[str, object], *, names: bool = False) -> str:
    """A profile or request in words: {"hour": 21, "device": "phone"} -> "evening phone".

    names: before each value, as in "age twenties gender m"."""
    given = {name: value for name, value in row.items() if name != "user_id" and not pd.isna(value)}
    words = {name: FORMATS.get(name, lambda v: clean(str(v)).lower())(value) for name, value in given.items()}
    return " ".join(f"{name} {value}" if names else value for name, value in words.items())


def event(words: str, value: float = np.nan) -> str:
    """An item after its rating of 1 to 5 in words, if any."""
    return words if np.isnan(value) else f"{RATINGS[int(np.clip(round(value), 1, 5))]} {words}"


class Domain(NamedTuple):
    """A data set in words: items and profiles by code, the others by event."""

    name: str
    items: Array  # (N,) str
    profiles: Array  # (U,) str
    user: Array  # (E,) int64, sorted; within a user by time
    item: Array  # (E,) int64
    requests: Array  # (E,) str, empty without request columns
    values: Array  # (E,) float, NaN without ratings of 1 to 5

    def only(self, events: Array) -> "Domain":
        """With these events (E,) bool alone."""
        return self._make([*self[:3], *(part[events] for part in self[3:])])

    def event(self, row: int) -> str:
        return event(self.items[self.item[row]], self.values[row])

    def windows(self, rng: Rng, before: int = HISTORY, size: int = 8) -> Iterator[Prompt]:
        """All events once, `size` targets after up to `before` events; users in order."""
        starts = np.flatnonzero(np.diff(self.user, prepend=-1))
        for start, end in zip(starts, [*starts[1:], len(self.user)], strict=True):
            for first in range(start - int(rng.integers(size)), end, size):
                if rows := range(max(first, start), min(first + size, end)):
                    yield self.prompt(rows, max(start, rows[0] - int(rng.integers(before + 1))))

    def drawn_windows(self, count: int, rng: Rng, before: int = HISTORY, size: int = 8) -> list[Prompt]:
        """`count` windows as in `windows`, from anywhere."""
        first = rng.integers(len(self.user), size=count)
        start, end = (np.searchsorted(self.user, self.user[first], side) for side in ("left", "right"))
        last, since = np.minimum(first + size, end), np.maximum(start, first - rng.integers(before + 1, size=count))
        return [self.prompt(range(*rows), s) for *rows, s in zip(first, last, since, strict=True)]

    def prompt(self, rows: range, since: int) -> Prompt:
        """Events `rows` of one user as a target, each after its request if new; the history from `since`."""
        target, last = [], ""
        for row in rows:
            request, item = self.requests[row], self.items[self.item[row]]
            target += [item] if request == last else [f"{request}:", item]
            last = request
        history = tuple(map(self.event, range(since, rows[0])))
        return Prompt(profile=self.profiles[self.user[rows[0]]], history=history, target=tuple(target))

    def prompts(self, rows: Array, history: int = HISTORY, *, in_source: bool = False) -> list[Prompt]:
        """Events `rows`, each after up to `history` events; in_source: with the request in the source, too."""
        starts = np.searchsorted(self.user, self.user[rows])
        prompts = (self.prompt(range(r, r + 1), max(start, r - history)) for r, start in zip(rows, starts, strict=True))
        return [p._replace(request=self.requests[r]) if in_source else p for r, p in zip(rows, prompts, strict=True)]

    def texts(self) -> Iterator[str]:
        """For a tokenizer."""
        yield from map(self.event, range(len(self.item)))
        yield from self.profiles
        yield from (f"{request}:" for request in np.unique(self.requests))


def domain(data: Dataset, events: Array | None = None) -> Domain:
    """events: (E,) bool, those that may be read (default all). InputError without a text."""
    items = data.items["text"].map(item).to_numpy(object)
    if not any(items):
        raise InputError(f"{data.name} has no text: a domain is read from its items' titles or texts.")
    table = data.events if events is None else data.events[events]
    user, item_, value = (table[name].to_numpy() for name in ("user", "item", "value"))
    own = [column for column in table.columns if column not in CORE_COLUMNS]
    requests = np.full(len(table), "", object)
    if own and data.timed:
        time = table["timestamp"]
        rows = Frame({"hour": time % 86400 // 3600, "weekday": (time // 86400 + 3) % 7, **table[own]})
        codes = rows.groupby(list(rows), sort=False, dropna=False, observed=True).ngroup().to_numpy()
        first = np.unique(codes, return_index=True)[1]
        requests = np.array([fields(row) for row in rows.iloc[first].to_dict("records")], object)[codes]
    rated = table["value"].nunique() > 1 and table["value"].between(1, 5).all()
    profiles = np.array([fields(row, names=True) for row in data.users.to_dict("records")], object)
    values = value.astype(float) if rated else np.full(len(table), np.nan)
    return Domain(data.name, items, profiles, user, item_, requests, values)


LIKED = 4.0  # a like from here on
SHRINK = 5.0  # weight of the overall mean in every mean, in events
FOLDS = 10  # of users, for item means
LEVELS = 50  # quantiles of features in words
NEIGHBOURS = 10  # of an item, among the user's rated ones
FEATURES = ("user", "others", "count", "genres", "similar")
SCALES = [[f"{name}-{100 // LEVELS * level}" for level in range(LEVELS)] for name in FEATURES]


class Ratings:
    """Rated events; `train`, `valid` and `test` are rows of data.events.

    held: how many, or which share, of each user's last events are test, and as many before them validation. Users with
    too few only train. InputError without ratings from 1 to 5, likes or dislikes."""

    def __init__(self, data: Dataset, held: float = 0.1):
        self.data = data
        self.user, self.item = data.events[["user", "item"]].to_numpy().T
        self.value = data.events["value"].to_numpy(float)
        self.liked = (self.value >= LIKED).astype(np.int64)  # (E,)
        if self.value.min() < 1 or self.value.max() > 5 or self.liked.min() == self.liked.max():
            raise InputError(f"scoring needs likes and dislikes among ratings from 1 to 5, and {data.name} has none.")
        sizes = np.diff(data.offsets)
        held = (sizes * held).astype(int) if held < 1 else np.where(sizes > 2 * held, held, 0)
        self.n_train = sizes - 2 * held  # (U,)
        position = np.arange(data.n_events) - data.offsets[self.user]  # (E,)
        self.n_before = np.minimum(position, self.n_train[self.user])  # (E,) the user's training events before
        self.is_train = position < self.n_train[self.user]  # (E,) bool
        test = position >= (sizes - held)[self.user]
        self.train, self.valid, self.test = map(np.flatnonzero, (self.is_train, ~self.is_train & ~test, test))

    def item_means(self, value: Array, fold: Array) -> tuple[Array, Array, Array]:
        """(E,) each: out-of-fold means of `value` by item, their counts, and the overall means.

        Of all users' training events but the event's `fold` (E,); FOLDS leaves none out. Without the event alone they
        would tell its label: the mean is low where its rating is high."""
        train, n = self.is_train, self.data.n_items
        cell = (fold * n + self.item)[train]
        total, count = (np.bincount(cell, w, (FOLDS + 1) * n).reshape(-1, n) for w in (value[train], None))
        total, count = total.sum(0) - total, count.sum(0) - count
        overall = (total.sum(1) / count.sum(1).clip(min=1))[fold]
        total, count = total[fold, self.item], count[fold, self.item]
        return (total + SHRINK * overall) / (count + SHRINK), count, overall

    @cached_property
    def genres(self) -> Array:
        """(N, genres)"""
        return self.data.items["genres"].str.get_dummies(" ").to_numpy(float)

    def history(self, rows: Array, length: int) -> Array:
        """(n, T) the user's training events before each, most recent last, left-padded with -1."""
        back, before = np.arange(length, 0, -1), self.n_before[rows, None]
        return np.where(back <= before, self.data.offsets[self.user[rows], None] + before - back, -1)

    def _known(self, rows: Array | slice) -> Array:
        """(U, N) bool: which items users have among these events."""
        known = np.zeros((self.data.n_users, self.data.n_items), bool)
        known[self.user[rows], self.item[rows]] = True
        return known

    @cached_property
    def numbers(self) -> Frame:
        """(E, 5) the user's mean, others' mean of the item, their count, the user's genre and item similarity."""
        others, count, overall = self.item_means(self.value, self.user % FOLDS)
        start = self.data.offsets[self.user]

        def before(values):
            """Sums of values (E, ·) over the user's earlier training events."""
            sums = np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values, 0)])
            return sums[start + self.n_before] - sums[start]

        own = (before(np.where(self.is_train, self.value, 0.0)) + SHRINK * overall) / (self.n_before + SHRINK)
        residual = np.where(self.is_train, self.value - others - own + overall, 0.0)  # without user's and item's mean
        genres = self.genres[self.item]
        rated, often = before(genres * residual[:, None]), before(genres * self.is_train[:, None])
        taste = (genres * rated / (often + SHRINK)).sum(1) / genres.sum(1).clip(min=1)

        had = self._known(self.train).astype(np.float32)
        together = had.T @ had
        counts = np.sqrt(np.diag(together))
        similarity = together / (np.outer(counts, counts) + 10)
        np.fill_diagonal(similarity, 0)
        similar = []  # residuals of the user's earlier items nearest by who rated both
        for rows in np.array_split(np.arange(len(residual)), max(1, len(residual) // 5000)):
            past = self.history(rows, 200)
            near = np.where(past >= 0, similarity[self.item[rows, None], self.item[past]], 0)
            top = np.argpartition(-near, min(NEIGHBOURS, near.shape[1] - 1), 1)[:, :NEIGHBOURS]
            weight = np.take_along_axis(near, top, 1)
            rated = np.where(weight > 0, residual[np.take_along_axis(past, top, 1)], 0)
            similar.append((weight * rated).sum(1) / (weight.sum(1) + 0.3))
        columns = (own, others, np.log1p(count), taste, np.concatenate(similar))
        return Frame(dict(zip(FEATURES, columns, strict=True)))

    @cached_property
    def features(self) -> Array:
        """(E, F) float32, standardised on training events: the numbers, year, genres and profile."""
        year = pd.to_numeric(self.data.items.get("year", pd.Series(0, self.data.items.index)), errors="coerce")
        year = year.where(year > 0, year.median()).to_numpy(float)[self.item]
        profile = pd.get_dummies(self.data.users[self.data.profile_columns]).to_numpy(float)[self.user]
        table = np.column_stack([self.numbers, year, self.genres[self.item], profile])
        return StandardScaler().fit(table[self.train]).transform(table).astype(np.float32)

    @cached_property
    def words(self) -> Domain:
        """In words: a request holds the quantiles of the event's numbers in training, as in `SCALES`."""
        train = np.sort(self.numbers.iloc[self.train].to_numpy(), 0)
        edges = train[(np.arange(1, LEVELS) * len(train)) // LEVELS].T  # (5, 49)
        levels = [np.searchsorted(*pair, side="right") for pair in zip(edges, self.numbers.to_numpy().T, strict=True)]
        words = (np.array(scale)[level] for scale, level in zip(SCALES, levels, strict=True))
        requests = np.array([" ".join(event) for event in zip(*words, strict=True)], object)
        return domain(self.data)._replace(requests=requests)

    def texts(self, rows: Array, events: int = 2) -> list[Prompt]:
        """All given: the profile, the last events, and the event's item and numbers."""
        words, found = self.words, []
        for row, past in zip(rows, self.history(rows, events), strict=True):
            target = f"{words.items[self.item[row]]}:", f"{words.requests[row]}:"
            history = tuple(map(words.event, past[past >= 0]))
            found.append(Prompt(words.profiles[self.user[row]], history=history, target=target))
        return found

    def unrated(self) -> Domain:
        """In words, without ratings."""
        return domain(self.data)._replace(values=np.full(self.data.n_events, np.nan))


class Windows(NamedTuple):
    """Segments of L tokens, 0 = padding on the right."""

    source: Tensor  # (B, 1 + T, L) int64: profile, then events, the most recent last
    candidates: Tensor  # (B, C, L) int64
    clicked: Tensor  # (B, C) float32: 1 clicked, 0 not, -1 no candidate
    item: Tensor  # (B, C) int64: codes, -1 where there is none

    def rows(self, rows: slice) -> "Windows":
        return Windows(*(part[rows] for part in self))


class ClickWindows(Ratings):
    """Click-through: which of the shown items does a user rate next? Events and candidates are segments of words.

    Half of the `candidates` are the user's next events. The others, which the user never rates, are drawn in proportion
    to their training events: popularity alone is worth little."""

    def __init__(
        self, data: Dataset, *, length: int = 6, history: int = 16, vocabulary: int = 3000, held: float = 0.1,
        candidates: int = 24,
    ):  # fmt: skip
        super().__init__(data, held)
        self.n_history, self.n_clicked = history, candidates // 2
        words = domain(data)
        rated = [event(text, value) for text in words.items for value in range(1, 6)]
        read = np.unique(self.item[self.train])
        texts = *words.items[read], *(rated[5 * i + i % 5] for i in read), *words.profiles
        self.tokenizer = Tokenizer.fit(texts, vocabulary)

        def table(texts, *first):
            return pad([(*first, *self.tokenizer.ids(text))[:length] for text in texts], length)

        self.profiles = table(words.profiles, SOURCE_BOS)  # (U, L): never empty
        self.events = table(rated).reshape(-1, 5, length)  # (N, 5, L)
        self.items = table(words.items, BOS)  # (N, L): [BOS] holds the score
        self.popularity = np.bincount(self.item[self.train], minlength=data.n_items)  # (N,) training events
        self._part = np.isin(np.arange(data.n_events), self.test) - 1 * self.is_train  # (E,)
        self.fingerprint = f"{data.fingerprint} {length} {history} {len(self.tokenizer)} {held} {candidates}"

    def batches(self, rng: Rng, *, steps: int, size: int) -> Iterator[Windows]:
        """`steps` batches from anywhere in the training events."""
        known = self._known(self.train)
        for _ in range(steps):
            drawn = rng.choice(self.train, size)
            first = self.data.offsets[self.user[drawn]]  # a window over the end begins earlier
            last = np.maximum(first, first + self.n_train[self.user[drawn]] - self.n_clicked)
            yield self._windows(np.minimum(drawn, last), known, rng)

    def requests(self, rows: Array) -> Windows:
        """One window per user, from their first event among `rows`: of `valid` or `test`."""
        rows = rows[np.unique(self.user[rows], return_index=True)[1]]
        return self._windows(rows, self._known(slice(None)), np.random.default_rng(0))

    def _windows(self, starts: Array, known: Array, rng: Rng) -> Windows:
        """Events from `starts` (B,) on, of the same user and part, and drawn items; T events before them."""
        user, n = self.user[starts], self.n_clicked
        rows = np.minimum(starts[:, None] + np.arange(n), len(self.item) - 1)  # (B, n)
        clicked = (self.user[rows] == user[:, None]) & (self._part[rows] == self._part[starts, None])
        keys = np.where(known[user] | (self.popularity == 0), -np.inf, np.log(self.popularity.clip(min=1)))
        keys += rng.gumbel(size=keys.shape)  # the largest are draws without replacement: `generate.gumbel_top_k`
        drawn = np.argpartition(-keys, n)[:, :n]
        shown = clicked & (np.take_along_axis(keys, drawn, 1) > -np.inf)  # one drawn for each clicked
        item = np.concatenate((np.where(clicked, self.item[rows], -1), np.where(shown, drawn, -1)), 1)
        items = np.where(item[..., None] < 0, PAD, self.items[item])
        labels = np.where(item < 0, -1, np.arange(2 * n) < n).astype(np.float32)
        before = starts[:, None] - np.arange(self.n_history, 0, -1)  # (B, T)
        events = self.events[self.item[before], np.rint(self.value[before]).astype(np.int64) - 1]
        events = np.where((before >= self.data.offsets[user][:, None])[..., None], events, PAD)
        source = np.concatenate((self.profiles[user][:, None], events), 1)
        return Windows(*map(torch.from_numpy, (source, items, labels, item)))
