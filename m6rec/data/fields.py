"""One column as codes that the network can look up, by its type: a category, a number, a part of a time, a text.

Code 0 means absent and is masked; it is never a zero that pretends to be a value. A text becomes the one of its words
with the highest inverse document frequency.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from m6rec.data import schema
from m6rec.data.text import clean
from m6rec.errors import InputError

HOURS = tuple(str(h) for h in range(24))
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
SEASONS = ("winter", "spring", "summer", "autumn")  # of the northern half; winter is December to February
PARTS = {"hour": HOURS, "weekday": WEEKDAYS, "season": SEASONS}  # of a time
GAPS = ("< 1 s", "< 20 s", "< 1 min", "< 5 min", "< 30 min", "< 2 h", "< 1 day", "< 1 week", "< 30 days", "≥ 30 days")
MAX_WORDS = 200  # codes of a text field
MAX_SHARE = 0.8  # a word that more of the texts have distinguishes nothing
LETTERS = r"(?u)\b[^\W\d_]{2,}\b"  # a word: a year or a size is a number, for a column of its own


@dataclass(frozen=True)
class Field:
    """One column's codes: categories by name, numbers by the interval that they fall into, texts by a word."""

    name: str
    levels: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()
    """Of a text's words: the inverse document frequency, log(texts / texts with it)."""
    column: str = ""
    """Of a part of a time: the column that holds the time."""
    part: str = ""
    """What is derived: hour, weekday, season of a time; gap, session, pace, tastes of the events before."""

    @property
    def size(self) -> int:
        """Number of codes, the absent one included."""
        return 1 + (len(self.levels) or len(self.edges) + 1)

    @classmethod
    def fit(cls, name: str, values: pd.Series) -> Field:
        """Numbers with more than 12 different values become eight equally filled intervals, all else categories."""
        values = values.dropna()
        if pd.api.types.is_numeric_dtype(values) and values.nunique() > 12:
            return cls.number(name, values)
        return cls(name, levels=tuple(sorted({_label(v) for v in values})))

    @classmethod
    def declared(cls, name: str, kind: str, values: pd.Series) -> tuple[Field, ...]:
        """The fields of a column whose type is declared: "categorical", "number", "text", or "time", which has three.

        InputError where no training value is of that type.
        """
        if kind == "time":
            seconds(name, values)
            return tuple(cls.clock(f"{name}_{part}", part, name) for part in PARTS)
        if kind == "categorical":
            return (cls.fit(name, values.dropna().map(_label)),)
        return (cls.text(name, values) if kind == "text" else cls.number(name, values),)

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
        """The MAX_WORDS commonest words that two texts share and not nearly all; InputError where there is none."""
        from sklearn.feature_extraction.text import CountVectorizer  # lazy: a second, for those who need it

        texts = [t for t in map(clean, values) if t]
        counter = CountVectorizer(
            token_pattern=LETTERS, binary=True, max_features=MAX_WORDS, min_df=2, max_df=MAX_SHARE, stop_words="english"
        )
        try:
            frequency = np.asarray(counter.fit_transform(texts).sum(0)).ravel()
        except ValueError as error:
            raise InputError(f"no two texts of {name} share a word: declare another type, or leave it out.") from error
        weights = tuple(np.log(len(texts) / frequency).tolist())
        return cls(name, levels=tuple(counter.get_feature_names_out().tolist()), weights=weights, part=part)

    def encode(self, values: pd.Series | np.ndarray | list) -> np.ndarray:
        """Values (n,) -> codes (n,) int64; missing values and categories never seen in training are absent."""
        series = pd.Series(values)
        if self.weights:
            rows, texts = pd.factorize(series)  # each text is read once; missing ones are row -1
            return np.append(self.top_word(self.words(texts)), 0)[rows]
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

    def top_word(self, counts: sparse.csr_array) -> np.ndarray:
        """The code of the word with the highest TF-IDF in each row of counts (n, W), 0 for none: -> (n,) int64."""
        if not counts.shape[0]:
            return np.zeros(0, np.int64)
        score = sparse.csr_array(counts.multiply(np.array(self.weights)[None]))
        return np.where(score.max(axis=1).toarray().ravel() > 0, 1 + score.argmax(axis=1).ravel(), 0).astype(np.int64)

    def encode_one(self, value: object) -> int:
        """One value that a caller typed: unlike a stored one, an unknown value is an error."""
        code = int(self.encode([value])[0])
        if code == 0 and value is not None:
            some = f"one of {', '.join(self.levels[:12])}{' …' if len(self.levels) > 12 else ''}"
            allowed = "a number" if self.edges else "0 to 23" if self.levels == HOURS else some
            raise InputError(f"{self.name}={value} is not a value that this model knows: take {allowed}.")
        return code

    def describe(self, code: int) -> str:
        """A code in words, for tables and figures."""
        if code == 0:
            return f"{self.name} ?"
        if self.levels or self.part == "gap":
            return f"{self.name} {(self.levels or GAPS)[code - 1]}"
        low = f"≥ {self.edges[code - 2]:g}" if code > 1 else ""
        high = f"< {self.edges[code - 1]:g}" if code <= len(self.edges) else ""
        return f"{self.name} {' and '.join(part for part in (low, high) if part)}"

    def read(self, frame: pd.DataFrame) -> pd.Series:
        """This field's values in a table of events or users: the column of its name, or a part of its time."""
        if not self.column:
            return frame[self.name]
        time = seconds(self.column, frame[self.column])
        if self.part == "hour":
            return time // 3600 % 24
        if self.part == "weekday":
            return (time // 86400 + 3).mod(7).map(dict(enumerate(WEEKDAYS)))  # day 0 of the epoch was a Thursday
        return (pd.to_datetime(time, unit="s").dt.month % 12 // 3).map(dict(enumerate(SEASONS)))


def seconds(name: str, values: pd.Series) -> pd.Series:
    """UTC seconds of numbers, datetimes or ISO texts, missing where a cell is none; InputError if all of them are."""
    if isinstance(values.dtype, np.dtype) and values.dtype.kind in "iuf":
        return values
    times = pd.Series(schema.seconds(values), values.index)
    if values.notna().any() and times.isna().all():
        raise InputError(f"{name} is no time: give UTC seconds, a datetime, or a text such as 2025-03-01 21:00.")
    return times


def _label(value: object) -> str:
    """3.0, 3 and "3" are one category."""
    return str(int(value)) if isinstance(value, (float, np.floating)) and float(value).is_integer() else str(value)
