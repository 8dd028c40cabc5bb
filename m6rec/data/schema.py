"""The checks that raw tables pass before they become a Dataset; every message names table, row, column and fix.

A `Report` decides what becomes of a problem: it is raised, or it is kept and the good rows are loaded.
"""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd

from m6rec.data.features import FILE_MODALITIES, absent
from m6rec.data.lookup import nearest, texts
from m6rec.data.media import Media, checked, shown
from m6rec.data.text import LONGEST
from m6rec.errors import InputError

LATEST = 10**11  # UTC seconds of the year 5138: what lies beyond is milliseconds
LONGEST_TITLE = 10_000  # characters
LIMIT = 1000  # problems that a report lists
ROW = "row of the file"  # name of an index that holds where a frame's rows stood; other frames count from the top
T = TypeVar("T")


class Frames(NamedTuple):
    """Raw tables, as `Dataset.from_frames` takes them."""

    items: pd.DataFrame | None
    users: pd.DataFrame | None
    interactions: pd.DataFrame | None
    media: Media | Path | None = None  # where the files lie that the items' `image` and `sound` name


class Report:
    """The problems of tables. strict: raise the first; otherwise keep all. decode: read every image and sound too."""

    def __init__(self, strict: bool = True, decode: bool = False):
        self.strict, self.decode = strict, decode
        self.files: dict[str, str] = {}  # table -> the file that it came from
        self.rows: list[tuple[str, int | None, str, str, str]] = []
        self.more = 0  # problems beyond LIMIT
        self.fatal: InputError | None = None  # the first problem that leaves nothing to load

    def file(self, table: str) -> str:
        """The name of the file that a table came from; a frame goes by its table's name."""
        return self.files.get(table, table)

    def add(self, table: str, row: int | None, column: str, problem: str, fix: str) -> None:
        """One problem; `row` counts from 0, the header not counted, None for the whole table."""
        if self.strict:
            where = ", ".join(filter(None, ("" if row is None else f"row {row}", column and f"column '{column}'")))
            raise InputError(f"{self.file(table)}{where and ' '}{where}: {problem}; {fix}.")
        if len(self.rows) < LIMIT:
            self.rows.append((self.file(table), row, column, problem, fix))
        else:
            self.more += 1

    def cells(self, good: np.ndarray | pd.Series, table: str, column: pd.Series, problem: str, fix: str) -> np.ndarray:
        """Add the cells of a column that are not good; -> (n,) bool, which are."""
        good = np.array(good, dtype=bool)
        wrong = np.flatnonzero(~good)
        for i in wrong[:LIMIT]:
            self.add(table, int(column.index[i]), str(column.name), f"{shown(column.iloc[i])} {problem}", fix)
        self.more += max(0, len(wrong) - LIMIT)
        return good

    def collect(self, table: str, function: Callable[..., T], *args: object) -> T | None:
        """What the function returns; where problems are kept, its InputError is one more of them and gives None."""
        try:
            return function(*args)
        except InputError as error:
            if self.strict:
                raise
            self.fatal = self.fatal or error
            problem, _, fix = str(error).removeprefix(f"{self.file(table)} ").rstrip(".").partition("; ")
            self.add(table, None, "", problem, fix)
            return None

    def table(self) -> pd.DataFrame:
        """One row a problem: file, row, column, problem, fix; after LIMIT of them, a row that says how many more."""
        rows = list(self.rows)
        if self.more:
            rows.append(("", None, "", f"{self.more:,} more problems", "mend these and validate again"))
        found = pd.DataFrame(rows, columns=["file", "row", "column", "problem", "fix"], dtype=object)
        return found.astype({"file": "str", "row": "Int64", "column": "str", "problem": "str", "fix": "str"})

    def warn(self, source: str) -> None:
        """One warning that counts the problems of a source, if there are any, and names the first three."""
        if n := len(self.rows) + self.more:
            first = "; ".join(f"{file} row {row}: {problem}" for file, row, _, problem, _ in self.rows[:3])
            rest = f"; and {n - 3:,} more" if n > 3 else ""
            warnings.warn(f"{source}: {n:,} problems, whose rows are left out: {first}{rest}.", stacklevel=3)


