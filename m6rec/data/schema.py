"""Checked tables. A `Report` raises a problem, or keeps it and has the good rows checked further."""

import datetime
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from m6rec.data.features import FILE_MODALITIES, Media, absent, checked, decoded, shown
from m6rec.data.text import LONGEST
from m6rec.errors import InputError, did_you_mean

LATEST = 10**11  # UTC seconds of the year 5138: more must be milliseconds
LONGEST_TITLE = 10_000  # characters
IDS = ("item_id", "user_id")
AS_WRITTEN = dict.fromkeys((*IDS, "title", "text", *FILE_MODALITIES), str)  # 007 is not 7


class Report:
    """strict: the first problem is raised; otherwise all are kept, and every file is decoded."""

    def __init__(self, strict: bool = True):
        self.strict, self.rows = strict, []

    def add(self, table: str, row: int | None, column: str, problem: str) -> None:
        """`row` counts from 0 without the header; None for the whole table. problem: what is wrong; the fix."""
        if self.strict:
            raise InputError(f"{table}{'' if row is None else f' row {row},'} column '{column}': {problem}.")
        self.rows.append((table, row, column, *problem.rpartition("; ")[::2]))

    def good(self, table: str, frame: pd.DataFrame, *checks: tuple[pd.Series, ArrayLike, str]) -> pd.DataFrame:
        """The rows that pass all checks: a column, (n,) bool, what is wrong with the others and the fix."""
        good = np.ones(len(frame), dtype=bool)
        for column, passed, problem in checks:
            for i in np.flatnonzero(~np.asarray(passed, dtype=bool)):
                self.add(table, int(column.index[i]), str(column.name), f"{shown(column.iloc[i])} {problem}")
                good[i] = False
        if not good.any():
            raise InputError(f"{table} has no good row; mend at least one.")
        return frame[good]

    def table(self) -> pd.DataFrame:
        types = {"table": "str", "row": "Int64", "column": "str", "problem": "str", "fix": "str"}
        return pd.DataFrame(self.rows, columns=list(types), dtype=object).astype(types)


def read_folder(folder: str | Path) -> tuple[pd.DataFrame, pd.DataFrame | None, pd.DataFrame, Media | None]:
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give one that holds items.csv and interactions.csv.")
    items, *others = (_read_table(folder, table) for table in ("items", "users", "interactions"))
    names = {name for m in items.columns.intersection(FILE_MODALITIES) for name in items[m] if isinstance(name, str)}
    places = [place for place in (folder / "media.zip", folder / "media", folder) if names and place.exists()]
    return items, *others, max(map(Media, places), key=lambda media: sum(map(media.holds, names)), default=None)


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
    first = ["user", "item", "timestamp", "action", "value"]
    events = events[[*first, *events.columns.drop(first)]]
    return *(frame.reset_index(drop=True) for frame in (items, users, events)), timed


def catalogue(items: pd.DataFrame, media: Media | None, report: Report) -> pd.DataFrame:
    """The good rows; image and sound as names of files or None."""
    items, checks = _table(items, "items", ["item_id"], report), []
    for name, longest in (("title", LONGEST_TITLE), ("text", LONGEST)):
        if name in items.columns:
            column, short = items[name], items[name].astype("str").str.len().fillna(0) <= longest
            checks.append((column, column.notna(), f"is no {name}; give one, or leave the column out for all rows"))
            checks.append((column, short, f"is longer than {longest:,} characters; shorten it"))
    items = report.good("items", items, *checks)
    title = items.get("title", items["item_id"]).rename("title")
    front = {"item_id": items["item_id"], "title": title.astype("str"), "text": items.get("text", title).astype("str")}
    items = pd.concat([pd.DataFrame(front), items.drop(columns=[*front], errors="ignore")], axis=1)
    for name in items.columns.intersection(FILE_MODALITIES):
        items[name] = _files(items[name], media, report)
    return items


def _files(column: pd.Series, media: Media | None, report: Report) -> pd.Series:
    names = pd.Series([None if absent(cell) else cell for cell in column], column.index, object)
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
        frame = frame[[*keys, *frame.columns.drop(keys)]]
    return report.good(table, frame, *checks)


def texts(ids: pd.Series) -> pd.Index:
    """Ids as text: 196, 196.0 and "196" are one id."""
    if ids.dtype.kind == "f" and ((ids.dropna() % 1 == 0) & (ids.dropna().abs() < 2**53)).all():
        ids = ids.astype("Int64")
    return pd.Index(ids.astype("str"))


def seconds(column: pd.Series, name: str = "") -> np.ndarray:
    """(n,) float64 UTC seconds of numbers, datetimes and ISO 8601 texts, else NaN; name: InputError where all are."""
    if column.dtype.kind == "M":
        out, rest, cells = np.full(len(column), np.nan), slice(None), column
    else:
        out = numbers(column)
        rest = np.flatnonzero(np.isnan(out))
        cells = [c if isinstance(c, (str, datetime.date, np.datetime64)) else None for c in column.iloc[rest]]
    times = pd.DatetimeIndex(pd.to_datetime(cells, format="ISO8601", utc=True, errors="coerce")).as_unit("us")
    out[rest] = np.where(times.isna(), np.nan, times.asi8 / 1e6)
    if name and np.isnan(out).all() and column.notna().any():
        raise InputError(f"{name} is no time: give UTC seconds, a datetime, or a text such as 2025-03-01 21:00.")
    return out


def numbers(column: pd.Series) -> np.ndarray:
    """(n,) float64, NaN where a cell is no number."""
    return pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan).copy()
