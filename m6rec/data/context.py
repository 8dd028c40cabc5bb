"""Profile, history and request as codes.

Code 0 means absent and is masked. What is derived for an event, stored or requested now, comes from those before it and
its own time."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import pairwise
from numbers import Integral
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_array
from torch import Tensor

from m6rec.config import Array, Config, Frame, InputError, Rng
from m6rec.data.dataset import Dataset, Split
from m6rec.data.tables import CORE_COLUMNS, distinct, numbers, plain, seconds, text
from m6rec.data.text import clean

HOURS = tuple(map(str, range(24)))
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
LEVELS = {"hour": HOURS, "weekday": WEEKDAYS, "season": ("winter", "spring", "summer", "autumn")}  # northern
GAPS = ("< 1 s", "< 20 s", "< 1 min", "< 5 min", "< 30 min", "< 2 h", "< 1 day", "< 1 week", "< 30 days", "≥ 30 days")
MAX_WORDS = 200  # codes of a text field
MAX_SHARE = 0.8  # of texts; a word in more distinguishes nothing
LETTERS = r"(?u)\b[^\W\d_]{2,}\b"  # words without digits
SESSION_PAUSE = 1800.0  # seconds that end a session
RECENT = 5  # events that show tastes


@dataclass(frozen=True)
class Field:
    """A column's codes: categories by name, numbers by interval, texts by a word."""

    name: str
    levels: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()  # of a text's words: log(texts / texts with it)
    column: str = ""  # of a part of an own time: the time's
    part: str = ""  # a key of `derive`

    @property
    def size(self) -> int:
        """How many codes, with the absent one."""
        return 1 + (len(self.levels) or len(self.edges) + 1)

    @classmethod
    def fit(cls, name: str, values: pd.Series, kind: str = "") -> "tuple[Field, ...]":
        """The field of a categorical, number or text column; three of a time. InputError where no value is one.

        number: up to eight intervals, equally filled. text: the commonest words that two texts share, and not nearly
        all. By default, datetimes are times, more than 12 different numbers a number, and others categorical."""
        values = values.dropna()
        if kind == "time" or (not kind and values.dtype.kind == "M"):
            seconds(values, name)
            return tuple(cls(f"{name}_{part}", levels, column=name, part=part) for part, levels in LEVELS.items())
        if kind == "text":
            texts = [t for t in map(clean, values) if t]
            counter = _counter(max_features=MAX_WORDS, min_df=2, max_df=MAX_SHARE, stop_words="english")
            try:
                frequency = np.asarray(counter.fit_transform(texts).sum(0)).ravel()
            except ValueError:
                fix = "declare another type, or leave it out"
                raise InputError(f"no two texts of {name} share a word: {fix}.") from None
            weights = np.log(len(texts) / frequency).tolist()
            return (cls(name, tuple(counter.get_feature_names_out().tolist()), weights=tuple(weights)),)
        if kind == "number" or (not kind and pd.api.types.is_numeric_dtype(values) and values.nunique() > 12):
            known = numbers(values)
            if np.isnan(known).all():
                raise InputError(f"the column {name} is declared a number and holds none: declare another type.")
            return (cls(name, edges=tuple(np.unique(np.nanquantile(known, np.arange(1, 8) / 8)).tolist())),)
        return (cls(name, levels=tuple(sorted({text(v) for v in values}))),)

    def encode(self, values: pd.Series | Array | list) -> Array:
        """(n,) -> (n,) int64; missing and unknown values are absent."""
        series = pd.Series(values, dtype=object if isinstance(values, list) else None)
        if self.weights:
            rows, texts = pd.factorize(series)  # each text is read once; missing ones are row -1
            return np.append(self.top_word(self.words(texts)), 0)[rows]
        if self.column:
            return _parts(seconds(series, self.column))[self.part]
        if self.edges:
            known = numbers(series)
            return np.where(np.isnan(known), 0, 1 + np.digitize(known, self.edges)).astype(np.int64)
        labels = series.map(text, na_action="ignore").astype(object)
        return pd.Index(self.levels, dtype=object).get_indexer(labels) + 1

    def words(self, texts: Iterable[object]) -> csr_array:
        """(n, W) of 0 and 1: which words each text has."""
        return csr_array(_counter(vocabulary=self.levels).transform([clean(t) for t in texts]))

    def top_word(self, counts: csr_array) -> Array:
        """Counts (n, W) -> (n,) int64 codes of the words with the highest TF-IDF, 0 for none."""
        if not counts.shape[0]:
            return np.zeros(0, np.int64)
        score = csr_array(counts.multiply(np.array(self.weights)[None]))
        return np.where(score.max(1).toarray().ravel() > 0, 1 + score.argmax(1).ravel(), 0).astype(np.int64)

    def encode_one(self, value: object) -> int:
        """InputError for an unknown value. A weekday may be 0 to 6."""
        if self.levels == WEEKDAYS and value is not None:
            value = WEEKDAYS[value] if isinstance(value, Integral) and 0 <= value < 7 else str(value).capitalize()
        code = int(replace(self, column="").encode([value])[0])  # an hour is typed as such, not as a time
        if code == 0 and value is not None:
            some = f"one of {', '.join(self.levels[:12])}{' …' if len(self.levels) > 12 else ''}"
            allowed = "a number" if self.edges else "0 to 23" if self.levels == HOURS else some
            raise InputError(f"{self.name}={value} is not a value that this model knows: take {allowed}.")
        return code

    def describe(self, code: int) -> str:
        if code == 0:
            return f"{self.name} ?"
        if self.levels or self.part == "gap":
            return f"{self.name} {(self.levels or GAPS)[code - 1]}"
        low = f"≥ {self.edges[code - 2]:g}" if code > 1 else ""
        high = f"< {self.edges[code - 1]:g}" if code <= len(self.edges) else ""
        return f"{self.name} {' and '.join(part for part in (low, high) if part)}"


