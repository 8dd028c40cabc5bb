"""Context: profile, history and request as codes that the network can look up (the source document's section 3.3.1).

`Fields` are fitted on training events only and saved with the model. What is derived for an event comes from the events
before it and from its own time, by one rule for stored events and for a request now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor

from m6rec.config import Config
from m6rec.data.dataset import Dataset
from m6rec.data.fields import PARTS, WEEKDAYS, Field, seconds
from m6rec.data.splits import Split
from m6rec.errors import InputError

GAP_EDGES = (1.0, 20.0, 60.0, 300.0, 1800.0, 7200.0, 86400.0, 7 * 86400.0, 30 * 86400.0)  # seconds
SESSION_EDGES = (1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0)  # events
PACE_EDGES = (1.0, 5.0, 20.0, 60.0, 300.0)  # seconds per event
SESSION_PAUSE = 1800.0  # seconds without an event after which a new session begins
RECENT = 5  # events whose texts are the recent tastes
TIMED = {
    **{part: Field.clock(part, part) for part in PARTS},
    "gap": Field("gap", edges=GAP_EDGES, part="gap"),
    "session": Field("session", edges=SESSION_EDGES, part="session"),
    "pace": Field("pace", edges=PACE_EDGES, part="pace"),
}  # fields that need no fitting, and data with times
CORE_COLUMNS = {"user", "item", "timestamp", "action", "value"}  # every other event column is a request field


class Context(NamedTuple):
    """What is known when one recommends: integer codes, 0 = absent (items: -1 = no event).

    One row of `request` and `position` per target: Q = T while training (every event is a target), Q = 1 in service.
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

        config: its `profile`, `request`, `derived_features` and `columns` are read. InputError for a derived feature
        that data without times do not have, and for a declared column that does not exist or is not of its type.
        """
        config = config or Config()
        train = data.events[split.train]
        users = data.users.iloc[np.unique(train["user"])]
        types, own = dict(config.columns), [c for c in train.columns if c not in CORE_COLUMNS]
        columns = [*own, *data.profile_columns]
        if unknown := [name for name in types if name not in columns]:
            has = ", ".join(columns) or "none"
            raise InputError(f"the declared column {unknown[0]!r} is no column of {data.name}'s own: it has {has}.")

        def read(names: Sequence[str], table: pd.DataFrame) -> list[Field]:
            each = (Field.declared(n, types[n], table[n]) if n in types else (Field.fit(n, table[n]),) for n in names)
            return [field for fields in each for field in fields]

        derived = _derived_fields(data, split, config.derived_features, own) if config.request else []
        return cls(
            value=Field.fit("value", train["value"]),
            profile=tuple(read(data.profile_columns if config.profile else (), users)),
            request=(*derived, *read(own if config.request else (), train)),
        )

    def encode_profile(self, users: pd.DataFrame) -> np.ndarray:
        """(U, C) codes."""
        return _stack([f.encode(f.read(users)) for f in self.profile], len(users))

    def encode_request(self, events: pd.DataFrame, derived: Mapping[str, np.ndarray]) -> np.ndarray:
        """(E, R) codes of each event's request, from its columns and `derived` features (E,), tastes as codes."""
        values = [derived[f.part] if f.part in derived else f.read(events) for f in self.request]
        codes = [v if f.part == "tastes" else f.encode(v) for f, v in zip(self.request, values, strict=True)]
        return _stack(codes, len(events))

    def typed_profile(self, profile: Mapping[str, object] | None) -> np.ndarray:
        """(C,) codes of a profile that a caller typed, such as {"age": 34}; as `typed_request`."""
        return _typed(self.profile, dict(profile or {}), "profile")

    def typed_request(
        self, request: Mapping[str, object] | None, derived: Mapping[str, float] | None = None
    ) -> np.ndarray:
        """(R,) codes of a request that a caller typed, such as {"hour": 21}; what is not named is absent.

        {"timestamp": …} (UTC seconds, a datetime or ISO text) gives all parts of a time. derived: of this one event,
        NaN for absent; what is typed overrides it. InputError for an unknown field and for a value out of range.
        """
        request, derived = dict(request or {}), derived or {}
        if isinstance(request.get("weekday"), int) and 0 <= request["weekday"] < 7:
            request["weekday"] = WEEKDAYS[request["weekday"]]
        codes = _typed(self.request, request, "request")
        for column, f in enumerate(self.request):
            if f.part in derived and f.name not in request:
                codes[column] = derived[f.part] if f.part == "tastes" else f.encode([derived[f.part]])[0]
        return codes

    def words(self, context: Context, row: int = 0) -> dict[tuple[str, str], str]:
        """One row's profile and its last target's request in words: (part, field) -> "hour 21"."""
        parts = {"profile": context.profile[row], "request": context.request[row, -1]}
        return {
            (part, f.name): f.describe(code)
            for part, codes in parts.items()
            for f, code in zip(getattr(self, part), codes.tolist(), strict=True)
        }

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


