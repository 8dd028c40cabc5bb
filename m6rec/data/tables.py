"""Tables that people bring, in one form and checked row by row.

Problems name table, row (from 0, without the header), column and fix."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from m6rec.config import Array, Frame, InputError, did_you_mean
from m6rec.data.features import FILE_MODALITIES, Media, checked, decoded, direction, given, is_vector, shown
from m6rec.data.text import LONGEST

CORE_COLUMNS = {"user", "item", "timestamp", "action", "value"}  # of events; others are request fields
LATEST = 10**11  # UTC seconds of the year 5138: more must be milliseconds
IDS = ("item_id", "user_id")
CATEGORIES = ("genres", "category")
MEANT = {  # columns that people name otherwise
    "items": {
        "title": "name product product_name movie film headline",
        "text": "description",
        "image": "photo picture img image_path",
        "sound": "audio recording sound_path",
    },
    "interactions": {"timestamp": "date time datetime ts created_at", "value": "rating stars score"},
}
AS_WRITTEN = dict.fromkeys((*IDS, "title", "text", *FILE_MODALITIES), str)  # 007 is not 7


class Report:
    """strict: the first problem is raised. Else all are kept, and every file is decoded."""

    def __init__(self, strict: bool = True):
        self.strict, self.rows, self.doubts = strict, [], []

    def add(self, table: str, row: int | None, column: str, problem: str) -> None:
        """row: None for the whole table. problem: what is wrong; the fix."""
        if self.strict:
            raise InputError(f"{table}{'' if row is None else f' row {row},'} column '{column}': {problem}.")
        self.rows.append((table, row, column, *problem.rpartition("; ")[::2]))

    def warn(self, table: str, column: str, problem: str) -> None:
        """What is probably not meant."""
        if self.strict:
            self.doubts.append(f"{table} column '{column}': {problem}.")
        else:
            self.add(table, None, column, problem)

    def tell(self) -> None:
        for doubt in self.doubts:
            warnings.warn(doubt, stacklevel=4)  # 3 is the check of arguments

    def good(self, table: str, frame: Frame, *checks: tuple[pd.Series, Array, str]) -> Frame:
        """The rows that pass all checks: a column, (n,) bool, the problem of the others."""
        good = np.ones(len(frame), bool)
        for column, passed, problem in checks:
            for i in np.flatnonzero(~np.asarray(passed, bool)):
                self.add(table, int(column.index[i]), str(column.name), f"{shown(column.iloc[i])} {problem}")
                good[i] = False
        if not good.any():
            raise InputError(f"{table} has no good row; mend at least one.")
        return frame[good]


def read_folder(folder: str | Path) -> tuple[Frame, Frame | None, Frame, Path | None]:
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give one that holds items.csv and interactions.csv.")
    items, *others = (_read_table(folder, table) for table in ("items", "users", "interactions"))
    names = {name for m in items.columns.intersection(FILE_MODALITIES) for name in items[m] if isinstance(name, str)}
    media = [place for place in (folder / "media.zip", folder / "media", folder) if names and place.exists()]
    return items, *others, max(media, key=lambda place: sum(map(Media(place).holds, names)), default=None)


def _read_table(folder: Path, table: str) -> Frame | None:
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
    items: object, users: object, events: object, media: Media | None, report: Report
) -> tuple[Frame, Frame, Frame, bool]:
    """The good rows, of events with codes for ids; and whether these have times."""
    items = None if items is None else catalogue(items, media, report)
    users = None if users is None else _table(users, "users", ["user_id"], report)
    events = checked_events(events, items, users, report)

    def alone(key):
        return events.loc[~texts(events[key]).duplicated(), [key]]

    users = alone("user_id") if users is None else users
    items = catalogue(alone("item_id"), media, report) if items is None else items
    timed, new = "timestamp" in events.columns, {"timestamp": 0, "action": "event", "value": 1.0}
    new = {name: new[name] for name in new.keys() - {*events.columns}}
    for name, ids in (("user", users["user_id"]), ("item", items["item_id"])):
        new[name] = texts(ids).get_indexer(texts(events[ids.name])).astype(np.int64)
    events = events.assign(**new).drop(columns=["user_id", "item_id"]).astype({"action": "str"})
    events = _front(events, "user", "item", "timestamp", "action", "value")
    return *(table.reset_index(drop=True) for table in (items, users, events)), timed


def catalogue(items: object, media: Media | None, report: Report) -> Frame:
    """The good rows; image and sound as file names or None, several categories as "Crime|Drama"."""
    items, checks = _table(items, "items", ["item_id"], report), []
    written = pd.Series(texts(items["item_id"]), items.index)
    for name, other in (("title", "id"), ("text", "title")):
        if name in items.columns:
            gone = items[name].isna()
            if gone.any():
                report.warn("items", name, f"is missing in {gone.sum():,} rows, which show the {other}; fill it in")
            written = pd.Series(texts(items[name]), items.index).mask(gone, written)
        items[name] = written
        short = written.str.len() <= LONGEST
        checks.append((written.rename(name), short, f"is longer than {LONGEST:,} characters; shorten it"))
    items = _front(report.good("items", items, *checks), "item_id", "title", "text")
    for name in items.columns.intersection(CATEGORIES):
        cells = items[name].map(lambda c: "|".join(map(text, c if pd.api.types.is_list_like(c) else [c])), "ignore")
        items[name] = cells.astype("str")
    for name in items.columns.intersection(FILE_MODALITIES):
        items[name] = _files(items[name], media, report)
    if media and not any(items[name].notna().any() for name in items.columns.intersection(FILE_MODALITIES)):
        report.warn("items", "image", "names no file of the media; name the column of file names image or sound")
    return items


def _files(column: pd.Series, media: Media | None, report: Report) -> pd.Series:
    names = given(column).set_axis(column.index)
    size = next((len(cell) for cell in names.dropna() if is_vector(cell)), 0)
    if media is None and not size and names.notna().any():
        report.add("items", None, column.name, "names files that are nowhere; give media=, or drop the column")
        return names.mask(names.notna(), None)
    for row, name in names.dropna().items():
        try:
            if size:
                direction(name, size)
            names.at[row] = np.asarray(name, np.float32) if size else checked(name)
            if not report.strict and not size:
                decoded(column.name, name, media)
        except InputError as error:
            report.add("items", row, column.name, str(error).rstrip("."))
    return names


def checked_events(events: object, items: Frame | None, users: Frame | None, report: Report) -> Frame:
    events, checks = _table(events, "interactions", ["user_id", "item_id"], report), []
    if taken := {"user", "item"} & set(events.columns):
        raise InputError(f"interactions has a column '{min(taken)}', which m6rec adds as a code; rename it.")
    for table, known, key in (("users", users, "user_id"), ("items", items, "item_id")):
        if known is not None:
            found = texts(known[key]).get_indexer(texts(events[key])) >= 0
            checks.append((events[key], found, f"is not in {table}; add it to {table} or drop the row"))
    clean = {}
    if "timestamp" in events.columns:
        column, times = events["timestamp"], seconds(events["timestamp"])
        finite, clean["timestamp"] = np.isfinite(times), np.floor(times)
        fix = "give UTC seconds or a datetime, or leave the column out if the rows are in order"
        checks.append((column, finite, f"is no time; {fix}"))
        early = ~finite | (np.abs(times) < LATEST)
        checks.append((column, early, "is in milliseconds and others are in seconds; give UTC seconds"))
    if "value" in events.columns:
        clean["value"] = numbers(events["value"])
        good = np.isfinite(clean["value"])
        checks.append((events["value"], good, "is no number; give a number such as a rating"))
    events = report.good("interactions", events.assign(**clean), *checks)
    return events.astype({"timestamp": np.int64} if "timestamp" in clean else {})


def as_frame(values: object, name: str, key: str = "item_id") -> Frame:
    """A table of any library that has `to_pandas` or speaks Arrow, a dict of columns, or a list of dicts with `key`."""
    if isinstance(table := _table_or_not(values, name, key), Frame):
        return table
    some = "a DataFrame of pandas or polars, an Arrow table, a dict of columns or a list of dicts"
    raise InputError(f"{name} is a {type(values).__name__}; give {some}, with {key}.")


def listed(values: object, name: str = "history", key: str = "item_id") -> Frame | list:
    """A table as of `as_frame`, or any sequence as a list. A history has an order, a set has none."""
    values = _table_or_not(values, name, key)
    if isinstance(values, Frame):
        return values
    if pd.api.types.is_list_like(values) and not isinstance(values, set | frozenset):
        return list(values)
    kind = "one text" if isinstance(values, str | bytes) else "no list"
    raise InputError(f"{name}={values!r} is {kind}: give a list of ids or titles, oldest first.")


def _table_or_not(values: object, name: str, key: str) -> object:
    try:
        if hasattr(values, "to_pandas"):  # polars, pyarrow, Hugging Face datasets
            return values.to_pandas()
        if hasattr(values, "__arrow_c_stream__") and not isinstance(values, Frame | pd.Series):
            return Frame.from_arrow(values)
        if isinstance(values, Mapping):  # a matrix is a column of vectors
            return Frame({name: [*c] if getattr(c, "ndim", 1) > 1 else c for name, c in values.items()})
        rows = isinstance(values, list) and values and all(isinstance(row, Mapping) and key in row for row in values)
        return Frame(values) if rows else values
    except Exception as error:  # each library has its own
        raise InputError(f"{name} cannot be read as a table ({error}); give a pandas DataFrame.") from None


def _table(raw: object, table: str, keys: list[str], report: Report) -> Frame:
    """The rows with good ids and texts, each column in `plain` form."""
    rows = as_frame(raw, table, keys[0]).reset_index(drop=True)
    rows.columns = rows.columns.map(str)
    if missing := [key for key in keys if key not in rows.columns]:
        told = " and ".join(f"'{key}'{did_you_mean(key, rows.columns)}" for key in missing)
        raise InputError(f"{table} has no column {told}; rename a column or add it.")
    if not rows.columns.is_unique:
        twice = rows.columns[rows.columns.duplicated()][0]
        raise InputError(f"{table} has two columns '{twice}'; rename one or drop it.")
    if rows.empty:
        raise InputError(f"{table} has no rows; give at least one.")
    rows, checks = _front(rows, *keys), []
    for _, column in rows.items():
        if not isinstance(column.dtype, np.dtype | pd.StringDtype) or column.dtype == object:
            good = [not isinstance(cell, str) or whole(cell) for cell in column]
            checks.append((column, np.array(good), "has half a character; save it as UTF-8 again"))
        if column.name in keys:
            checks.append((column, column.notna(), "is no id; drop the row or give the id"))
        if column.name in (*keys, "timestamp"):
            checks.append((column, exact(column), "is a rounded number; give integers, float64 or text"))
    rows = report.good(table, rows, *checks)
    if len(keys) == 1:
        once = ~texts(rows[keys[0]]).duplicated()
        rows = report.good(table, rows, (rows[keys[0]], once, "is there already; keep one row for each id"))
    rows = Frame({name: _ids(column) if name in keys else plain(column) for name, column in rows.items()})
    for name, others in MEANT.get(table, {}).items():
        for column in rows.columns if name not in rows.columns else ():
            if column.lower() in (name, *others.split()):
                report.warn(table, column, f"is not read as the {name}; rename it '{name}' if it is that")
    for name in rows.columns.difference([*IDS, *CORE_COLUMNS]) if table != "items" else ():
        if distinct(rows[name]):
            fix = "rename it if it is the timestamp, declare its type (Config.columns), or drop it"
            report.warn(table, name, f"is another text in every row, so that no model reads it; {fix}")
    return rows


def whole(text: str) -> bool:
    """False for half of an emoji, a lone surrogate."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def distinct(column: pd.Series) -> bool:
    """Whether 20 or more texts all differ, as ids and dates do."""
    column = column.iloc[:0] if column.dtype.kind in "biufM" else column.dropna()
    return len(column) >= 20 and texts(column.head(20)).is_unique and texts(column).is_unique


