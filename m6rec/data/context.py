"""Context: profile, history and request as codes that the network can look up (the source document's section 3.3.1).

A `Field` turns one column into codes 1…n; code 0 means absent and is masked, never a zero that pretends to be a value.
`Fields` holds all of one data set's, fitted on training events only, and is saved with the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from m6rec.config import Config
from m6rec.data import behaviour
from m6rec.data.behaviour import Behaviour
from m6rec.data.dataset import Dataset
from m6rec.data.fields import PARTS, WEEKDAYS, Field, seconds
from m6rec.data.splits import Split
from m6rec.errors import InputError

GAP_EDGES = (1.0, 20.0, 60.0, 300.0, 1800.0, 7200.0, 86400.0, 7 * 86400.0, 30 * 86400.0)  # seconds
SESSION_EDGES = (1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0)  # events
PACE_EDGES = (1.0, 5.0, 20.0, 60.0, 300.0)  # seconds per event
TIMED = {
    **{part: Field.clock(part, part) for part in PARTS},
    "gap": Field("gap", edges=GAP_EDGES, part="gap"),
    "session": Field("session", edges=SESSION_EDGES, part="session"),
    "pace": Field("pace", edges=PACE_EDGES, part="pace"),
}  # fields that need no fitting, and data with times
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
class Fields:
    """All fields of one data set."""

    value: Field
    profile: tuple[Field, ...] = ()
    request: tuple[Field, ...] = ()
    gap: Field = TIMED["gap"]

    @classmethod
    def fit(cls, data: Dataset, split: Split, config: Config | None = None) -> Fields:
        """Learn the levels from training events and from the users who have any. Switched off, a part stays empty.

        config: `profile`, `request`, `circumstances` and `columns` are read. InputError for circumstances of data
        without times, and for a declared column that is not there or not of its type.
        """
        config = config or Config()
        train = data.events[split.train]
        people = data.users.iloc[np.unique(train["user"])]
        types, own = dict(config.columns), [c for c in train.columns if c not in CORE_COLUMNS]
        for name in types:
            if name not in (*own, *data.profile_columns):
                there = ", ".join([*own, *data.profile_columns]) or "none"
                raise InputError(f"the declared column {name!r} is no column of {data.name}'s own: it has {there}.")

        def column(name: str, values: pd.Series) -> tuple[Field, ...]:
            return Field.declared(name, types[name], values) if name in types else (Field.fit(name, values),)

        request: list[Field] = []
        if config.request:
            request = _moment(data, split, config.circumstances, own)
            request += [field for name in own for field in column(name, train[name])]
        profile = data.profile_columns if config.profile else []
        return cls(
            value=Field.fit("value", train["value"]),
            profile=tuple(field for name in profile for field in column(name, people[name])),
            request=tuple(request),
        )

    def encode_profile(self, users: pd.DataFrame) -> np.ndarray:
        """(U, C) codes."""
        codes = [f.encode(f.read(users)) for f in self.profile]
        return np.stack(codes, 1) if codes else np.zeros((len(users), 0), np.int64)

    def encode_request(self, events: pd.DataFrame, known: Mapping[str, np.ndarray]) -> np.ndarray:
        """(E, R) codes of the circumstances of events; known: by name what was worked out, each (E,), tastes as codes.

        What else there is stands in the events' own columns.
        """
        codes = []
        for f in self.request:
            values = known[f.part] if f.part in known else f.read(events)
            codes.append(values if f.part == "tastes" else f.encode(values))
        return np.stack(codes, 1) if codes else np.zeros((len(events), 0), np.int64)

    def introduce(self, profile: Mapping[str, object] | None) -> np.ndarray:
        """(C,) codes of a profile that a person typed, such as {"age": 34}; as `ask`."""
        return _typed(self.profile, dict(profile or {}), "profile")

    def ask(self, request: Mapping[str, object] | None, known: Mapping[str, float] | None = None) -> np.ndarray:
        """(R,) codes of a request that a person typed, such as {"hour": 21}; what is not named is absent.

        {"timestamp": …} (UTC seconds, a datetime or ISO text) stands for all that a clock shows. known: what was worked
        out, NaN for nothing; what is typed stands before it. Raises `InputError` for a field that the model does not
        have and for a value out of range.
        """
        request = dict(request or {})
        if isinstance(request.get("weekday"), int) and 0 <= request["weekday"] < 7:
            request["weekday"] = WEEKDAYS[request["weekday"]]
        codes = _typed(self.request, request, "request")
        for place, f in enumerate(self.request):
            if f.part in (known or {}) and f.name not in request:
                codes[place] = known[f.part] if f.part == "tastes" else f.encode([known[f.part]])[0]
        return codes

    def words(self, context: Context, row: int = 0) -> dict[tuple[str, str], str]:
        """What one row's profile and its last target's request say: (part, field) -> words, such as "hour 21"."""
        said = {}
        for part, some, codes in (
            ("profile", self.profile, context.profile[row]),
            ("request", self.request, context.request[row, -1]),
        ):
            said |= {(part, f.name): f.describe(code) for f, code in zip(some, codes.tolist(), strict=True)}
        return said

    def to_dict(self) -> dict:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> Fields:
        """Back from `to_dict`; KeyError for another version's."""

        def read(v: dict) -> Field:
            parts = {f.name: v[f.name] for f in fields(Field)}  # all of them: an older version's have other meanings
            return Field(**{name: tuple(p) if isinstance(p, list) else p for name, p in parts.items()})

        return cls(read(values["value"]), tuple(map(read, values["profile"])), tuple(map(read, values["request"])))

    @property
    def tastes(self) -> Field | None:
        """The field of recent tastes, where it was asked for."""
        return next((f for f in self.request if f.part == "tastes"), None)


