"""Items, users and events as tables whose row numbers are the models' codes.

Raw ids are the caller's (196, "B00012"); codes are 0..N-1. Events lie user by user, each user's in time order.
"""

import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_array, csr_matrix

from m6rec.config import InputError, did_you_mean, nearest, typed
from m6rec.data.features import FILE_MODALITIES, Media, checked, decoded, given, shown
from m6rec.data.text import LONGEST

LATEST = 10**11  # UTC seconds of the year 5138: more must be milliseconds
IDS = ("item_id", "user_id")
AS_WRITTEN = dict.fromkeys((*IDS, "title", "text", *FILE_MODALITIES), str)  # 007 is not 7
YEAR = re.compile(r"\s*\((\d{4})\)")
REPEATS = 0.1  # share of repeated items in events from which on lists may repeat, too
ARTICLE = re.compile(r"^(.*), (the|an?|l[ea]s?|das|der|die|il|el)$")


class Report:
    """strict: the first problem is raised; otherwise all are kept, and every file is decoded."""

    def __init__(self, strict: bool = True):
        self.strict, self.rows = strict, []

    def add(self, table: str, row: int | None, column: str, problem: str) -> None:
        """`row` counts from 0 without the header; None for the whole table. problem: what is wrong; the fix."""
        if self.strict:
            raise InputError(f"{table}{'' if row is None else f' row {row},'} column '{column}': {problem}.")
        self.rows.append((table, row, column, *problem.rpartition("; ")[::2]))

    def good(self, table: str, frame: pd.DataFrame, *checks: tuple[pd.Series, np.ndarray, str]) -> pd.DataFrame:
        """The rows that pass all checks: a column, (n,) bool, what is wrong with the others and the fix."""
        good = np.ones(len(frame), dtype=bool)
        for column, passed, problem in checks:
            for i in np.flatnonzero(~np.asarray(passed, dtype=bool)):
                self.add(table, int(column.index[i]), str(column.name), f"{shown(column.iloc[i])} {problem}")
                good[i] = False
        if not good.any():
            raise InputError(f"{table} has no good row; mend at least one.")
        return frame[good]


def read_folder(folder: str | Path) -> tuple[pd.DataFrame, pd.DataFrame | None, pd.DataFrame, Path | None]:
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give one that holds items.csv and interactions.csv.")
    items, *others = (_read_table(folder, table) for table in ("items", "users", "interactions"))
    names = {name for m in items.columns.intersection(FILE_MODALITIES) for name in items[m] if isinstance(name, str)}
    places = [place for place in (folder / "media.zip", folder / "media", folder) if names and place.exists()]
    return items, *others, max(places, key=lambda place: sum(map(Media(place).holds, names)), default=None)


def _read_table(folder: Path, table: str) -> pd.DataFrame | None:
    paths = [path for end in ("csv", "parquet") if (path := folder / f"{table}.{end}").is_file()]
    if not paths and table == "users":
        return None
    if len(paths) != 1:
        raise InputError(f"{folder} has {len(paths)} files of {table}; keep or add {table}.csv or {table}.parquet.")
    try:
        if paths[0].suffix == ".parquet":
            fix = "save it again"
            return pd.read_parquet(paths[0])
        fix = "save it in UTF-8 with a header, put texts with commas in quotes, and close every quote"
        with warnings.catch_warnings(action="error"):  # a first row with too many fields
            options = dict(index_col=False, keep_default_na=False, na_values=[""], low_memory=False)
            frame = pd.read_csv(paths[0], encoding="utf-8-sig", dtype=AS_WRITTEN, **options)
    except (OSError, ValueError, pd.errors.ParserWarning) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise InputError(f"{paths[0].name} cannot be read ({reason}); {fix}.") from None
    for name in frame.columns.intersection(IDS):
        if len(frame) and frame[name].str.fullmatch(r"0|[1-9]\d{0,17}").fillna(False).all():
            frame[name] = frame[name].astype(np.int64)
    return frame


