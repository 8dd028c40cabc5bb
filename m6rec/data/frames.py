"""The checks that raw frames pass before they become a Dataset; every message names table, row, column and fix.

`Problems` decides what becomes of a problem: it is raised, or it is gathered and the rest is loaded.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from m6rec.data.features import KINDS, absent
from m6rec.data.lookup import nearest, texts
from m6rec.data.media import Media, checked, shown
from m6rec.data.problems import ROW, Problems
from m6rec.data.text import LONGEST
from m6rec.errors import InputError

LATEST = 10**11  # UTC seconds of the year 5138: what lies beyond is milliseconds
LONGEST_TITLE = 10_000  # characters


class Coded(NamedTuple):
    """Clean tables: events in their own order, with codes for ids."""

    items: pd.DataFrame
    users: pd.DataFrame
    events: pd.DataFrame
    timed: bool


def coded(
    items: pd.DataFrame | None,
    users: pd.DataFrame | None,
    interactions: pd.DataFrame | None,
    media: Media | None,
    problems: Problems,
) -> Coded:
    """The good rows of all tables. InputError if there is no good one; without gathering, if there is a bad one.

    Where problems are gathered, the files of photographs and recordings are decoded too, which takes their time.
    """
    unread = problems.hopeless is not None  # then a table that is None could not be read
    if items is not None or not unread:
        items = problems.attempt("items", catalogue, items, media, problems)
    if users is not None:
        users = problems.attempt("users", _unique, users, "users", "user_id", problems)
    if interactions is not None or not unread:
        events = problems.attempt("interactions", _events, interactions, items, users, problems)
    if problems.hopeless:
        raise problems.hopeless
    if users is None:
        users = _unique(pd.DataFrame({"user_id": events["user_id"].unique()}), "users", "user_id", problems)
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
    return Coded(*(frame.reset_index(drop=True) for frame in (items, users, events)), timed)


def catalogue(items: pd.DataFrame, media: Media | None, problems: Problems) -> pd.DataFrame:
    """The good rows of the items: item_id, title, text, extras; image and sound as names of files or None."""
    items = _unique(items, "items", "item_id", problems)
    good = np.ones(len(items), dtype=bool)
    for name, longest in (("title", LONGEST_TITLE), ("text", LONGEST)):
        if name in items.columns:
            column = items[name]
            fix = "give one, or leave the column out for all rows"
            good &= problems.cells(column.notna(), "items", column, f"is no {name}", fix)
            fits = column.astype("str").str.len().fillna(0) <= longest
            good &= problems.cells(fits, "items", column, f"is longer than {longest:,} characters", "shorten it")
    items = _some(items[good], "items", problems)
    title = items.get("title", items["item_id"]).rename("title")
    text = items.get("text", title).rename("text")
    front = pd.DataFrame({"item_id": items["item_id"], "title": title.astype("str"), "text": text.astype("str")})
    items = pd.concat([front, items.drop(columns=front.columns, errors="ignore")], axis=1)
    for name in KINDS:
        if name in items.columns:
            items[name] = _files(items[name], media, problems)
    return items


def _files(column: pd.Series, media: Media | None, problems: Problems) -> pd.Series:
    """Names of files, None where there is none or no good one."""
    names = pd.Series([None if absent(cell) else cell for cell in column], column.index, object, column.name)
    if media is None and names.notna().any():
        problems.add("items", None, str(column.name), "names files that are nowhere", "give media=, or drop the column")
        return names.mask(names.notna(), None)
    flaws: dict[object, str | None] = {}  # several items may share a file
    for row, name in names.dropna().items():
        if str(name) not in flaws:
            flaws[str(name)] = _flaw(name, str(column.name), media, decode=problems.gather)
        if flaw := flaws[str(name)]:
            problem, _, fix = flaw.rstrip(".").partition("; ")
            problems.add("items", row, str(column.name), problem, fix)
            names[row] = None
        else:
            names[row] = checked(name)
    return names


def _flaw(name: object, kind: str, media: Media, decode: bool) -> str | None:
    """What is wrong with a file, or only with its name, in the words of the one who found it."""
    try:
        checked(name)
        if decode:
            KINDS[kind].decode(media.read(name))
    except InputError as error:
        return f"{shown(name)} {str(error).removeprefix(shown(name) + ' ')}"
    return None


def _events(
    events: pd.DataFrame, items: pd.DataFrame | None, users: pd.DataFrame | None, problems: Problems
) -> pd.DataFrame:
    """Events with good ids, timestamps (UTC s) and values; a table of items or users that is missing checks no id."""
    events = _table(events, "interactions", ["user_id", "item_id"], problems)
    good = np.ones(len(events), dtype=bool)
    for table, frame, key in (("users", users, "user_id"), ("items", items, "item_id")):
        if frame is not None:
            found = texts(frame[key]).get_indexer(texts(events[key])) >= 0
            fix = f"add it to {table} or drop the row"
            good &= problems.cells(found, "interactions", events[key], f"is not in {table}", fix)
    clean = {}
    if "timestamp" in events.columns:
        clean["timestamp"], fine = _timestamps(events["timestamp"], problems)
        good &= fine
    if "value" in events.columns:
        numbers = _numbers(events["value"])
        clean["value"], fix = numbers, "give a number such as a rating"
        good &= problems.cells(np.isfinite(numbers), "interactions", events["value"], "is no number", fix)
    return _some(events.assign(**clean)[good], "interactions", problems)


def _unique(frame: pd.DataFrame, table: str, key: str, problems: Problems) -> pd.DataFrame:
    frame = _table(frame, table, [key], problems)
    new = ~texts(frame[key]).duplicated()
    frame = frame[problems.cells(new, table, frame[key], "is there already", "keep one row for each id")]
    return frame[[key, *frame.columns.drop(key)]]


def _table(frame: pd.DataFrame, table: str, keys: list[str], problems: Problems) -> pd.DataFrame:
    """The rows of a frame that have these ids, numbered from 0; InputError if it has no rows or lacks a column."""
    file = problems.file(table)
    if not isinstance(frame, pd.DataFrame):
        raise InputError(f"{file} is a {type(frame).__name__}; give a pandas DataFrame with {', '.join(keys)}.")
    for key in keys:
        if key not in frame.columns:
            near = nearest(key, [str(name) for name in frame.columns], 1)
            raise InputError(
                f"{file} has no column '{key}'; " + (f"rename {near[0]!r} or " if near else "") + "add it."
            )
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise InputError(f"{file} has two columns '{twice}'; rename one or drop it.")
    if frame.empty:
        raise InputError(f"{file} has no rows; give at least one.")
    if frame.index.name != ROW:
        frame = frame.reset_index(drop=True)
    good = np.ones(len(frame), dtype=bool)
    for key in keys:
        good &= problems.cells(frame[key].notna(), table, frame[key], "is no id", "drop the row or give the id")
    return _some(frame[good], table, problems)


def _some(frame: pd.DataFrame, table: str, problems: Problems) -> pd.DataFrame:
    if frame.empty:
        raise InputError(f"{problems.file(table)} has no good row; mend at least one.")
    return frame


def _timestamps(column: pd.Series, problems: Problems) -> tuple[np.ndarray, np.ndarray]:
    """(n,) int64 UTC seconds and (n,) bool, which of them are good."""
    dates = pd.api.types.is_datetime64_any_dtype(column)
    seconds = np.full(len(column), np.nan) if dates else _numbers(column)
    rest = np.flatnonzero(np.isnan(seconds))
    times = column.iloc[rest]
    if not dates:
        words = [cell if isinstance(cell, str) else None for cell in times]
        times = pd.Series(pd.to_datetime(words, format="ISO8601", utc=True, errors="coerce"))
    there = times.notna().to_numpy()
    seconds[rest[there]] = pd.DatetimeIndex(pd.to_datetime(times[there], utc=True)).as_unit("s").asi8
    fix = "give UTC seconds or a datetime, or leave the column out if the rows are in order"
    what = "is no time" if dates else "is no number"
    good = problems.cells(np.isfinite(seconds), "interactions", column, what, fix)
    near = ~good | (np.abs(seconds) < LATEST)
    good = good & problems.cells(near, "interactions", column, "looks like milliseconds", "give UTC seconds")
    return np.floor(np.where(good, seconds, 0)).astype(np.int64), good


def _numbers(column: pd.Series) -> np.ndarray:
    """(n,) float64, NaN where a cell is no number."""
    return pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan).copy()