def validate(tables: Frames, report: Report) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, bool]:
    """The good rows of items, users and events, the latter with codes for ids, and whether events have times.

    InputError if a table has no good row, and in a strict report for the first bad one.
    """
    items, users, events, media = tables
    unread = report.fatal is not None  # then a table that is None could not be read
    if items is not None or not unread:
        items = report.collect("items", catalogue, items, media, report)
    if users is not None:
        users = report.collect("users", _unique, users, "users", "user_id", report)
    if events is not None or not unread:
        events = report.collect("interactions", _events, events, items, users, report)
    if report.fatal:
        raise report.fatal
    if users is None:
        users = _unique(pd.DataFrame({"user_id": events["user_id"].unique()}), "users", "user_id", report)
    timed = "timestamp" in events.columns
    known = {
        "user": texts(users["user_id"]).get_indexer(texts(events["user_id"])).astype(np.int64),
        "item": texts(items["item_id"]).get_indexer(texts(events["item_id"])).astype(np.int64),
        "timestamp": events["timestamp"] if timed else np.zeros(len(events), dtype=np.int64),
        "action": events["action"].astype("str") if "action" in events.columns else "event",
        "value": events["value"] if "value" in events.columns else 1.0,
    }
    context = events.drop(columns=["user_id", "item_id", *known], errors="ignore")
    events = pd.concat([pd.DataFrame(known, index=events.index), context], axis=1)
    items, users, events = (frame.reset_index(drop=True) for frame in (items, users, events))
    return items, users, events, timed


def catalogue(items: pd.DataFrame, media: Media | None, report: Report) -> pd.DataFrame:
    """The good rows of the items: item_id, title, text, extras; image and sound as names of files or None."""
    items = _unique(items, "items", "item_id", report)
    good = np.ones(len(items), dtype=bool)
    for name, longest in (("title", LONGEST_TITLE), ("text", LONGEST)):
        if name in items.columns:
            column = items[name]
            fix = "give one, or leave the column out for all rows"
            good &= report.cells(column.notna(), "items", column, f"is no {name}", fix)
            fits = column.astype("str").str.len().fillna(0) <= longest
            good &= report.cells(fits, "items", column, f"is longer than {longest:,} characters", "shorten it")
    items = _nonempty(items[good], "items", report)
    title = items.get("title", items["item_id"]).rename("title")
    text = items.get("text", title).rename("text")
    front = pd.DataFrame({"item_id": items["item_id"], "title": title.astype("str"), "text": text.astype("str")})
    items = pd.concat([front, items.drop(columns=front.columns, errors="ignore")], axis=1)
    for name in FILE_MODALITIES:
        if name in items.columns:
            items[name] = _files(items[name], media, report)
    return items


def _files(column: pd.Series, media: Media | None, report: Report) -> pd.Series:
    """Names of files, None where there is none or no good one."""
    names = pd.Series([None if absent(cell) else cell for cell in column], column.index, object, column.name)
    if media is None and names.notna().any():
        report.add("items", None, str(column.name), "names files that are nowhere", "give media=, or drop the column")
        return names.mask(names.notna(), None)
    flaws: dict[str, str] = {}  # several items may share a file
    for row, name in names.dropna().items():
        if str(name) not in flaws:
            try:
                flaws[str(name)] = checked(name) and ""
                if report.decode:
                    FILE_MODALITIES[column.name].decode(media.read(name))
            except InputError as error:
                flaws[str(name)] = f"{shown(name)} {str(error).removeprefix(shown(name) + ' ')}"
        if flaw := flaws[str(name)]:
            problem, _, fix = flaw.rstrip(".").partition("; ")
            report.add("items", row, str(column.name), problem, fix)
        names[row] = None if flaw else checked(name)
    return names


