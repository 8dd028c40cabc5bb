"""One column as codes that the network can look up, by its type: a category, a number, a part of a time, a text.

Code 0 means absent and is masked, never a zero that pretends to be a value. A text is known by one word of it, the
rarest of those that training texts share: few codes, each of them with a meaning that one can read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from m6rec.data.text import clean
from m6rec.errors import InputError

HOURS = tuple(str(h) for h in range(24))
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
SEASONS = ("winter", "spring", "summer", "autumn")  # of the northern half; winter is December to February
PARTS = {"hour": HOURS, "weekday": WEEKDAYS, "season": SEASONS}  # what is read off a clock
WORDS = 200  # words that a text may be known by
MOST = 0.8  # share of the texts from which a word says nothing
LETTERS = r"(?u)\b[^\W\d_]{2,}\b"  # a word: a year or a size is a number, for a column of its own


@dataclass(frozen=True)
class Field:
    """One column's codes: categories by name, numbers by the interval that they fall into, texts by a word."""

    name: str
    levels: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()
    """Of a text's words: how rare each is, log(texts / texts with it)."""
    column: str = ""
    """Of a part of a time: the column that it is read off."""
    part: str = ""
    """What is worked out: hour, weekday, season of a time; gap, session, pace, tastes of the events before."""

    @property
    def size(self) -> int:
        """Number of codes, the absent one included."""
        return 1 + (len(self.levels) or len(self.edges) + 1)

    @classmethod
    def fit(cls, name: str, values: pd.Series) -> Field:
        """Numbers with more than 12 different values become eight equally filled intervals, all else categories."""
        known = values.dropna()
        if pd.api.types.is_numeric_dtype(known) and known.nunique() > 12:
            return cls.number(name, known)
        return cls(name, levels=tuple(sorted({_label(v) for v in known})))

    @classmethod
    def declared(cls, name: str, kind: str, values: pd.Series) -> tuple[Field, ...]:
        """The fields of a column whose type is declared: "categorical", "number", "text", or "time", which has three.

        InputError where no training value is of that type.
        """
        if kind == "time":
            seconds(name, values)
            return tuple(cls.clock(f"{name}_{part}", part, name) for part in PARTS)
        if kind == "text":
            return (cls.text(name, values),)
        if kind == "number":
            return (cls.number(name, values),)
        return (cls(name, levels=tuple(sorted({_label(v) for v in values.dropna()}))),)

    @classmethod
    def clock(cls, name: str, part: str, column: str = "timestamp") -> Field:
        """A part of a time in UTC: hour, weekday or season."""
        return cls(name, levels=PARTS[part], column=column, part=part)

    @classmethod
    def number(cls, name: str, values: pd.Series) -> Field:
        """Up to eight intervals, equally filled; InputError where there is no number."""
        numbers = pd.to_numeric(values, errors="coerce").dropna().to_numpy(dtype=float)
        if not len(numbers):
            raise InputError(f"the column {name} is declared a number and holds none: declare another type.")
        return cls(name, edges=tuple(float(e) for e in np.unique(np.quantile(numbers, np.arange(1, 8) / 8))))

    @classmethod
    def text(cls, name: str, values: Iterable[object], part: str = "") -> Field:
        """The words that two texts have and not nearly all, at most WORDS; InputError where there is none."""
        from sklearn.feature_extraction.text import CountVectorizer  # lazy: a second, for those who need it

        texts = [t for t in map(clean, values) if t]
        counter = CountVectorizer(
            token_pattern=LETTERS, binary=True, max_features=WORDS, min_df=2, max_df=MOST, stop_words="english"
        )
        try:
            often = np.asarray(counter.fit_transform(texts).sum(0)).ravel()
        except ValueError as error:
            raise InputError(f"no two texts of {name} share a word: declare another type, or leave it out.") from error
        weights = np.log(len(texts) / often)
        levels = tuple(counter.get_feature_names_out().tolist())
        return cls(name, levels=levels, weights=tuple(weights.tolist()), part=part)

    def encode(self, values: pd.Series | np.ndarray | list) -> np.ndarray:
        """Values (n,) -> codes (n,) int64; missing values and categories never seen in training are absent."""
        series = pd.Series(values)
        if self.weights:
            rows, texts = pd.factorize(series)  # each text is read once; missing ones are row -1
            return np.append(self.telling(self.words(texts)), 0)[rows]
        if self.edges:
            numbers = pd.to_numeric(series, errors="coerce").to_numpy(dtype=float)
            return np.where(np.isnan(numbers), 0, 1 + np.digitize(numbers, self.edges)).astype(np.int64)
        codes = {level: i for i, level in enumerate(self.levels, 1)}
        return series.map(lambda v: 0 if pd.isna(v) else codes.get(_label(v), 0)).to_numpy(dtype=np.int64)

    def words(self, texts: Iterable[object]) -> sparse.csr_array:
        """Which of a text field's words each text has: (n, W) of 0 and 1."""
        from sklearn.feature_extraction.text import CountVectorizer

        counter = CountVectorizer(token_pattern=LETTERS, binary=True, vocabulary=self.levels)
        return sparse.csr_array(counter.transform([clean(t) for t in texts]))

    def telling(self, words: sparse.csr_array) -> np.ndarray:
        """The code of the heaviest word of each row (n, W), 0 where there is none: -> (n,) int64."""
        if not words.shape[0]:
            return np.zeros(0, np.int64)
        heavy = sparse.csr_array(words.multiply(np.array(self.weights)[None]))
        return np.where(heavy.max(axis=1).toarray().ravel() > 0, 1 + heavy.argmax(axis=1).ravel(), 0).astype(np.int64)

    def encode_one(self, value: object) -> int:
        """One value that a person typed: unlike a stored one, an unknown value is an error."""
        code = int(self.encode([value])[0])
        if code == 0 and value is not None:
            allowed = "a number" if self.edges else _span(self.levels)
            raise InputError(f"{self.name}={value} is not a value that this model knows: take {allowed}.")
        return code

    def describe(self, code: int) -> str:
        """A code in words, for tables and figures."""
        if code == 0:
            return f"{self.name} ?"
        if self.levels:
            return f"{self.name} {self.levels[code - 1]}"
        if self.part == "gap":
            return ("gap < 1 s", "gap < 20 s", "gap < 1 min", "gap < 5 min", "gap < 30 min", "gap < 2 h", "gap < 1 day",
                    "gap < 1 week", "gap < 30 days", "gap ≥ 30 days")[code - 1]  # fmt: skip
        low = f"≥ {self.edges[code - 2]:g}" if code > 1 else ""
        high = f"< {self.edges[code - 1]:g}" if code <= len(self.edges) else ""
        return f"{self.name} {' and '.join(part for part in (low, high) if part)}"

    def read(self, frame: pd.DataFrame) -> pd.Series:
        """This field's values in a table of events or users: the column of its name, or a part of its time."""
        if not self.column:
            return frame[self.name]
        return clock(self.part, seconds(self.column, frame[self.column]))


