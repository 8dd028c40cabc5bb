"""Context: profile, history and request as codes that the network can look up (the source document's section 3.3.1).

A `Field` turns one column into codes 1…n; code 0 means absent and is masked, never a zero that pretends to be a value.
`Fields` holds all of one data set's, fitted on training events only, and is saved with the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from m6rec.data.dataset import Dataset
from m6rec.data.splits import Split
from m6rec.errors import InputError

HOURS = tuple(str(h) for h in range(24))
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
GAP_EDGES = (1.0, 20.0, 60.0, 300.0, 1800.0, 7200.0, 86400.0, 7 * 86400.0, 30 * 86400.0)  # seconds
CORE_COLUMNS = {"user", "item", "timestamp", "action", "value"}  # every other event column is a request field


class Context(NamedTuple):
    """What is known when one recommends: integer codes, 0 = absent (items: -1 = no event).

    `request` and `position` have one row per target: Q = T while training (every event is a target), Q = 1 in service.
    """

    item: Tensor  # (B, T) item codes, oldest first, padded on the right
    value: Tensor  # (B, T) rating codes
    gap: Tensor  # (B, T) codes of the time since the event before
    profile: Tensor  # (B, C) profile codes
    request: Tensor  # (B, Q, R) request codes of each target
    position: Tensor  # (B, Q) how many events of the history each target may see

    def to(self, device: torch.device) -> Context:
        """The same context on another device."""
        return Context(*(t.to(device) for t in self))


@dataclass(frozen=True)
class Field:
    """One column's codes: categories by name, or numbers by the interval that they fall into."""

    name: str
    levels: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()

    @property
    def size(self) -> int:
        """Number of codes, the absent one included."""
        return 1 + (len(self.levels) or len(self.edges) + 1)

    @classmethod
    def fit(cls, name: str, values: pd.Series) -> Field:
        """Numbers with more than 12 different values become eight equally filled intervals, all else categories."""
        known = values.dropna()
        if pd.api.types.is_numeric_dtype(known) and known.nunique() > 12:
            edges = np.unique(np.quantile(known.to_numpy(dtype=float), np.arange(1, 8) / 8))
            return cls(name, edges=tuple(float(e) for e in edges))
        return cls(name, levels=tuple(sorted({_label(v) for v in known})))

    def encode(self, values: pd.Series | np.ndarray | list) -> np.ndarray:
        """Values (n,) -> codes (n,) int64; missing values and categories never seen in training are absent."""
        series = pd.Series(values)
        if self.edges:
            numbers = pd.to_numeric(series, errors="coerce").to_numpy(dtype=float)
            return np.where(np.isnan(numbers), 0, 1 + np.digitize(numbers, self.edges)).astype(np.int64)
        codes = {level: i for i, level in enumerate(self.levels, 1)}
        return series.map(lambda v: 0 if pd.isna(v) else codes.get(_label(v), 0)).to_numpy(dtype=np.int64)

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
        if self.name == "gap":
            return ("gap < 1 s", "gap < 20 s", "gap < 1 min", "gap < 5 min", "gap < 30 min", "gap < 2 h", "gap < 1 day",
                    "gap < 1 week", "gap < 30 days", "gap ≥ 30 days")[code - 1]  # fmt: skip
        low = f"≥ {self.edges[code - 2]:g}" if code > 1 else ""
        high = f"< {self.edges[code - 1]:g}" if code <= len(self.edges) else ""
        return f"{self.name} {' and '.join(part for part in (low, high) if part)}"


