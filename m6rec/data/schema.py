"""From a folder or frames to checked tables: CSV, Parquet and RecBole's files, and the rules that their rows must keep.

A `Report` decides what becomes of a problem: it is raised, or it is kept and the good rows are checked further.
"""

import csv
import datetime
import difflib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from m6rec.data.features import FILE_MODALITIES, Media, absent, checked, shown
from m6rec.data.text import LONGEST
from m6rec.errors import InputError

LATEST = 10**11  # UTC seconds of the year 5138: what lies beyond is milliseconds
LONGEST_TITLE = 10_000  # characters
ROW = "row of the file"  # name of an index that holds where a frame's rows stood; other frames count from the top
RECBOLE = {"items": "item", "users": "user", "interactions": "inter"}  # table -> ending of RecBole's file
IDS = ("item_id", "user_id", "item_id:token", "user_id:token")
csv.field_size_limit(16 << 20)  # characters; of 131,072 otherwise, fewer than a text may have


class Frames(NamedTuple):
    """Raw tables, as `Dataset.from_frames` takes them."""

    items: pd.DataFrame | None
    users: pd.DataFrame | None
    interactions: pd.DataFrame | None
    media: Media | Path | None = None  # where the files lie that the items' `image` and `sound` name


class Report:
    """The problems of tables. strict: the first is raised; otherwise all are kept, and every file is decoded."""

    def __init__(self, strict: bool = True):
        self.strict = strict
        self.files: dict[str, str] = {}  # table -> the file that it came from; a frame goes by its table's name
        self.rows: list[tuple[str, int | None, str, str, str]] = []

    def add(self, table: str, row: int | None, column: str, problem: str, fix: str) -> None:
        """One problem; `row` counts from 0, the header not counted, None for the whole table."""
        file = self.files.get(table, table)
        if self.strict:
            where = f"column '{column}'" if row is None else f"row {row}" + (column and f", column '{column}'")
            raise InputError(f"{file} {where}: {problem}; {fix}.")
        self.rows.append((file, row, column, problem, fix))

    def good(self, table: str, frame: pd.DataFrame, *checks: tuple[pd.Series, ArrayLike, str, str]) -> pd.DataFrame:
        """The rows of a frame that pass all checks; each: a column, (n,) bool, what is wrong with the others, the fix.

        InputError if there is none.
        """
        good = np.ones(len(frame), dtype=bool)
        for column, passed, problem, fix in checks:
            for i in np.flatnonzero(~np.asarray(passed, dtype=bool)):
                self.add(table, int(column.index[i]), str(column.name), f"{shown(column.iloc[i])} {problem}", fix)
                good[i] = False
        if not good.any():
            raise InputError(f"{self.files.get(table, table)} has no good row; mend at least one.")
        return frame[good]

    def table(self) -> pd.DataFrame:
        """One row a problem: file, row, column, problem, fix."""
        types = {"file": "str", "row": "Int64", "column": "str", "problem": "str", "fix": "str"}
        return pd.DataFrame(self.rows, columns=list(types), dtype=object).astype(types)


def read_csv(text: str, file: str, table: str, report: Report, sep: str = ",") -> pd.DataFrame:
    """A table of delimited text with a header. Quotes are special between commas only.

    A row with too many fields is a problem; what is missing at a row's end is empty. A column of numbers becomes
    numeric; ids do so where they all are whole numbers without leading zeros, titles, texts and names of files never.
    """
    quoting = csv.QUOTE_MINIMAL if sep == "," else csv.QUOTE_NONE
    try:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=sep, quoting=quoting, strict=True)
        rows = [row for row in rows if len(row) > 1 or "".join(row).strip()]
    except csv.Error as error:
        raise InputError(f"{file} cannot be read ({error}); close every quote.") from None
    if not rows:
        raise InputError(f"{file} is empty; give it a header and rows.")
    header, good = rows.pop(0), {}
    for i, row in enumerate(rows):
        if any(row[len(header) :]):
            problem = f"has {len(row)} fields under a header of {len(header)}"
            report.add(table, i, "", problem, "put a text that holds the separator in quotes")
        else:
            good[i] = [cell or None for cell in row[: len(header)]] + [None] * (len(header) - len(row))

    def typed(column: pd.Series) -> pd.Series:
        if column.name in ("title", "text", *FILE_MODALITIES):
            return column
        if column.name in IDS:
            numeric = column.str.fullmatch(r"0|[1-9]\d{0,17}").fillna(False).all()  # 007 is not 7
            return column.astype(np.int64) if numeric else column
        numbers = pd.to_numeric(column, errors="coerce")
        return numbers if numbers.notna().equals(column.notna()) else column

    frame = pd.DataFrame([*good.values()], pd.Index([*good], name=ROW, dtype=np.int64), header, "str")
    return frame.apply(typed) if good else frame