def exact(column: pd.Series) -> Array:
    """(n,) bool: False where a float is infinite, or too large for its precision to tell integers apart."""
    if column.dtype.kind != "f":
        return np.ones(len(column), bool)
    limit = {2: 2.0**11, 4: 2.0**24}.get(column.dtype.itemsize, 2.0**53 if column.name in IDS else np.inf)
    return ~(column.abs().to_numpy(float, na_value=0) >= limit)


def plain(column: pd.Series) -> pd.Series:
    """As NumPy's numbers, datetimes or strings."""
    if column.dtype == "str" or (isinstance(column.dtype, np.dtype) and column.dtype != object):
        return column
    cells = column.astype(object)
    return pd.Series(cells.mask(cells.isna(), None).tolist(), column.index, name=column.name)


def _ids(column: pd.Series) -> pd.Series:
    """Integers where a merge made floats, text where a file has bytes."""
    column = plain(column)
    if column.dtype.kind == "f" and (column % 1 == 0).all():
        return column.astype(np.int64)
    return column.map(lambda raw: text(raw) if isinstance(raw, bytes) else raw) if column.dtype == object else column


def _front(frame: Frame, *columns: str) -> Frame:
    return frame[[*columns, *frame.columns.drop([*columns])]]


def texts(ids: pd.Series) -> pd.Index:
    """Ids as text, see `text`."""
    quick = ids.dtype == "str" or ids.dtype.kind in "iu"
    return pd.Index(ids.astype("str") if quick else [text(raw) for raw in ids], dtype=object)