@dataclass(frozen=True)
class Fields:
    """All fields of one data set."""

    value: Field
    profile: tuple[Field, ...] = ()
    request: tuple[Field, ...] = ()
    gap: Field = field(default=Field("gap", edges=GAP_EDGES))

    @classmethod
    def fit(cls, data: Dataset, split: Split, *, profile: bool = True, request: bool = True) -> Fields:
        """Learn the levels from training events and from the users who have any. Switched off, a part stays empty."""
        train = data.events[split.train]
        people = data.users.iloc[np.unique(train["user"])]
        own = [Field.fit(c, train[c]) for c in train.columns if c not in CORE_COLUMNS]
        time = [Field("hour", HOURS), Field("weekday", WEEKDAYS), Field("gap", edges=GAP_EDGES)] if data.timed else []
        return cls(
            value=Field.fit("value", train["value"]),
            profile=tuple(Field.fit(c, people[c]) for c in data.profile_columns) if profile else (),
            request=tuple(time + own) if request else (),
        )

    def encode_profile(self, users: pd.DataFrame) -> np.ndarray:
        """(U, C) codes."""
        return (
            np.stack([f.encode(users[f.name]) for f in self.profile], 1)
            if self.profile
            else np.zeros((len(users), 0), np.int64)
        )

    def encode_request(self, events: pd.DataFrame, gaps: np.ndarray) -> np.ndarray:
        """(E, R) codes of the circumstances of events; `gaps` (E,) are seconds since the event before, or NaN."""
        if not self.request:
            return np.zeros((len(events), 0), np.int64)
        return np.stack([f.encode(gaps if f.name == "gap" else _column(events, f.name)) for f in self.request], 1)

    def introduce(self, profile: Mapping[str, object] | None) -> np.ndarray:
        """(C,) codes of a profile that a person typed, such as {"age": 34}; as `ask`."""
        return _typed(self.profile, dict(profile or {}), "profile")

    def ask(self, request: Mapping[str, object] | None) -> np.ndarray:
        """(R,) codes of a request that a person typed, such as {"hour": 21}; what is not named is absent.

        Raises `InputError` for a field that the model does not have and for a value out of range.
        """
        request = dict(request or {})
        if isinstance(request.get("weekday"), int) and 0 <= request["weekday"] < 7:
            request["weekday"] = WEEKDAYS[request["weekday"]]
        return _typed(self.request, request, "request")

    def to_dict(self) -> dict:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> Fields:
        """Back from `to_dict`."""

        def read(v: dict) -> Field:
            return Field(v["name"], tuple(v["levels"]), tuple(v["edges"]))

        return cls(read(values["value"]), tuple(map(read, values["profile"])), tuple(map(read, values["request"])))


class EventCodes(NamedTuple):
    """Every event of a data set as codes, computed once."""

    value: np.ndarray  # (E,)
    gap: np.ndarray  # (E,)
    request: np.ndarray  # (E, R)
    profile: np.ndarray  # (U, C)


def encode_events(data: Dataset, fields: Fields) -> EventCodes:
    """All events of `data` as codes; the gap is to the same user's event before, absent at their first."""
    gaps = np.full(data.n_events, np.nan)
    if data.timed:
        gaps[1:] = np.diff(data.events["timestamp"].to_numpy()).astype(float)
        gaps[data.offsets[:-1][np.diff(data.offsets) > 0]] = np.nan
    return EventCodes(
        value=fields.value.encode(data.events["value"]),
        gap=fields.gap.encode(gaps),
        request=fields.encode_request(data.events, gaps),
        profile=fields.encode_profile(data.users),
    )


def _typed(fields: tuple[Field, ...], values: dict[str, object], part: str) -> np.ndarray:
    """Codes of what a person typed: unlike stored values, names and values that are unknown are errors."""
    names = [f.name for f in fields]
    for name in values:
        if name not in names:
            has = f"it knows {', '.join(names)}" if names else f"it was trained without a {part}"
            raise InputError(f"the {part}'s field {name!r} is unknown to this model: {has}.")
    return np.array([f.encode_one(values.get(f.name)) for f in fields], dtype=np.int64)


def _column(events: pd.DataFrame, name: str) -> pd.Series:
    if name == "hour":
        return events["timestamp"] // 3600 % 24
    if name == "weekday":
        return (events["timestamp"] // 86400 + 3).mod(7).map(WEEKDAYS.__getitem__)  # day 0 of the epoch was a Thursday
    return events[name]


def _label(value: object) -> str:
    """3.0, 3 and "3" are one category."""
    return str(int(value)) if isinstance(value, (float, np.floating)) and float(value).is_integer() else str(value)


def _span(levels: tuple[str, ...]) -> str:
    return (
        f"{levels[0]} to {levels[-1]}"
        if levels == HOURS
        else "one of " + ", ".join(levels[:12]) + (" …" if len(levels) > 12 else "")
    )