EDGES = {
    "gap": (1.0, 20.0, 60.0, 300.0, 1800.0, 7200.0, 86400.0, 7 * 86400.0, 30 * 86400.0),  # seconds since the last
    "session": (1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0),  # its events before
    "pace": (1.0, 5.0, 20.0, 60.0, 300.0),  # seconds per event
}
DERIVED = {name: Field(name, levels, part=name) for name, levels in LEVELS.items()}  # they need no fitting
DERIVED |= {name: Field(name, edges=edges, part=name) for name, edges in EDGES.items()}


class Context(NamedTuple):
    """Integer codes, 0 = absent (items: -1 = no event). Q = T in training (every event is a target), else Q = 1."""

    item: Tensor  # (B, T), oldest first, padded on the right
    value: Tensor  # (B, T) rating codes
    gap: Tensor  # (B, T) times since the event before
    profile: Tensor  # (B, C) profile codes
    request: Tensor  # (B, Q, R) codes of each target's request
    position: Tensor  # (B, Q) how many events each target may see

    def to(self, device: torch.device) -> "Context":
        return Context(*(t.to(device) for t in self))


@dataclass(frozen=True)
class Fields:
    value: Field
    profile: tuple[Field, ...] = ()
    request: tuple[Field, ...] = ()
    gap: Field = DERIVED["gap"]

    @classmethod
    def fit(cls, data: Dataset, split: Split, config: Config) -> "Fields":
        """Learn the levels from training events and their users.

        InputError for a derived feature without times, and a declared column that does not exist."""
        train, types = data.events[split.train], dict(config.columns)
        own, users = [c for c in train.columns if c not in CORE_COLUMNS], data.users.iloc[np.unique(train["user"])]
        columns = [*own, *data.profile_columns]
        if unknown := [name for name in types if name not in columns]:
            has = ", ".join(columns) or "none"
            raise InputError(f"the declared column {unknown[0]!r} is no column of {data.name}'s own: it has {has}.")

        def read(names: Sequence[str], table: Frame, whole: Frame) -> tuple[Field, ...]:
            read = [name for name in names if name in types or not distinct(whole[name])]  # `from_frames` has warned
            return tuple(field for name in read for field in Field.fit(name, table[name], types.get(name, "")))

        value, profile = Field.fit("value", train["value"])[0], read(data.profile_columns, users, data.users)
        profile = profile if config.profile else ()
        if not config.request:
            return cls(value, profile)
        asked = [name for name in config.derived_features if name not in own]  # own columns go first
        if untimed := [name for name in asked if name in DERIVED and not data.timed]:
            raise InputError(f"{data.name} has no timestamps for the derived feature {untimed[0]!r}: leave it out.")
        derived = [DERIVED[name] for name in ("hour", "weekday", "gap") if name not in own and data.timed]
        for name in asked:
            texts = data.items["text"].iloc[np.unique(train["item"])]
            derived.append(DERIVED.get(name) or replace(Field.fit(name, texts, "text")[0], part=name))
        return cls(value, profile, (*derived, *read(own, train, data.events)))

    def typed(self, part: str, values: Mapping | None, derived: Mapping[str, Array] | None = None) -> Array:
        """(C,) codes of a typed "profile" or "request", such as {"hour": 21}; others are absent.

        derived: codes (B,) of events, which typed values override -> (B, C). InputError for an unknown field or value.
        """
        fields, values, derived = getattr(self, part), dict(values or {}), derived or {}
        times = {name: [values.pop(name)] for name in {f.column for f in fields if f.column} & set(values)}
        names = [f.name for f in fields]
        if unknown := [name for name in values if name not in names]:
            has = f"it knows {', '.join(names)}" if names else f"it was trained without a {part}"
            raise InputError(f"the {part}'s field {unknown[0]!r} is unknown to this model: {has}.")
        given = {f.name: f.encode(times[f.column])[0] for f in fields if f.column in times}
        given |= {f.name: derived[f.part] for f in fields if f.part in derived and not f.column}
        given |= {f.name: f.encode_one(values[f.name]) for f in fields if f.name in values}
        out = np.zeros((*np.shape(next(iter(derived.values()), 0)), len(names)), np.int64)
        for i, name in enumerate(names):
            out[..., i] = given.get(name, 0)
        return out

    to_dict = asdict  # as JSON values

    @classmethod
    def from_dict(cls, values: dict) -> "Fields":
        """KeyError or TypeError for another version's."""

        def read(v):
            return Field(**{name: tuple(part) if isinstance(part, list) else part for name, part in v.items()})

        return cls(read(values["value"]), tuple(map(read, values["profile"])), tuple(map(read, values["request"])))