def _events(events: pd.DataFrame, items: pd.DataFrame | None, users: pd.DataFrame | None, report: Report):
    """Events with good ids, timestamps (UTC s) and values; a table of items or users that is missing checks no id."""
    events = _table(events, "interactions", ["user_id", "item_id"], report)
    good, clean = np.ones(len(events), dtype=bool), {}
    for table, frame, key in (("users", users, "user_id"), ("items", items, "item_id")):
        if frame is not None:
            found = texts(frame[key]).get_indexer(texts(events[key])) >= 0
            fix = f"add it to {table} or drop the row"
            good &= report.cells(found, "interactions", events[key], f"is not in {table}", fix)
    if "timestamp" in events.columns:
        column, times = events["timestamp"], seconds(events["timestamp"])
        fix = "give UTC seconds or a datetime, or leave the column out if the rows are in order"
        problem = "is no time" if pd.api.types.is_datetime64_any_dtype(column) else "is no number"
        fine = report.cells(np.isfinite(times), "interactions", column, problem, fix)
        near = ~fine | (np.abs(times) < LATEST)
        good &= fine & report.cells(near, "interactions", column, "looks like milliseconds", "give UTC seconds")
        clean["timestamp"] = np.floor(np.where(good, times, 0)).astype(np.int64)
    if "value" in events.columns:
        clean["value"] = numbers(events["value"])
        fix = "give a number such as a rating"
        good &= report.cells(np.isfinite(clean["value"]), "interactions", events["value"], "is no number", fix)
    return _nonempty(events.assign(**clean)[good], "interactions", report)


def _unique(frame: pd.DataFrame, table: str, key: str, report: Report) -> pd.DataFrame:
    frame = _table(frame, table, [key], report)
    new = ~texts(frame[key]).duplicated()
    frame = frame[report.cells(new, table, frame[key], "is there already", "keep one row for each id")]
    return frame[[key, *frame.columns.drop(key)]]


def _table(frame: pd.DataFrame, table: str, keys: list[str], report: Report) -> pd.DataFrame:
    """The rows of a frame that have these ids, numbered from 0; InputError if it has no rows or lacks a column."""
    file = report.file(table)
    if not isinstance(frame, pd.DataFrame):
        raise InputError(f"{file} is a {type(frame).__name__}; give a pandas DataFrame with {', '.join(keys)}.")
    for key in keys:
        if key not in frame.columns:
            near = nearest(key, [str(name) for name in frame.columns], 1)
            rename = f"rename {near[0]!r} or " if near else ""
            raise InputError(f"{file} has no column '{key}'; {rename}add it.")
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise InputError(f"{file} has two columns '{twice}'; rename one or drop it.")
    if frame.empty:
        raise InputError(f"{file} has no rows; give at least one.")
    if frame.index.name != ROW:
        frame = frame.reset_index(drop=True)
    good = np.ones(len(frame), dtype=bool)
    for key in keys:
        good &= report.cells(frame[key].notna(), table, frame[key], "is no id", "drop the row or give the id")
    return _nonempty(frame[good], table, report)


def _nonempty(frame: pd.DataFrame, table: str, report: Report) -> pd.DataFrame:
    if frame.empty:
        raise InputError(f"{report.file(table)} has no good row; mend at least one.")
    return frame


def seconds(column: pd.Series) -> np.ndarray:
    """(n,) float64 UTC seconds of numbers, datetimes and ISO 8601 texts; NaN where a cell is none of them."""
    dates = pd.api.types.is_datetime64_any_dtype(column)
    out = np.full(len(column), np.nan) if dates else numbers(column)
    rest = np.flatnonzero(np.isnan(out))
    cells = column.iloc[rest]
    if not dates:
        written = [cell if isinstance(cell, (str, datetime.date, np.datetime64)) else None for cell in cells]
        cells = pd.Series(pd.to_datetime(written, format="ISO8601", utc=True, errors="coerce"))
    there = cells.notna().to_numpy()
    out[rest[there]] = pd.DatetimeIndex(pd.to_datetime(cells[there], utc=True)).as_unit("us").asi8 / 1e6
    return out


def numbers(column: pd.Series) -> np.ndarray:
    """(n,) float64, NaN where a cell is no number."""
    return pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan).copy()