def _derived_fields(data: Dataset, split: Split, names: Sequence[str], own: Sequence[str]) -> list[Field]:
    """Hour, weekday and gap of every request, then the derived features that were asked for; own columns go first."""
    names = [name for name in names if name not in own]
    untimed = [name for name in names if name in TIMED and not data.timed]
    if untimed:
        raise InputError(f"{data.name} has no timestamps for the derived feature {untimed[0]!r}: leave it out.")
    trained = np.unique(data.events["item"].to_numpy()[split.train])
    always = [TIMED[name] for name in ("hour", "weekday", "gap") if name not in own and data.timed]
    return always + [
        Field.text("tastes", data.items["text"].iloc[trained], part="tastes") if name == "tastes" else TIMED[name]
        for name in names
    ]


class EventCodes(NamedTuple):
    """Every event of a data set as codes, computed once."""

    value: np.ndarray  # (E,)
    gap: np.ndarray  # (E,)
    request: np.ndarray  # (E, R)
    profile: np.ndarray  # (U, C)


def encode_events(data: Dataset, fields: Fields) -> EventCodes:
    """All events of `data` as codes; the gap is to the same user's event before, absent at their first."""
    first = np.diff(data.events["user"], prepend=-1) != 0
    time = data.events["timestamp"].to_numpy(dtype=float) if data.timed else np.full(data.n_events, np.nan)
    derived = derive(time, first)
    if field := fields.tastes:
        derived["tastes"] = _tastes(field, field.words(data.items["text"]), data.events["item"].to_numpy(), first)
    return EventCodes(
        value=fields.value.encode(data.events["value"]),
        gap=fields.gap.encode(derived["gap"]),
        request=fields.encode_request(data.events, derived),
        profile=fields.encode_profile(data.users),
    )


def derive(time: np.ndarray, first: np.ndarray) -> dict[str, np.ndarray]:
    """Features (E,) of each event, NaN where unknown, of its `time` (E,) in seconds; first (E,): a user's first event.

    gap: seconds since the event before; session: its events before; pace: its seconds per event so far.
    """
    gap = np.full(len(time), np.nan)
    gap[1:] = np.diff(time)
    gap[first] = np.nan
    rows = np.arange(len(time))
    start = np.maximum.accumulate(np.where(first | (gap >= SESSION_PAUSE), rows, 0))
    session = np.where(np.isnan(time) | (np.isnan(gap) & ~first), np.nan, rows - start)
    pace = np.full(len(time), np.nan)
    np.divide(time - time[start], session, out=pace, where=session > 0)
    return {"gap": gap, "session": session, "pace": pace}


def _tastes(field: Field, words: sparse.csr_array, item: np.ndarray, first: np.ndarray) -> np.ndarray:
    """(E,) codes of the word with the highest TF-IDF among the RECENT items before each event, 0 for none.

    words: (N, W), of the items; item: (E,). A word counts for each item beyond the first that has it.
    """
    rows = np.arange(len(item))
    begin = np.maximum.accumulate(np.where(first, rows, 0))
    before = rows[:, None] - np.arange(1, RECENT + 1)  # (E, RECENT)
    event, back = np.nonzero(before >= begin[:, None])
    recent = sparse.csr_array((np.ones(len(event)), (event, item[before[event, back]])), (len(item), words.shape[0]))
    shared = sparse.csr_array(recent @ words)  # (E, W)
    shared.data = np.maximum(shared.data - 1, 0)
    return field.top_word(shared)