def read_folder(folder: str | Path, report: Report) -> Frames:
    """items.csv, .parquet or RecBole's *.item; users.… or *.user (optional); interactions.… or *.inter.

    The media that the items name lie in media.zip, in media/ or in the folder itself.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give one that holds items.csv and interactions.csv.")
    tables = [_read_table(folder, table, report) for table in RECBOLE]
    return Frames(*tables, _media(folder, tables[0]))


def _read_table(folder: Path, table: str, report: Report) -> pd.DataFrame | None:
    paths = [folder / f"{table}.csv", folder / f"{table}.parquet", *sorted(folder.glob(f"*.{RECBOLE[table]}"))]
    paths = [path for path in paths if path.is_file()]
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths)
        raise InputError(f"{table} are there {len(paths)} times in {folder} ({names}); keep one file.")
    if not paths and table == "users":
        return None
    if not paths:
        files = f"{table}.csv, {table}.parquet or a RecBole file *.{RECBOLE[table]}"
        raise InputError(f"{table} are not in {folder}; add {files}.")
    file = report.files[table] = paths[0].name
    try:
        if file.endswith(".parquet"):
            return pd.read_parquet(paths[0])
        text = paths[0].read_bytes().decode("utf-8-sig")
        if file.endswith(".csv"):
            return read_csv(text, file, table, report)
        return recbole(read_csv(text, file, table, report, "\t"))
    except InputError:
        raise
    except UnicodeDecodeError:
        raise InputError(f"{file} is no UTF-8 text; save it as UTF-8.") from None
    except (OSError, ValueError) as error:  # Arrow's and the parser's errors are among these
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise InputError(f"{file} cannot be read ({reason}); save it again.") from None


def recbole(frame: pd.DataFrame) -> pd.DataFrame:
    """RecBole's typed header to plain names; a title, and a text of it and of all that is written in words."""
    types = dict(name.partition(":")[::2] for name in frame.columns)
    frame.columns = ["value" if name == "rating" else name for name in types]
    words = [name for name, kind in types.items() if kind == "token_seq" and name not in IDS]
    titles = [name for name in words if name.endswith(("title", "name"))]
    if "item_id" in frame.columns and "user_id" not in frame.columns and titles:
        words.sort(key=lambda name: name != titles[0])
        frame["text"] = _joined(frame, words)
        frame = frame.rename(columns={titles[0]: "title"})
    return frame


def _media(folder: Path, items: pd.DataFrame) -> Media | None:
    """The place that holds most of the files that the items name."""
    columns = [items[name] for name in FILE_MODALITIES if name in items.columns]
    names = {cell for column in columns for cell in column.dropna() if isinstance(cell, str)}
    places = [path for path in (folder / "media.zip", folder / "media", folder) if path.exists()]
    found = [Media.open(path) for path in places] if names else []
    return max(found, key=lambda media: sum(map(media.holds, names)), default=None)