def check(
    items: pd.DataFrame, users: pd.DataFrame | None, events: pd.DataFrame, media: Media | None, report: Report
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, bool]:
    """The good rows of items, users and events, the latter with codes for ids, and whether events have times."""
    items = catalogue(items, media, report)
    users = None if users is None else _table(users, "users", ["user_id"], report)
    events = _events(events, items, users, report)
    if users is None:
        users = events.loc[~texts(events["user_id"]).duplicated(), ["user_id"]]
    timed, new = "timestamp" in events.columns, {"timestamp": 0, "action": "event", "value": 1.0}
    new = {name: default for name, default in new.items() if name not in events.columns}
    for name, ids in (("user", users["user_id"]), ("item", items["item_id"])):
        new[name] = texts(ids).get_indexer(texts(events[ids.name])).astype(np.int64)
    events = events.assign(**new).drop(columns=["user_id", "item_id"]).astype({"action": "str"})
    events = _front(events, "user", "item", "timestamp", "action", "value")
    return *(frame.reset_index(drop=True) for frame in (items, users, events)), timed


def catalogue(items: pd.DataFrame, media: Media | None, report: Report) -> pd.DataFrame:
    """The good rows; image and sound as names of files or None."""
    items, checks = _table(items, "items", ["item_id"], report), []
    for name in items.columns.intersection(["title", "text"]):
        column, short = items[name], items[name].astype("str").str.len().fillna(0) <= LONGEST
        checks.append((column, column.notna(), f"is no {name}; give one, or leave the column out for all rows"))
        checks.append((column, short, f"is longer than {LONGEST:,} characters; shorten it"))
    items = report.good("items", items, *checks)
    title = items.get("title", items["item_id"]).astype("str")
    items = _front(items.assign(title=title, text=items.get("text", title).astype("str")), "item_id", "title", "text")
    for name in items.columns.intersection(FILE_MODALITIES):
        items[name] = _files(items[name], media, report)
    return items


def _files(column: pd.Series, media: Media | None, report: Report) -> pd.Series:
    names = given(column).set_axis(column.index)
    if media is None and names.notna().any():
        report.add("items", None, column.name, "names files that are nowhere; give media=, or drop the column")
        return names.mask(names.notna(), None)
    for row, name in names.dropna().items():
        try:
            names[row] = checked(name)
            if not report.strict:
                decoded(column.name, name, media)
        except InputError as error:
            report.add("items", row, column.name, str(error).rstrip("."))
    return names


def _events(events: pd.DataFrame, items: pd.DataFrame, users: pd.DataFrame | None, report: Report) -> pd.DataFrame:
    events, checks = _table(events, "interactions", ["user_id", "item_id"], report), []
    for table, frame, key in (("users", users, "user_id"), ("items", items, "item_id")):
        if frame is not None:
            found = texts(frame[key]).get_indexer(texts(events[key])) >= 0
            checks.append((events[key], found, f"is not in {table}; add it to {table} or drop the row"))
    clean = {}
    if "timestamp" in events.columns:
        column, times = events["timestamp"], seconds(events["timestamp"])
        finite, clean["timestamp"] = np.isfinite(times), np.floor(times)
        fix = "give UTC seconds or a datetime, or leave the column out if the rows are in order"
        checks.append((column, finite, f"is no number; {fix}"))
        checks.append((column, ~finite | (np.abs(times) < LATEST), "looks like milliseconds; give UTC seconds"))
    if "value" in events.columns:
        clean["value"] = numbers(events["value"])
        good = np.isfinite(clean["value"])
        checks.append((events["value"], good, "is no number; give a number such as a rating"))
    events = report.good("interactions", events.assign(**clean), *checks)
    return events.astype({name: np.int64 for name in clean if name == "timestamp"})


def _table(frame: pd.DataFrame, table: str, keys: list[str], report: Report) -> pd.DataFrame:
    if not isinstance(frame, pd.DataFrame):
        raise InputError(f"{table} is a {type(frame).__name__}; give a pandas DataFrame with {', '.join(keys)}.")
    for key in keys:
        if key not in frame.columns:
            near = did_you_mean(key, map(str, frame.columns))
            raise InputError(f"{table} has no column '{key}'{near}; rename a column or add it.")
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise InputError(f"{table} has two columns '{twice}'; rename one or drop it.")
    if frame.empty:
        raise InputError(f"{table} has no rows; give at least one.")
    frame = frame.reset_index(drop=True)
    checks = [(frame[key], frame[key].notna(), "is no id; drop the row or give the id") for key in keys]
    if len(keys) == 1:
        once = frame[keys[0]].isna() | ~texts(frame[keys[0]]).duplicated()
        checks.append((frame[keys[0]], once, "is there already; keep one row for each id"))
    return report.good(table, _front(frame, *keys), *checks)