def text(raw: object) -> str:
    """196, 196.0, tensor(196), b"196" and "196" are one id. InputError for half a character."""
    raw = raw.item() if isinstance(raw, torch.Tensor) and raw.ndim == 0 else raw
    if isinstance(raw, bytes):
        return raw.decode(errors="backslashreplace")
    if isinstance(raw, str) and not whole(raw):
        raise InputError(f"{raw!r} has half a character: give it as UTF-8.")
    return str(int(raw) if isinstance(raw, float | np.floating) and raw.is_integer() else raw)


def seconds(column: pd.Series, name: str = "") -> Array:
    """(n,) float64 UTC seconds of numbers, datetimes and ISO 8601 texts, else NaN; name: InputError where all are.

    If all numbers are like 20240131, or 202401311259, they are dates. Those from LATEST on are milli-, micro- or
    nanoseconds. Without a zone: UTC."""
    precise, dtype, column, form = exact(column), column.dtype, plain(column), "ISO8601"
    out = np.full(len(column), np.nan) if column.dtype.kind == "M" else numbers(column)
    for clock in ("", "%H%M", "%H%M%S"):
        years = out[np.isfinite(out)] // 10 ** (4 + len(clock))
        if len(years) and years.min() >= 1900 and years.max() <= 2100:
            column, form = pd.Series([f"{number:.0f}" for number in out], dtype="str"), f"%Y%m%d{clock}"
            out[:] = np.nan
    rest = np.isnan(out)
    for _ in range(3):
        if len(large := np.abs(out[np.isfinite(out) & (out != 0)])) and large.min() >= LATEST:
            out /= 1000
    dates = column[rest].astype("str") if column.dtype == object else column[rest]
    dates = pd.to_datetime(dates, format=form, utc=True, errors="coerce")
    times = pd.DatetimeIndex(dates).as_unit("us")
    out[rest] = np.where(times.isna(), np.nan, times.asi8 / 1e6)
    if name and np.isnan(out).all() and column.notna().any():
        raise InputError(f"{name} is no time: give UTC seconds, a datetime, or a text such as 2025-03-01 21:00.")
    if name and not precise.all():
        raise InputError(f"{name} is rounded in its type {dtype}: give integers or float64.")
    if name and (np.abs(out) >= LATEST).any():
        raise InputError(f"{name} mixes seconds and milliseconds: give UTC seconds.")
    return out


def numbers(column: pd.Series) -> Array:
    """(n,) float64, NaN where a cell is no number."""
    if column.dtype == object:
        column = column.mask(column.map(pd.api.types.is_list_like), None)
    return pd.to_numeric(column, errors="coerce").to_numpy(dtype=float, na_value=np.nan).copy()