def _moment(data: Dataset, split: Split, circumstances: Sequence[str], own: Sequence[str]) -> list[Field]:
    """The fields of the moment: what every request has, then the circumstances that were asked for."""
    asked = [name for name in circumstances if name not in own]
    if not data.timed:
        for name in asked:
            if name in TIMED:
                raise InputError(f"{data.name} has no timestamps to work out the circumstance {name!r}: leave it out.")
    found = [TIMED[name] for name in ("hour", "weekday", "gap") if name not in own] if data.timed else []
    for name in asked:
        if name != "tastes":
            found.append(TIMED[name])
        else:
            trained = np.unique(data.events["item"].to_numpy()[split.train])
            found.append(Field.text("tastes", data.items["text"].iloc[trained], part="tastes"))
    return found


class EventCodes(NamedTuple):
    """Every event of a data set as codes, computed once."""

    value: np.ndarray  # (E,)
    gap: np.ndarray  # (E,)
    request: np.ndarray  # (E, R)
    profile: np.ndarray  # (U, C)


def encode_events(data: Dataset, fields: Fields) -> EventCodes:
    """All events of `data` as codes; the gap is to the same user's event before, absent at their first."""
    item, first = data.events["item"].to_numpy(), np.zeros(data.n_events, dtype=bool)
    first[data.offsets[:-1][np.diff(data.offsets) > 0]] = True
    times = data.events["timestamp"].to_numpy(dtype=float) if data.timed else np.full(data.n_events, np.nan)
    known = behaviour.circumstances(times, first)
    if field := fields.tastes:
        known["tastes"] = behaviour.tastes(field, field.words(data.items["text"]), item, first)
    return EventCodes(
        value=fields.value.encode(data.events["value"]),
        gap=fields.gap.encode(known["gap"]),
        request=fields.encode_request(data.events, known),
        profile=fields.encode_profile(data.users),
    )


def encode_person(
    fields: Fields, past: Behaviour, texts: Sequence[object], request: Mapping[str, object] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One person now, by the same rules: codes of values (T,), of gaps (T,) and of the request (R,).

    texts: of their last events (at least `behaviour.RECENT`, where there are as many), oldest first.
    """
    moment = (request or {}).get("timestamp")
    if moment is not None:
        moment = float(seconds("the request's timestamp", pd.Series([moment])).iloc[0])
    known = behaviour.now(past, moment)
    gaps, now = known["gap"][:-1], {name: values[-1] for name, values in known.items()}
    if field := fields.tastes:
        places = np.arange(len(texts) + 1)  # the last stands for what is asked
        now["tastes"] = behaviour.tastes(field, field.words([*texts, ""]), places, places == 0)[-1]
    return fields.value.encode(past.value), fields.gap.encode(gaps), fields.ask(request, now)


def _typed(fields: tuple[Field, ...], values: dict[str, object], part: str) -> np.ndarray:
    """Codes of what a person typed: unlike stored values, names and values that are unknown are errors."""
    for name in {f.column for f in fields if f.column} & set(values):  # a time stands for its parts
        table = pd.DataFrame({name: [values.pop(name)]})
        if table[name].notna().all():
            values = {f.name: f.read(table).iloc[0] for f in fields if f.column == name} | values
    names = [f.name for f in fields]
    for name in values:
        if name not in names:
            has = f"it knows {', '.join(names)}" if names else f"it was trained without a {part}"
            raise InputError(f"the {part}'s field {name!r} is unknown to this model: {has}.")
    return np.array([f.encode_one(values.get(f.name)) for f in fields], dtype=np.int64)