def _front(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    return frame[[*columns, *frame.columns.drop([*columns])]]


def texts(ids: pd.Series) -> pd.Index:
    """Ids as text: 196, 196.0 and "196" are one id."""
    if ids.dtype.kind == "f" and ((ids.dropna() % 1 == 0) & (ids.dropna().abs() < 2**53)).all():
        ids = ids.astype("Int64")
    return pd.Index(ids.astype("str"))


def seconds(column: pd.Series, name: str = "") -> np.ndarray:
    """(n,) float64 UTC seconds of numbers, datetimes and ISO 8601 texts, else NaN; name: InputError where all are."""
    out = np.full(len(column), np.nan) if column.dtype.kind == "M" else numbers(column)
    rest = np.isnan(out)
    dates = pd.to_datetime(column[rest], format="ISO8601", utc=True, errors="coerce")
    times = pd.DatetimeIndex(dates).as_unit("us")
    out[rest] = np.where(times.isna(), np.nan, times.asi8 / 1e6)
    if name and np.isnan(out).all() and column.notna().any():
        raise InputError(f"{name} is no time: give UTC seconds, a datetime, or a text such as 2025-03-01 21:00.")
    if name and (np.abs(out) >= LATEST).any():
        raise InputError(f"{name} looks like milliseconds: give UTC seconds.")
    return out


def numbers(column: pd.Series) -> np.ndarray:
    """(n,) float64, NaN where a cell is no number."""
    return pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan).copy()


def row_numbers(what: str, raw: object, size: int, source: str) -> np.ndarray:
    """(n,) int64. InputError for one that is none of `size` rows."""
    rows = np.asarray(raw)
    if rows.ndim != 1 or (len(rows) and (rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= size)):
        raise InputError(f"{what} must lie in 0..{size - 1}; take them from {source}.")
    return rows.astype(np.int64)


class Split(NamedTuple):
    """Training events as a mask, targets as rows of events."""

    name: str
    train: np.ndarray  # (E,) bool: may be fitted on
    valid: np.ndarray  # (≤U,) int64
    test: np.ndarray  # (≤U,) int64


def _id(raw: object) -> str:
    return str(int(raw) if isinstance(raw, (float, np.floating)) and raw.is_integer() else raw)  # a merge made it 196.0


def _plain(title: str) -> str:
    return " ".join(title.casefold().split())