class UserHistory(NamedTuple):
    """One user's events, oldest first. Items that are not in the catalogue count on from its last code."""

    item: np.ndarray  # (T,) int64
    value: np.ndarray  # (T,) float, NaN where unknown
    time: np.ndarray | None  # (T,) UTC seconds, or None where unknown
    texts: list[object]  # of the last RECENT events

    @classmethod
    def of(cls, data: Dataset, user: int) -> UserHistory:
        """All events of a user's code."""
        events = data.events.iloc[data.offsets[user] : data.offsets[user + 1]]
        item, time = events["item"].to_numpy(), events["timestamp"].to_numpy(dtype=float)
        texts = data.items["text"].iloc[item[-RECENT:]].tolist()
        return cls(item, events["value"].to_numpy(), time if data.timed else None, texts)

    @classmethod
    def given(cls, data: Dataset, history: Sequence[object] | pd.DataFrame) -> UserHistory:
        """A list of ids, titles or dicts, oldest first, or a frame with item_id and optionally value and timestamp.

        Without times the frame's rows are in order. InputError for no item_id, and for a cell that is no time.
        """
        if not isinstance(history, pd.DataFrame):
            item, known = data.history_codes(history), data.items["text"]
            new = [h.get("text", h.get("title")) for h in history if isinstance(h, Mapping)]
            texts = [known.iloc[c] if c < len(known) else new[c - len(known)] for c in item[-RECENT:]]
            return cls(item, np.full(len(item), np.nan), np.zeros(0) if data.timed and not len(item) else None, texts)
        if "item_id" not in history:
            raise InputError(f"the history has the columns {', '.join(map(str, history.columns))}: item_id is missing.")
        time, order = None, np.arange(len(history))
        if "timestamp" in history:
            time = seconds("the history's timestamp", history["timestamp"]).to_numpy(dtype=float)
            if np.isnan(time).any():
                raise InputError(
                    "the history has a timestamp that is no time: give UTC seconds or a datetime everywhere."
                )
            order = np.argsort(time, kind="stable")
            time = time[order] if data.timed else None
        value = pd.to_numeric(history.get("value", pd.Series(np.nan, history.index)), errors="coerce")
        item = data.history_codes(history["item_id"].tolist())[order]
        texts = data.items["text"].iloc[item[-RECENT:]].tolist()
        return cls(item, value.to_numpy(dtype=float)[order], time, texts)


def user_context(
    fields: Fields, past: UserHistory, request: Mapping[str, object] | None, profile: np.ndarray, length: int
) -> Context:
    """One user now, by the same rules (B = Q = 1): the last `length` events, and profile codes (C,).

    The request is derived as if it were one more event. InputError for a time before the last event.
    """
    moment, size = (request or {}).get("timestamp"), len(past.item)
    now = np.nan if moment is None else float(seconds("the request's timestamp", pd.Series([moment])).iloc[0])
    if past.time is not None and size and now < past.time[-1]:
        raise InputError("the request's timestamp lies before the last event of the history: ask about a later moment.")
    time = np.full(size + 1, np.nan) if past.time is None else np.append(past.time, now)
    derived = derive(time, np.arange(size + 1) == 0)
    last = {name: values[-1] for name, values in derived.items()}
    if field := fields.tastes:
        rows = np.arange(len(past.texts) + 1)  # the last stands for the request
        last["tastes"] = _tastes(field, field.words([*past.texts, ""]), rows, rows == 0)[-1]
    history = [past.item, fields.value.encode(past.value), fields.gap.encode(derived["gap"][:-1])]
    history = [column[-length:] for column in history] if size else np.array([[-1], [0], [0]])
    columns = (*history, profile, fields.typed_request(request, last)[None], [min(size, length)])
    return Context(*(torch.tensor(column)[None] for column in columns))


def _stack(codes: list[np.ndarray], rows: int) -> np.ndarray:
    return np.stack(codes, 1) if codes else np.zeros((rows, 0), np.int64)


def _typed(fields: tuple[Field, ...], values: dict[str, object], part: str) -> np.ndarray:
    """Codes of what a caller typed: unlike stored values, unknown names and values are errors."""
    for name in {f.column for f in fields if f.column} & set(values):  # a time stands for its parts
        table = pd.DataFrame({name: [values.pop(name)]})
        if table[name].notna().all():
            values = {f.name: f.read(table).iloc[0] for f in fields if f.column == name} | values
    names = [f.name for f in fields]
    if unknown := [name for name in values if name not in names]:
        has = f"it knows {', '.join(names)}" if names else f"it was trained without a {part}"
        raise InputError(f"the {part}'s field {unknown[0]!r} is unknown to this model: {has}.")
    return np.array([f.encode_one(values.get(f.name)) for f in fields], dtype=np.int64)