def seconds(name: str, values: pd.Series) -> pd.Series:
    """UTC seconds of numbers, datetimes or ISO texts, missing where a cell is none; InputError if all of them are."""
    if isinstance(values.dtype, np.dtype) and values.dtype.kind in "iuf":
        return values
    times = pd.to_datetime(values, utc=True, errors="coerce", format=None if _dates(values) else "ISO8601")
    if values.notna().any() and times.isna().all():
        raise InputError(f"{name} is no time: give UTC seconds, a datetime, or a text such as 2025-03-01 21:00.")
    return (times - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)


def clock(part: str, times: pd.Series) -> pd.Series:
    """The hour (a number), weekday or season (names) of UTC seconds; missing times stay missing."""
    if part == "hour":
        return times // 3600 % 24
    if part == "weekday":
        return (times // 86400 + 3).mod(7).map(dict(enumerate(WEEKDAYS)))  # day 0 of the epoch was a Thursday
    return (pd.to_datetime(times, unit="s").dt.month % 12 // 3).map(dict(enumerate(SEASONS)))


def _dates(values: pd.Series) -> bool:
    return pd.api.types.is_datetime64_any_dtype(values)


def _label(value: object) -> str:
    """3.0, 3 and "3" are one category."""
    return str(int(value)) if isinstance(value, (float, np.floating)) and float(value).is_integer() else str(value)


def _span(levels: tuple[str, ...]) -> str:
    return (
        f"{levels[0]} to {levels[-1]}"
        if levels == HOURS
        else "one of " + ", ".join(levels[:12]) + (" …" if len(levels) > 12 else "")
    )