@typed
@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Items, users and their events; change nothing in place."""

    name: str
    timed: bool  # False: order is the file's, `timestamp` is 0
    items: pd.DataFrame  # by item code: item_id, title, text, extras; image, sound: names in media or None
    users: pd.DataFrame  # by user code: user_id, profile columns
    events: pd.DataFrame  # user, item (codes), timestamp (UTC s), action, value, context columns; by user, then time
    offsets: np.ndarray  # (U+1,) int64: user u has the rows offsets[u]:offsets[u+1]
    media: Media | None = None

    @classmethod
    def from_frames(
        cls,
        items: pd.DataFrame,
        users: pd.DataFrame | None,
        interactions: pd.DataFrame,
        media: str | Path | None = None,
        *,
        name: str = "frames",
    ) -> "Dataset":
        """Check raw frames and give them codes.

        items: item_id, and optionally title (default: the id), text (default: the title), image and sound (names of
        files in `media`, a folder or a .zip file, or empty) and extras. users: user_id and profile columns; None: those
        of `interactions`. interactions: user_id, item_id, and optionally timestamp (UTC s, datetimes or ISO 8601; of
        equal times, or without the column, the row order rules), action, value (default 1.0) and context columns.
        InputError names the first problem's table, row, column and fix; `validate` finds all.
        """
        media = Media(media) if media else None
        items, users, events, timed = check(items, users, interactions, media, Report())
        order = np.lexsort([events["timestamp"], events["user"]])
        return cls(name, timed, items, users, events, np.empty(0), media)._with(events=events.iloc[order])

    @classmethod
    def from_folder(cls, folder: str | Path, *, name: str | None = None) -> "Dataset":
        """items, users (optional) and interactions as in `from_frames`, each a .csv or .parquet of one folder.

        Images and sounds are names in media.zip, in media/ or in the folder itself: where most of them are.
        """
        return cls.from_frames(*read_folder(folder), name=name or Path(folder).resolve().name)

    @staticmethod
    def validate(
        items: pd.DataFrame | str | Path,
        users: pd.DataFrame | None = None,
        interactions: pd.DataFrame | None = None,
        media: str | Path | None = None,
    ) -> pd.DataFrame:
        """All problems of frames, or of a folder, as one frame: table, row (from 0), column, problem, fix.

        Every image and sound is decoded. A table that cannot be used at all ends the list.
        """
        report = Report(strict=False)
        try:
            folder = isinstance(items, (str, Path))
            *frames, media = read_folder(items) if folder else (items, users, interactions, media)
            check(*frames, Media(media) if media else None, report)
        except InputError as error:
            report.add("", None, "", str(error).rstrip("."))
        types = {"table": "str", "row": "Int64", "column": "str", "problem": "str", "fix": "str"}
        return pd.DataFrame(report.rows, columns=list(types), dtype=object).astype(types)

    @property
    def n_items(self) -> int:
        return len(self.items)

    @property
    def n_users(self) -> int:
        return len(self.users)

    @property
    def n_events(self) -> int:
        return len(self.events)

    @property
    def profile_columns(self) -> list[str]:
        return list(self.users.columns.drop("user_id"))

    @property
    def modalities(self) -> tuple[str, ...]:
        """Sorts of content: text always, image and sound where any item has one."""
        return ("text", *(m for m in FILE_MODALITIES if self._files(m)))

    @cached_property
    def repeats(self) -> float:
        """The share of events whose item the user had before. From REPEATS on, rankings hold what was seen."""
        return float(self.events.duplicated(["user", "item"]).mean())

    @cached_property
    def catalogue(self) -> str:
        """A hash of the items' ids in their order, which is what codes stand for."""
        return hashlib.sha256(json.dumps([*self._ids["item"]]).encode()).hexdigest()

    def _files(self, modality: str) -> list[str]:
        return list(self.items[modality].dropna()) if modality in self.items.columns else []

    @cached_property
    def _ids(self) -> dict[str, pd.Index]:
        return {"user": texts(self.users["user_id"]), "item": texts(self.items["item_id"])}

    @cached_property
    def _spellings(self) -> dict[str, list[int]]:
        """Title, whole or without its year or with its article in front, -> codes, the most frequent item's first."""
        found, n_events = {}, np.bincount(self.events["item"], minlength=self.n_items)
        for code in np.argsort(-n_events, kind="stable").tolist():
            whole = _plain(self.items["title"].iloc[code])
            bare = YEAR.sub("", whole).strip()
            for spelling in {whole, bare, ARTICLE.sub(r"\2 \1", bare)}:  # "usual suspects, the" both ways
                found.setdefault(spelling, []).append(code)
        return found

    def user_codes(self, raw_ids: object) -> np.ndarray:
        """(n,) int64 codes of raw ids or their texts; InputError names an unknown one and the nearest."""
        return self._codes("user", raw_ids)

    def item_codes(self, raw_ids: object) -> np.ndarray:
        """The same of items."""
        return self._codes("item", raw_ids)

    def _codes(self, word: str, raw_ids: Iterable) -> np.ndarray:
        several = isinstance(raw_ids, Iterable) and not isinstance(raw_ids, str | bytes) and getattr(raw_ids, "ndim", 1)
        known, raw_ids = self._ids[word], raw_ids if several else [raw_ids]
        wanted = list(map(_id, raw_ids))
        found = known.get_indexer(pd.Index(wanted, dtype="str")).astype(np.int64)
        if (found < 0).any():
            near = ", ".join(nearest(unknown := wanted[found.argmin()], known))
            raise InputError(f"{word} {unknown!r} is not in {self.name}; the nearest known ids are {near}.")
        return found

    def find(self, titles: str | Iterable[str]) -> np.ndarray:
        """(n,) int64 item codes by title: whole, without its year, in any case, or as a prefix that fits one title.

        Of items with the same title, the one with the most events. InputError lists the nearest.
        """
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
        return np.array(found, dtype=np.int64)

    def history_codes(self, history: object) -> np.ndarray:
        """(n,) int64 codes of raw item ids or titles; dicts have codes from N on."""
        if isinstance(history, str) or not isinstance(history, Iterable):
            kind = "one text" if isinstance(history, str) else "no list"
            raise InputError(f"history={history!r} is {kind}: give a list of ids or titles, such as [{history!r}].")
        known, codes, new = self._ids["item"], [], 0
        for item in history:
            if isinstance(item, Mapping):
                codes.append(self.n_items + new)
                new += 1
            else:
                codes += (self.item_codes if _id(item) in known else self.find)(_id(item)).tolist()
        return np.array(codes, dtype=np.int64)

    def known_items(self, codes: np.ndarray) -> np.ndarray:
        """`InputError` where `history_codes` has given codes to new items."""
        if (row_numbers("item codes", codes, 2**62, "data.history_codes()") >= self.n_items).any():
            raise InputError("dicts of new items are for one history alone: add the items by with_items, and name ids.")
        return codes

    def split(self, kind: str = "leave_one_out") -> Split:
        """Which events may be fitted on, and which are predicted.

        "leave_one_out": each user's last event is test, the last but one validation; users with fewer than three
        events only train. "latest": the last event is validation, and "all": none is, both for use after the test.
        "global_time": the first 80 % of all events train, the next 10 % hold the validation targets,
        the rest the test targets: a user's first event of the period that has an earlier one.
        """
        if kind == "leave_one_out":
            last = self.offsets[1:][np.diff(self.offsets) >= 3] - 1
            train = np.ones(self.n_events, dtype=bool)
            train[last] = train[last - 1] = False
            return Split(kind, train, last - 1, last)
        if kind in ("all", "latest"):
            rows, none = np.arange(self.n_events), np.zeros(0, np.int64)
            last = none if kind == "all" else self.offsets[1:][np.diff(self.offsets) >= 2] - 1
            return Split(kind, ~np.isin(rows, last), last, none)
        if kind != "global_time":
            raise InputError(f"split {kind!r} is unknown; use 'leave_one_out', 'global_time', 'latest' or 'all'.")
        if not self.timed:
            raise InputError(f"split 'global_time' needs timestamps, and {self.name} has none; use 'leave_one_out'.")
        user, time = self.events[["user", "timestamp"]].to_numpy().T
        first, second = np.quantile(time, [0.8, 0.9], method="lower")
        periods, has_past = ((time >= first) & (time < second), time >= second), np.diff(user, prepend=-1) == 0
        late = (np.flatnonzero(has_past & period) for period in periods)
        return Split(kind, time < first, *(events[np.unique(user[events], return_index=True)[1]] for events in late))

    def targets(self, events: np.ndarray | Sequence[int]) -> "Targets":
        return Targets(self, events)

    def subset(self, n_users: int, seed: int = 0) -> "Dataset":
        """`n_users` whole users, drawn by `seed`, and all items with their codes."""
        if not 1 <= n_users <= self.n_users:
            raise InputError(f"n_users={n_users} does not fit {self.name}; use 1 to {self.n_users}.")
        if seed < 0:
            raise InputError(f"seed={seed} is below 0; use 0 or more.")
        chosen = np.sort(np.random.default_rng(seed).permutation(self.n_users)[:n_users])
        user = np.searchsorted(chosen, self.events["user"])
        events = self.events.assign(user=user)[np.isin(self.events["user"], chosen)]
        return self._with(name=f"{self.name}-{n_users}users", users=self.users.iloc[chosen], events=events)

    def with_items(self, items: pd.DataFrame) -> "Dataset":
        """More items behind the others, without events and files (`M6Rec.with_items` reads them).

        items: as in `from_frames`. InputError for an id that is there already.
        """
        frame = isinstance(items, pd.DataFrame)
        items = items.drop(columns=list(FILE_MODALITIES), errors="ignore") if frame else items
        new = catalogue(items, None, Report())
        if len(taken := new["item_id"][texts(new["item_id"]).isin(self._ids["item"])]):
            raise InputError(f"item {taken.tolist()[0]!r} is in {self.name} already; give new items ids of their own.")
        return self._with(items=pd.concat([self.items, new]))

    def with_events(self, interactions: pd.DataFrame) -> "Dataset":
        """More events of known items, as in `from_frames`. New users have no profile."""
        new = _events(interactions, self.items, None, Report())
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

    def without(self, items: np.ndarray | Sequence[int], users: np.ndarray | Sequence[int] = ()) -> "Dataset":
        """The same codes without events of these items and users. InputError for an unknown one, or if none is left."""
        left = np.ones(self.n_events, dtype=bool)
        for word, gone, size in (("item", items, self.n_items), ("user", users, self.n_users)):
            codes = row_numbers(f"{word} codes", gone, size, f"data.{word}_codes()")
            left &= ~np.isin(self.events[word], codes)
        if not left.any():
            raise InputError(f"{self.name} has no events then; leave at least one in of the {self.n_events}.")
        return self._with(events=self.events[left])

    def _with(self, name: str = "", **tables: pd.DataFrame) -> "Dataset":
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
                    cells = zip(column, column.isna(), strict=True)  # a cell may be a list
                    digest.update(json.dumps([None if gone else str(cell) for cell, gone in cells]).encode())
        if self.media:
            names = (name for modality in FILE_MODALITIES for name in self._files(modality))
            digest.update(self.media.fingerprint(names).encode())
        return digest.hexdigest()

    def __repr__(self) -> str:
        counts = f"{self.n_users:,} users, {self.n_items:,} items, {self.n_events:,} events"
        if self.repeats >= REPEATS:
            counts += f" ({100 * self.repeats:.0f} % repeats: lists may hold what was seen)"
        if not self.timed:
            return f"Dataset {self.name}: {counts}, untimed"
        first, last = (f"{pd.Timestamp(t, unit='s'):%Y-%m-%d}" for t in self.events["timestamp"].agg(["min", "max"]))
        return f"Dataset {self.name}: {counts}, {first} to {last}"


