"""Items, users and events as tables whose row numbers are the models' codes.

Raw ids are the caller's (196, "B00012"). Events lie user by user, each user's in time order."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, csr_matrix

from m6rec.config import Array, Frame, InputError, at_least, choose, nearest, typed
from m6rec.data.features import FILE_MODALITIES, Media
from m6rec.data.tables import Report, as_frame, catalogue, check, checked_events, listed, read_folder, text, texts

YEAR = re.compile(r"\s*\((\d{4})\)")
REPEATS = 0.1  # `Dataset.repeats` from which on rankings hold what was seen
ARTICLE = re.compile(r"^(.*), (the|an?|l[ea]s?|das|der|die|il|el)$")


def row_numbers(what: str, raw: object, size: int, source: str) -> Array:
    """(n,) int64. InputError for one that is none of `size` rows."""
    rows = np.asarray(raw)
    if rows.ndim != 1 or (len(rows) and (rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= size)):
        raise InputError(f"{what} must lie in 0..{size - 1}; take them from {source}.")
    return rows.astype(np.int64)


class Split(NamedTuple):
    """Targets are rows of events."""

    name: str
    train: Array  # (E,) bool: may be fitted on
    valid: Array  # (≤U,) int64
    test: Array  # (≤U,) int64


def _plain(title: str) -> str:
    return " ".join(title.casefold().split())


@typed
@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Items, users and their events; change nothing in place."""

    name: str
    timed: bool  # False: order is the file's, `timestamp` is 0
    items: Frame  # by item code: item_id, title, text, extras; image, sound: names in media or None
    users: Frame  # by user code: user_id, profile columns
    events: Frame  # user, item (codes), timestamp (UTC s), action, value, context columns; by user, then time
    offsets: Array  # (U+1,) int64: user u has the rows offsets[u]:offsets[u+1]
    media: Media | None = None

    @classmethod
    def from_frames(
        cls, items: Frame | None, users: Frame | None, interactions: Frame,
        media: str | Path | None = None, *, name: str = "frames",
    ) -> "Dataset":  # fmt: skip
        """Check raw frames and give them codes.

        A table is whatever `tables.as_frame` takes. items: item_id, optionally title (default: the id), text (default:
        the title), image and sound (names of files in `media`, a folder or .zip file; or vectors of one length, see
        `features.direction`; or empty) and extras. users: user_id and profile columns. Either may be None: the ids of
        `interactions`. interactions: user_id, item_id, optionally timestamp (see `tables.seconds`; of equal times, or
        without the column, the row order rules), action, value (default 1.0) and context columns.
        InputError names the first problem's table, row, column and fix, a UserWarning what is probably not meant;
        `validate` finds all."""
        media = Media(media) if media else None
        items, users, events, timed = check(items, users, interactions, media, report := Report())
        report.tell()
        order = np.lexsort([events["timestamp"], events["user"]])
        return cls(name, timed, items, users, events, np.empty(0), media)._with(events=events.iloc[order])

    @classmethod
    def from_folder(cls, folder: str | Path, *, name: str | None = None) -> "Dataset":
        """items, users (optional) and interactions as in `from_frames`, each a .csv or .parquet of one folder.

        Images and sounds are in media.zip, in media/ or in the folder itself: where most of them are."""
        return cls.from_frames(*read_folder(folder), name=name or Path(folder).resolve().name)

    @staticmethod
    def validate(
        items: Frame | str | Path | None, users: Frame | None = None, interactions: Frame | None = None,
        media: str | Path | None = None,
    ) -> Frame:  # fmt: skip
        """All problems of frames or a folder: table, row (from 0), column, problem, fix.

        Every image and sound is decoded. A table that is of no use ends the list."""
        report = Report(strict=False)
        try:
            folder = isinstance(items, (str, Path))
            *frames, media = read_folder(items) if folder else (items, users, interactions, media)
            check(*frames, Media(media) if media else None, report)
        except InputError as error:
            report.add("", None, "", str(error).rstrip("."))
        types = {"table": "str", "row": "Int64", "column": "str", "problem": "str", "fix": "str"}
        return Frame(report.rows, columns=list(types), dtype=object).astype(types)

    n_items = property(lambda self: len(self.items))
    n_users = property(lambda self: len(self.users))
    n_events = property(lambda self: len(self.events))
    profile_columns = property(lambda self: [*self.users.columns.drop("user_id")])

    @property
    def modalities(self) -> tuple[str, ...]:
        """text always, image and sound where any item has one."""
        return "text", *(m for m in FILE_MODALITIES if self._files(m))

    @cached_property
    def repeats(self) -> float:
        """The share of events whose item the user had before."""
        return float(self.events.duplicated(["user", "item"]).mean())

    @cached_property
    def catalogue(self) -> str:
        """A hash of the items' ids in their order."""
        return hashlib.sha256(json.dumps([*self._ids["item"]]).encode()).hexdigest()

    def _files(self, modality: str) -> list[str]:
        return list(self.items[modality].dropna()) if modality in self.items.columns else []

    @cached_property
    def _ids(self) -> dict[str, dict[str, int]]:
        tables = {"user": self.users["user_id"], "item": self.items["item_id"]}
        return {word: {raw: code for code, raw in enumerate(texts(ids))} for word, ids in tables.items()}

    @cached_property
    def _spellings(self) -> dict[str, list[int]]:
        """Title, whole, without its year or with its article in front, -> codes, the most frequent first."""
        found, n_events = {}, np.bincount(self.events["item"], minlength=self.n_items)
        for code in np.argsort(-n_events, kind="stable").tolist():
            whole = _plain(self.items["title"].iloc[code])
            bare = YEAR.sub("", whole).strip()
            for spelling in {whole, bare, ARTICLE.sub(r"\2 \1", bare)}:  # "usual suspects, the" both ways
                found.setdefault(spelling, []).append(code)
        return found

    def user_codes(self, raw_ids: object) -> Array:
        """(n,) int64 of raw ids or their texts; InputError names an unknown one and the nearest."""
        return self._codes("user", raw_ids)

    def item_codes(self, raw_ids: object) -> Array:
        """The same of items."""
        return self._codes("item", raw_ids)

    def _codes(self, word: str, raw_ids: Iterable) -> Array:
        known, wanted = self._ids[word], [*map(text, raw_ids if pd.api.types.is_list_like(raw_ids) else [raw_ids])]
        if (unknown := next((raw for raw in wanted if raw not in known), None)) is not None:
            near = ", ".join(nearest(unknown, known))
            raise InputError(f"{word} {unknown!r} is not in {self.name}; the nearest known ids are {near}.")
        return np.array([known[raw] for raw in wanted], np.int64)

    def find(self, titles: str | Iterable[str]) -> Array:
        """(n,) int64 item codes by title: whole, without its year, in any case, or as a prefix that fits one title.

        Of items with the same title, the one with the most events. InputError lists the nearest."""
        spellings, found = self._spellings, []
        for title in [titles] if isinstance(titles, str) else titles:
            wanted = _plain(str(title))
            longer = (spelling for spelling in spellings if wanted and spelling.startswith(wanted))
            codes = spellings.get(wanted) or [code for spelling in longer for code in spellings[spelling]]
            near = codes or [spellings[spelling][0] for spelling in nearest(wanted, spellings)]
            names = list(dict.fromkeys(self.items["title"].iloc[near].map(repr)))
            if not codes:
                raise InputError(f"title {title!r} is not in the catalogue; the nearest are {', '.join(names)}.")
            if len(names) > 1:
                raise InputError(f"title {title!r} fits {len(names)} items: {', '.join(names[:5])}; write one in full.")
            found.append(codes[0])
        return np.array(found, np.int64)

    def history_codes(self, history: Iterable[object] | Frame) -> Array:
        """(n,) int64 codes of raw item ids or titles, or of a table's item_id; dicts have codes from N on.

        InputError for a text that is one item's id and another's title; in a table it is the id."""
        history, known, codes, new = listed(history), self._ids["item"], [], count(self.n_items)
        if in_table := isinstance(history, Frame):
            if [*history].count("item_id") != 1:
                raise InputError(f"the history has the columns {', '.join(map(str, history))}: give one item_id.")
            history = history["item_id"]
        for item in history:
            if isinstance(item, Mapping) and not in_table:
                codes.append(next(new))
                continue
            name = text(item)
            codes.append(known[name] if name in known else self.find(name)[0])
            titled = self._spellings.get(_plain(name), [])
            if isinstance(item, str) and not in_table and titled and codes[-1] not in titled:
                both = [f"{row.item_id} {row.title!r}" for row in self.items.iloc[[codes[-1], titled[0]]].itertuples()]
                fix = "write the title in full, or give ids as numbers or as a frame's item_id"
                raise InputError(f"{name!r} is the id of {both[0]} and the title of {both[1]}: {fix}.")
        return np.array(codes, np.int64)

    def split(self, kind: str = "leave_one_out") -> Split:
        """Which events may be fitted on, and which are predicted.

        "leave_one_out": each user's last event is test, the last but one validation; users with fewer than three only
        train. "latest": the last is validation, and "all": none is, both for use after the test. "global_time": 80 % of
        all events train, the next 10 % hold the validation targets, the rest the test targets: a user's first event of
        the period that has an earlier one."""
        choose("split", kind, ("leave_one_out", "global_time", "latest", "all"))
        if kind == "leave_one_out":
            last = self.offsets[1:][np.diff(self.offsets) >= 3] - 1
            train = np.ones(self.n_events, bool)
            train[last] = train[last - 1] = False
            return Split(kind, train, last - 1, last)
        if kind in ("all", "latest"):
            rows, none = np.arange(self.n_events), np.zeros(0, np.int64)
            last = none if kind == "all" else self.offsets[1:][np.diff(self.offsets) >= 2] - 1
            return Split(kind, ~np.isin(rows, last), last, none)
        if not self.timed:
            raise InputError(f"split 'global_time' needs timestamps, and {self.name} has none; use 'leave_one_out'.")
        user, time = self.events[["user", "timestamp"]].to_numpy().T
        first, second = np.quantile(time, [0.8, 0.9], method="lower")
        periods, has_past = ((time >= first) & (time < second), time >= second), np.diff(user, prepend=-1) == 0
        late = (np.flatnonzero(has_past & period) for period in periods)
        return Split(kind, time < first, *(events[np.unique(user[events], return_index=True)[1]] for events in late))

    def targets(self, events: Array | Sequence[int]) -> "Targets":
        return Targets(self, events)

    def subset(self, n_users: int, seed: int = 0) -> "Dataset":
        """`n_users` whole users, drawn by `seed`, and all items with their codes."""
        if not 1 <= n_users <= self.n_users:
            raise InputError(f"n_users={n_users} does not fit {self.name}; use 1 to {self.n_users}.")
        at_least(0, seed=seed)
        chosen = np.sort(np.random.default_rng(seed).permutation(self.n_users)[:n_users])
        user = np.searchsorted(chosen, self.events["user"])
        events = self.events.assign(user=user)[np.isin(self.events["user"], chosen)]
        return self._with(name=f"{self.name}-{n_users}users", users=self.users.iloc[chosen], events=events)

    def with_items(self, items: Frame) -> "Dataset":
        """More items behind the others, as in `from_frames`, without files (`M6Rec.with_items` reads them).

        InputError for an id that is there already."""
        items = as_frame(items, "items").drop(columns=list(FILE_MODALITIES), errors="ignore")
        new = catalogue(items, None, report := Report())
        report.tell()
        if taken := [raw for raw in texts(new["item_id"]) if raw in self._ids["item"]]:
            raise InputError(f"item {taken[0]!r} is in {self.name} already; give new items ids of their own.")
        return self._with(items=pd.concat([self.items, new.dropna(axis=1, how="all")]))

    def with_events(self, interactions: Frame) -> "Dataset":
        """More events of known items, as in `from_frames`. New users have no profile."""
        new = checked_events(interactions, self.items, None, Report())
        if self.timed != ("timestamp" in new.columns):
            raise InputError(f"interactions and {self.name} must both have a timestamp, or none: add or drop it.")
        new = new.assign(**{name: 1.0 if name == "value" else "event" for name in {"value", "action"} - {*new}})
        ids = texts(new["user_id"])
        fresh = new.loc[~ids.isin(self._ids["user"]) & ~ids.duplicated(), ["user_id"]]
        users = pd.concat([self.users, fresh]) if len(fresh) else self.users
        old = self.events.drop(columns=["user", "item"] if self.timed else ["user", "item", "timestamp"])
        for name, table in (("user", self.users), ("item", self.items)):
            old[f"{name}_id"] = table[f"{name}_id"].to_numpy()[self.events[name]]
        media = self.media and self.media.path
        return Dataset.from_frames(self.items, users, pd.concat([old, new]), media, name=self.name)

    def without(self, items: Array | Sequence[int], users: Array | Sequence[int] = ()) -> "Dataset":
        """The same codes without events of these items and users. InputError for an unknown one, or if none is left."""
        left = np.ones(self.n_events, bool)
        for word, gone, size in (("item", items, self.n_items), ("user", users, self.n_users)):
            codes = row_numbers(f"{word} codes", gone, size, f"data.{word}_codes()")
            left &= ~np.isin(self.events[word], codes)
        if not left.any():
            raise InputError(f"{self.name} has no events then; leave at least one in of the {self.n_events}.")
        return self._with(events=self.events[left])

    def _with(self, name: str = "", **tables: Frame) -> "Dataset":
        new = replace(self, name=name or self.name, **{k: t.reset_index(drop=True) for k, t in tables.items()})
        return replace(new, offsets=np.searchsorted(new.events["user"], np.arange(new.n_users + 1)))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the content (not the name), the same on every machine."""
        digest = hashlib.sha256(b"timed" if self.timed else b"untimed")
        for frame in (self.items, self.users, self.events):
            for name, column in frame.items():
                digest.update(json.dumps([name, len(frame)]).encode())
                if isinstance(column.dtype, np.dtype) and column.dtype.kind in "biuf":
                    digest.update(column.to_numpy().astype("<f8" if column.dtype.kind == "f" else "<i8").tobytes())
                else:
                    cells = (c.tolist() if isinstance(c, Array) else c for c in column)  # lists and vectors
                    cells = [None if gone else str(c) for c, gone in zip(cells, column.isna(), strict=True)]
                    digest.update(json.dumps(cells).encode())
        if self.media:
            names = (name for modality in FILE_MODALITIES for name in self._files(modality))
            digest.update(self.media.fingerprint(n for n in names if isinstance(n, str)).encode())
        return digest.hexdigest()

    def __repr__(self) -> str:
        counts = f"{self.n_users:,} users, {self.n_items:,} items, {self.n_events:,} events"
        if self.repeats >= REPEATS:
            counts += f" ({100 * self.repeats:.0f} % repeats: lists may hold what was seen)"
        if not self.timed:
            return f"Dataset {self.name}: {counts}, untimed"
        first, last = (f"{pd.Timestamp(t, unit='s'):%Y-%m-%d}" for t in self.events["timestamp"].agg(["min", "max"]))
        return f"Dataset {self.name}: {counts}, {first} to {last}"

    def _repr_html_(self) -> str:
        tables = {name: (len(one), ", ".join(one)) for name, one in vars(self).items() if isinstance(one, Frame)}
        head = escape(f"{self}; modalities: {', '.join(self.modalities)}")
        return f"<p>{head}</p>{Frame(tables, ['rows', 'columns']).T.to_html()}"


class Targets:
    """Events to predict. As an array they are raw user ids: any model can be ranked.

    pool (N,) bool: the items that are ranked; None: all. mask_seen: and of these, none that the user had before."""

    def __init__(
        self, data: Dataset, events: Array | Sequence[int], pool: Array | None = None, mask_seen: bool = True
    ):  # fmt: skip
        self.data, self.pool, self.mask_seen = data, pool, mask_seen
        self.events = row_numbers("target events", events, len(data.events), "data.split()")  # (B,) of data.events

    @property
    def users(self) -> Array:
        """(B,) int64 codes."""
        return self.data.events["user"].to_numpy()[self.events]

    @property
    def items(self) -> Array:
        """(B,) int64 codes: the truth."""
        return self.data.events["item"].to_numpy()[self.events]

    def __len__(self) -> int:
        return len(self.events)

    def __iter__(self) -> Iterator:
        return iter(self.data.users["user_id"].iloc[self.users])

    def __array__(self, dtype=None, copy=None) -> Array:
        return np.array(self.data.users["user_id"].iloc[self.users], dtype=dtype)

    def __getitem__(self, rows: slice | Array) -> "Targets":
        return Targets(self.data, np.atleast_1d(self.events[rows]), self.pool, self.mask_seen)

    def allowed(self) -> Array:
        """(B, N) bool: what a list may hold."""
        allowed = np.ones((len(self), self.data.n_items), bool) & (True if self.pool is None else self.pool)
        if self.mask_seen:
            allowed[self.seen().nonzero()] = False
        return allowed

    def history(self, length: int | None = None) -> Array:
        """(B, T) int64 items before each target, the most recent last, left-padded with -1; None: the longest."""
        starts = self.data.offsets[self.users][:, None]  # (B, 1)
        length = int((self.events[:, None] - starts).max(initial=0)) if length is None else length
        rows = self.events[:, None] - np.arange(length, 0, -1)  # (B, T)
        return np.where(rows >= starts, self.data.events["item"].to_numpy()[rows.clip(0)], -1)

    def seen(self) -> csr_matrix:
        """(B, N) bool: the user's items before each target."""
        item = self.history()
        target, column = np.nonzero(item >= 0)
        values = np.ones(len(target), bool), (target, item[target, column])
        return csr_matrix(values, shape=(len(self), self.data.n_items))


def training_matrix(data: Dataset, split: Split) -> csr_array:
    """(U, N) float32, 1 where the user has the item among the *training* events."""
    user, item = data.events[["user", "item"]].to_numpy()[split.train].T
    matrix = csr_array((np.ones(len(user), np.float32), (user, item)), shape=(data.n_users, data.n_items))
    matrix.data[:] = 1  # building it added up repeated events
    return matrix
