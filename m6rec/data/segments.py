"""Windows of segments: a profile, the events before and the candidates judged after them, each cut into tokens alone.

One window judges many candidates by one history: what is read before them is shared, in training as in serving.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from m6rec.data import plaintext
from m6rec.data.dataset import Dataset
from m6rec.data.text import BOS, PAD
from m6rec.errors import InputError


class Windows(NamedTuple):
    """Segments of L tokens, 0 = padding on the right; a segment that is missing is all padding."""

    source: Tensor  # (B, 1 + T, L) int64: the profile, then the events, the most recent last
    candidates: Tensor  # (B, C, L) int64
    liked: Tensor  # (B, C) float32: 1 liked, 0 not, -1 no candidate


class Part(NamedTuple):
    """Which events are judged: `count` of them from each of `starts`, of users in turn."""

    starts: np.ndarray  # (W,) rows of data.events
    count: int


class Segmented:
    """A data set of ratings as segments. A user's last `held` events are test, as many before them validation.

    Users with fewer than 2 · held + 1 events only train. `InputError` for a data set without ratings from 1 to 5.
    """

    def __init__(
        self, data: Dataset, *, length: int = 8, history: int = 16, vocabulary: int = 3000, held: int = 8
    ) -> None:
        value = data.events["value"].to_numpy()
        if not (value.min() >= 1 and value.max() <= 5 and value.max() > value.min()):
            raise InputError(f"scoring needs ratings from 1 to 5, and {data.name} has none: take a data set with them.")
        self.data, self.length, self.history = data, length, history
        sizes = np.diff(data.offsets)
        out = np.where(sizes > 2 * held, 2 * held, 0)
        self._end = data.offsets[1:] - out  # of each user's training events
        judged = self._end[out > 0]
        self.valid, self.test = Part(judged, held), Part(judged + held, held)
        self.liked = (value >= 4).astype(np.float32)  # (E,)
        self._user = data.events["user"].to_numpy()
        self._item = data.events["item"].to_numpy()
        self._opinion = np.rint(value).astype(np.int64) - 1
        words = [" ".join(re.split(r"[|,\s]+", text)) for text in data.items["text"]]
        profiles = [plaintext.profile(row) for row in data.users.to_dict("records")]
        rated = [plaintext.event(text, value) for text in words for value in range(1, 6)]
        read = np.unique(self._item[self.training])
        training = [words[i] for i in read] + [rated[5 * i + i % 5] for i in read]  # opinions become whole words
        self.speller = plaintext.Speller.fit([*training, *profiles], vocabulary)
        self.profiles = self._table(profiles, first=[plaintext.SOURCE_BOS])  # (U, L): never empty
        self.events = self._table(rated).reshape(len(words), 5, length)  # (N·5, L) -> (N, 5, L)
        self.items = self._table(words, first=[BOS])  # (N, L): the state of [BOS] becomes the score

    @property
    def fingerprint(self) -> str:
        """Equal data, cut equally, have equal ones."""
        return f"{self.data.fingerprint} {self.length} {self.history} {len(self.speller)} {self.valid.count}"

    @cached_property
    def training(self) -> np.ndarray:
        """(E,) bool: the events that may be fitted on."""
        return np.arange(self.data.n_events) < self._end[self._user]

    def batches(self, rng: np.random.Generator, *, steps: int, size: int, candidates: int) -> Iterator[Windows]:
        """So many batches of `size` windows that begin anywhere in the training events."""
        rows = np.flatnonzero(self.training)
        for _ in range(steps):
            drawn = rng.choice(rows, size)
            user = self._user[drawn]  # a window that would run over the end begins earlier
            last = np.maximum(self.data.offsets[user], self._end[user] - candidates)
            yield self.windows(Part(np.minimum(drawn, last), candidates))

    def windows(self, part: Part) -> Windows:
        """These events as candidates, with the profile and the last T events before them."""
        user = self._user[part.starts]
        before = part.starts[:, None] - np.arange(self.history, 0, -1)  # (W, T)
        there = before >= self.data.offsets[user][:, None]
        events = np.where(there[..., None], self.events[self._item[before], self._opinion[before]], PAD)
        rows = part.starts[:, None] + np.arange(part.count)  # (W, C)
        end = np.where(part.starts < self._end[user], self._end[user], self.data.offsets[user + 1])
        inside = rows < end[:, None]
        rows = np.where(inside, rows, 0)
        items = np.where(inside[..., None], self.items[self._item[rows]], PAD)
        source = np.concatenate((self.profiles[user][:, None], events), 1)
        liked = np.where(inside, self.liked[rows], np.float32(-1))
        return Windows(torch.from_numpy(source), torch.from_numpy(items), torch.from_numpy(liked))

    def means(self, part: Part) -> np.ndarray:
        """(W, C): the share of training ratings that liked each candidate, with five of the mean added: a baseline."""
        item, n = self._item[self.training], self.data.n_items
        liked = self.liked[self.training]
        share = (np.bincount(item, liked, n) + 5 * liked.mean()) / (np.bincount(item, minlength=n) + 5)
        return share[self._item[part.starts[:, None] + np.arange(part.count)]]

    def visits(self, count: int, rng: np.random.Generator, times: int = 20) -> np.ndarray:
        """(count,) events as requests: drawn people all come once, then all again with one more event, and so on."""
        people = rng.choice(np.flatnonzero(np.diff(self.data.offsets) >= times), -(-count // times))
        return (self.data.offsets[people] + np.arange(times)[:, None]).ravel()[:count]

    def _table(self, texts: list[str], first: list[int] | None = None) -> np.ndarray:
        start = first or []
        rows = [(start + list(self.speller.segment(text)[:-1]))[: self.length] for text in texts]  # without [SEP]
        out = np.full((len(rows), self.length), PAD, dtype=np.int64)
        for line, row in zip(out, rows, strict=True):
            line[: len(row)] = row
        return out