class Targets:
    """Events to predict. As an array, they are raw user ids, so that any model can be ranked.

    pool (N,) bool: the items that are ranked; None: all. mask_seen: and of these, none that the user had before.
    """

    def __init__(
        self, data: Dataset, events: np.ndarray | Sequence[int], pool: np.ndarray | None = None, mask_seen: bool = True
    ):  # fmt: skip
        self.data, self.pool, self.mask_seen = data, pool, mask_seen
        self.events = row_numbers("target events", events, len(data.events), "data.split()")  # (B,) of data.events

    @property
    def users(self) -> np.ndarray:
        """(B,) int64 codes."""
        return self.data.events["user"].to_numpy()[self.events]

    @property
    def items(self) -> np.ndarray:
        """(B,) int64 codes: the truth."""
        return self.data.events["item"].to_numpy()[self.events]

    def __len__(self) -> int:
        return len(self.events)

    def __iter__(self) -> Iterator:
        return iter(self.data.users["user_id"].iloc[self.users])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self.data.users["user_id"].iloc[self.users], dtype=dtype)

    def __getitem__(self, rows: slice | np.ndarray) -> "Targets":
        return Targets(self.data, np.atleast_1d(self.events[rows]), self.pool, self.mask_seen)

    def allowed(self) -> np.ndarray:
        """(B, N) bool: what a list may hold."""
        allowed = np.ones((len(self), self.data.n_items), bool) & (True if self.pool is None else self.pool)
        if self.mask_seen:
            allowed[self.seen().nonzero()] = False
        return allowed

    def history(self, length: int | None = None) -> np.ndarray:
        """(B, T) int64 item codes before each target, most recent last, left-padded with -1; None: the longest."""
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