def _joined(frame: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    """Items' texts: the columns that say something, texts or lists of them, in one line, " | " between; else None."""

    def line(cells: Sequence) -> str | None:
        cells = (" ".join(map(str, cell)) if isinstance(cell, list) else cell for cell in cells)
        return " | ".join(filter(None, (" ".join(cell.split()) for cell in cells if isinstance(cell, str)))) or None

    return pd.Series([line(cells) for cells in frame[columns].itertuples(index=False)], frame.index, object)


def validate(tables: Frames, report: Report) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, bool]:
    """The good rows of items, users and events, the latter with codes for ids, and whether events have times.

    InputError if a table has no good row, and in a strict report for the first bad one.
    """
    items = catalogue(tables.items, tables.media, report)
    users = None if tables.users is None else _table(tables.users, "users", ["user_id"], report)
    events = _events(tables.interactions, items, users, report)
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
    """The good rows of the items: item_id, title, text, extras; image and sound as names of files or None."""
    items, checks = _table(items, "items", ["item_id"], report), []
    for name, longest in (("title", LONGEST_TITLE), ("text", LONGEST)):
        if name in items.columns:
            column, fix = items[name], "give one, or leave the column out for all rows"
            fits = column.astype("str").str.len().fillna(0) <= longest
            checks.append((column, column.notna(), f"is no {name}", fix))
            checks.append((column, fits, f"is longer than {longest:,} characters", "shorten it"))
    items = report.good("items", items, *checks)
    title = items.get("title", items["item_id"]).rename("title")
    front = {"item_id": items["item_id"], "title": title.astype("str"), "text": items.get("text", title).astype("str")}
    items = pd.concat([pd.DataFrame(front), items.drop(columns=[*front], errors="ignore")], axis=1)
    for name in items.columns.intersection(FILE_MODALITIES):
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
        names[row] = None
        if (key := str(name)) not in flaws:
            try:
                flaws[key] = checked(name) and ""
                if not report.strict:
                    FILE_MODALITIES[column.name].decode(media.read(name))
            except InputError as error:
                flaws[key] = f"{shown(name)} {str(error).removeprefix(shown(name) + ' ')}"
        if flaws[key]:
            problem, _, fix = flaws[key].rstrip(".").partition("; ")
            report.add("items", row, str(column.name), problem, fix)
        else:
            names[row] = checked(name)
    return names


def _events(events: pd.DataFrame, items: pd.DataFrame, users: pd.DataFrame | None, report: Report) -> pd.DataFrame:
    """Events with good ids, timestamps (UTC s) and values."""
    events, checks = _table(events, "interactions", ["user_id", "item_id"], report), []
    for table, frame, key in (("users", users, "user_id"), ("items", items, "item_id")):
        if frame is not None:
            found = texts(frame[key]).get_indexer(texts(events[key])) >= 0
            checks.append((events[key], found, f"is not in {table}", f"add it to {table} or drop the row"))
    clean = {}
    if "timestamp" in events.columns:
        column, times = events["timestamp"], seconds(events["timestamp"])
        finite, clean["timestamp"] = np.isfinite(times), np.floor(times)
        fix = "give UTC seconds or a datetime, or leave the column out if the rows are in order"
        checks.append((column, finite, "is no number", fix))
        checks.append((column, ~finite | (np.abs(times) < LATEST), "looks like milliseconds", "give UTC seconds"))
    if "value" in events.columns:
        clean["value"] = numbers(events["value"])
        checks.append((events["value"], np.isfinite(clean["value"]), "is no number", "give a number such as a rating"))
    events = report.good("interactions", events.assign(**clean), *checks)
    return events.astype({name: np.int64 for name in clean if name == "timestamp"})


def _table(frame: pd.DataFrame, table: str, keys: list[str], report: Report) -> pd.DataFrame:
    """The rows of a frame that have these ids, one that stands alone once and in front. Rows are numbered from 0.

    InputError if it is no frame, has no rows or lacks a column.
    """
    file = report.files.get(table, table)
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
    checks = [(frame[key], frame[key].notna(), "is no id", "drop the row or give the id") for key in keys]
    if len(keys) == 1:
        once = frame[keys[0]].isna() | ~texts(frame[keys[0]]).duplicated()
        checks.append((frame[keys[0]], once, "is there already", "keep one row for each id"))
        frame = frame[[*keys, *frame.columns.drop(keys)]]
    return report.good(table, frame, *checks)


def texts(ids: pd.Series) -> pd.Index:
    """Ids as text, so that 196, 196.0 and "196" are one id."""
    if ids.dtype.kind == "f" and ((ids.dropna() % 1 == 0) & (ids.dropna().abs() < 2**53)).all():
        ids = ids.astype("Int64")
    return pd.Index(ids.astype("str"))


def nearest(word: str, choices: Sequence[str], n: int = 3) -> list[str]:
    """The n choices spelt most like the word, however unlike: something is always offered."""
    return difflib.get_close_matches(word, choices, n, cutoff=0.0)


def seconds(column: pd.Series, name: str = "") -> np.ndarray:
    """(n,) float64 UTC seconds of numbers, datetimes and ISO 8601 texts; NaN where a cell is none of them.

    name: what to call the column in an InputError where it has cells and none is a time.
    """
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