class EventCodes(NamedTuple):
    value: Array  # (E,)
    gap: Array  # (E,)
    request: Array  # (E, R)
    profile: Array  # (U, C)


@lru_cache(8)  # every chunk of an evaluation needs it
def encode_events(data: Dataset, fields: Fields) -> EventCodes:
    first = np.diff(data.events["user"], prepend=-1) != 0
    time = data.events["timestamp"].to_numpy(dtype=float) if data.timed else np.full(data.n_events, np.nan)
    derived = derive(fields, time, first, data.events["item"].to_numpy(), data.items["text"])

    def encode(part, table):
        codes = [f.encode(table[f.column or f.name]) if f.column or not f.part else derived[f.part] for f in part]
        return np.stack(codes, 1) if codes else np.zeros((len(table), 0), np.int64)

    request, profile = encode(fields.request, data.events), encode(fields.profile, data.users)
    return EventCodes(fields.value.encode(data.events["value"]), derived["gap"], request, profile)


def _parts(time: Array) -> dict[str, Array]:
    """UTC seconds (n,) -> codes (n,) of LEVELS."""
    # Day 0 of the epoch was a Thursday; winter is December to February.
    season = pd.to_datetime(time, unit="s", errors="coerce").month.to_numpy(float) % 12 // 3
    parts = {"hour": time // 3600 % 24, "weekday": (time // 86400 + 3) % 7, "season": season}
    return {name: np.nan_to_num(part + 1).astype(np.int64) for name, part in parts.items()}


def derive(fields: Fields, time: Array, first: Array, item: Array, texts: Sequence[object]) -> dict[str, Array]:
    """Codes (E,) by derived feature. time: UTC seconds, item: (E,); first: (E,), a user's first event.

    gap: seconds since the event before; session: its events before; pace: its seconds per event; tastes: the word with
    the highest TF-IDF in the `texts` (N,) of the RECENT items before, counted for each item but one."""
    gap, rows = np.append(np.nan, np.diff(time)), np.arange(len(time))
    gap[first] = np.nan
    start = np.maximum.accumulate(np.where(first | (gap >= SESSION_PAUSE), rows, 0))
    session = np.where(np.isnan(time) | (np.isnan(gap) & ~first), np.nan, rows - start)
    pace = np.divide(time - time[start], session, out=np.full(len(time), np.nan), where=session > 0)
    codes = {name: DERIVED[name].encode(v) for name, v in (("gap", gap), ("session", session), ("pace", pace))}
    if field := next((f for f in fields.request if f.part == "tastes"), None):
        before = rows[:, None] - np.arange(1, RECENT + 1)  # (E, RECENT)
        event, back = np.nonzero(before >= np.maximum.accumulate(np.where(first, rows, 0))[:, None])
        recent = (np.ones(len(event)), (event, item[before[event, back]]))
        shared = csr_array(csr_array(recent, (len(item), len(texts))) @ field.words(texts))  # (E, W)
        shared.data = np.maximum(shared.data - 1, 0)
        codes["tastes"] = field.top_word(shared)
    return codes | _parts(time)


def past_events(data: Dataset, users: Sequence[int], history: Sequence[object] | Frame | None = None) -> Frame:
    """item (code; new ones from N on), text, value and timestamp, NaN where unknown; oldest first.

    history: of `listed`: ids, titles or dicts; or a frame with item_id and optionally value and timestamp; None: the
    users' own, user after user. InputError for no item_id, and for a cell that is no time."""
    known = data.items["text"]
    if history is None:
        past = data.events.iloc[np.concatenate([np.arange(*data.offsets[user : user + 2]) for user in users])]
        return past.assign(text=known.iloc[past["item"]].to_numpy())
    frame = history if isinstance(history, Frame) else Frame()
    item = data.history_codes(history)
    texts = known.reindex(item).to_numpy(object, copy=True)
    new = [h.get("text", h.get("title")) for h in history if isinstance(h, Mapping)]
    texts[item >= len(known)] = pd.Series(new, dtype=object)
    past = Frame({"item": item, "text": texts, "value": np.nan, "timestamp": np.nan})
    if "value" in frame:
        past["value"] = numbers(plain(frame["value"]))
    if "timestamp" in frame:
        past["timestamp"] = seconds(frame["timestamp"], "the history's timestamp")
        if past["timestamp"].isna().any():
            raise InputError("the history has a timestamp that is no time: give UTC seconds or datetimes.")
        past = past.sort_values("timestamp", kind="stable")
    return past


def people_context(
    data: Dataset, fields: Fields, past: Frame, size: Array, request: Mapping | None, profile: Array,
    length: int,
) -> Context:  # fmt: skip
    """Q = 1: the last `length` of each person's size (B,) events in `past`, and the same request as one more event.

    past: of `past_events`, person after person. profile: codes (B, C). InputError for a time before the last event."""
    request = dict(request or {})
    moment = request.pop("timestamp", None) if any(f.part in DERIVED and not f.column for f in fields.request) else None
    now = seconds(pd.Series([text(moment) if isinstance(moment, str) else moment]), "the request's timestamp")[0]
    at = (size + 1).cumsum() - 1  # (B,) rows of the requests
    stored, rows = np.ones(len(past) + len(size), bool), np.arange(len(past) + len(size))
    stored[at] = False
    time, texts = np.full(len(rows), np.nan), np.full(len(rows), "", object)
    time[stored], texts[stored], time[at] = past["timestamp"] if data.timed else np.nan, past["text"], now
    if (now < time[at - 1][size > 0]).any():
        raise InputError("the request's timestamp lies before the last event of the history: ask about a later moment.")
    derived = derive(fields, time, np.isin(rows, at - size), rows, texts)
    codes, taken = np.zeros((3, len(rows)), np.int64), np.minimum(size, length)
    codes[:, stored] = past["item"], fields.value.encode(past["value"]), derived["gap"][stored]
    row = (at - taken)[:, None] + np.arange(max(1, taken.max()))  # (B, T)
    history = np.where(row < at[:, None], codes[:, np.minimum(row, len(rows) - 1)], [[[-1]], [[0]], [[0]]])
    asked = fields.typed("request", request, {name: values[at] for name, values in derived.items()})
    return Context(*map(torch.from_numpy, (*history, profile, asked[:, None], taken[:, None])))


def training_batches(
    data: Dataset, split: Split, codes: EventCodes, length: int, batch: int, rng: Rng
) -> Iterator[Context]:
    """One epoch: every training event is a target once, except in windows of one event.

    Users' training events are cut into windows of at most `length`, at other positions in each epoch. Event t of a
    window is target t, seen from the events before it and its own request."""
    total, windows = np.concatenate([[0], np.cumsum(split.train)])[data.offsets], []
    for start, count in zip(data.offsets[:-1], np.diff(total), strict=True):
        cuts = range(int(rng.integers(1, length + 1)), count, length) if count > length else ()
        windows += [(start + a, start + b) for a, b in pairwise([0, *cuts, count]) if b - a >= 2]
    windows = rng.permutation(np.array(windows, np.int64).reshape(-1, 2))
    sizes = windows[:, 1] - windows[:, 0]
    # Windows of like length share a batch, which halves the padding.
    mixed = rng.permutation(len(windows)) // (4 * batch)
    groups = np.array_split(np.lexsort((sizes, mixed)), range(batch, len(windows), batch))
    for group in rng.permutation(len(groups)):
        yield _context(data, codes, windows[groups[group]], int(sizes[groups[group]].max()))


def target_context(data: Dataset, codes: EventCodes, events: Array, length: int) -> Context:
    """Q = 1: the last `length` events before each of the events (B,), and its own request."""
    user = data.events["user"].to_numpy()[events]
    start = np.maximum(data.offsets[user], events - length)
    past = _context(data, codes, np.stack((start, events), 1), length)[:3]
    asked = codes.profile[user], codes.request[events][:, None], (events - start)[:, None]
    return Context(*past, *map(torch.from_numpy, asked))


def _context(data: Dataset, codes: EventCodes, windows: Array, length: int) -> Context:
    """Windows (W, 2), first and past-the-last event, `length` wide; every event is a target."""
    rows = windows[:, :1] + np.arange(length)  # (W, T)
    present = rows < windows[:, 1:]
    rows = np.where(present, rows, 0)
    user, item = (data.events[name].to_numpy() for name in ("user", "item"))
    events = np.where(present, item[rows], -1), codes.value[rows] * present, codes.gap[rows] * present
    parts = *events, codes.profile[user[rows[:, 0]]], codes.request[rows] * present[..., None]
    return Context(*map(torch.from_numpy, parts), torch.arange(length).expand(len(rows), -1))


def _counter(**options: object):
    from sklearn.feature_extraction.text import CountVectorizer  # takes a second

    return CountVectorizer(token_pattern=LETTERS, binary=True, **options)
