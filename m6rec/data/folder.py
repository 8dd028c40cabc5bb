"""A folder of one's own: items, users and interactions as CSV, Parquet or RecBole's files, with media beside them."""

from __future__ import annotations

import csv
import io
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from m6rec.data.features import KINDS
from m6rec.data.media import Media
from m6rec.data.problems import ROW, Problems
from m6rec.errors import InputError

RECBOLE = {"items": "item", "users": "user", "interactions": "inter"}  # table -> ending of RecBole's file
IDS = ("item_id", "user_id")
AS_WRITTEN = dict.fromkeys((*IDS, *(f"{key}:token" for key in IDS), "title", "text", *KINDS), str)  # 007 is not 7


class Folder(NamedTuple):
    """The raw tables of a folder; None where one is not there (users) or could not be read."""

    items: pd.DataFrame | None
    users: pd.DataFrame | None
    interactions: pd.DataFrame | None
    media: Media | None


def read(folder: str | Path, problems: Problems) -> Folder:
    """The tables of a folder and the media that its items name: in media.zip, in media/ or in the folder itself.

    items.csv or .parquet or *.item, users.… or *.user (optional), interactions.… or *.inter.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give one that holds items.csv and interactions.csv.")
    tables = {}
    for table in RECBOLE:
        path = problems.attempt(table, _find, folder, table)
        if path:
            problems.files[table] = path.name
            tables[table] = problems.attempt(table, _load, path, table, problems)
    media = problems.attempt("media", _media, folder, tables.get("items"))
    return Folder(*(tables.get(table) for table in RECBOLE), media)


def _find(folder: Path, table: str) -> Path | None:
    ending = RECBOLE[table]
    found = [path for path in (folder / f"{table}.csv", folder / f"{table}.parquet") if path.is_file()]
    found += sorted(path for path in folder.glob(f"*.{ending}") if path.is_file())
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise InputError(f"{table} are there {len(found)} times in {folder} ({names}); keep one file.")
    if not found and table != "users":
        raise InputError(f"{table} are not in {folder}; add {table}.csv, {table}.parquet or a RecBole file *.{ending}.")
    return found[0] if found else None


def _load(path: Path, table: str, problems: Problems) -> pd.DataFrame:
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.suffix == ".csv":
            return _text(path, table, problems, sep=",")
        return _recbole(_text(path, table, problems, sep="\t", quoting=csv.QUOTE_NONE))
    except pd.errors.EmptyDataError:
        raise InputError(f"{path.name} is empty; give it a header and rows.") from None
    except UnicodeDecodeError:
        raise InputError(f"{path.name} is no UTF-8 text; save it as UTF-8.") from None
    except (OSError, ValueError) as error:  # Arrow's and the parser's errors are among these
        if isinstance(error, InputError):
            raise
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise InputError(f"{path.name} cannot be read ({reason}); save it again.") from None


def _text(path: Path, table: str, problems: Problems, sep: str, quoting: int = csv.QUOTE_MINIMAL) -> pd.DataFrame:
    """A table in text. Rows with too many fields are problems of theirs; what is missing at a row's end is empty."""
    options = dict(dtype=AS_WRITTEN, keep_default_na=False, na_values=[""], low_memory=False, index_col=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # the first row has too many
            return _ids(pd.read_csv(path, sep=sep, quoting=quoting, **options))
    except (pd.errors.ParserError, pd.errors.ParserWarning):
        header, rows = _rows(path, sep, quoting)
    good = []
    for i, row in enumerate(rows):
        if any(row[len(header) :]):
            problem = f"has {len(row)} fields under a header of {len(header)}"
            problems.add(table, i, "", problem, "put a text that holds the separator in quotes")
        else:
            good.append(i)
    whole = io.StringIO()  # read again, so that the rest is understood as in a file without such rows
    csv.writer(whole).writerows([header, *(rows[i][: len(header)] for i in good)])
    whole.seek(0)
    frame = pd.read_csv(whole, **options)
    frame.index = pd.Index(good, name=ROW)
    return _ids(frame)


def _rows(path: Path, sep: str, quoting: int) -> tuple[list[str], list[list[str]]]:
    """Header and rows of fields; InputError for a quote that never ends."""
    limit = csv.field_size_limit(2**30)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, *rows = (row for row in csv.reader(file, delimiter=sep, quoting=quoting, strict=True) if row)
    except csv.Error as error:
        raise InputError(f"{path.name} cannot be read ({error}); close every quote.") from None
    finally:
        csv.field_size_limit(limit)
    return header, rows


def _ids(frame: pd.DataFrame) -> pd.DataFrame:
    """Ids that are all plain whole numbers become numbers, as they would be in a frame made by hand."""
    for name in frame.columns.intersection([*IDS, *(f"{key}:token" for key in IDS)]):
        if len(frame) and frame[name].str.fullmatch(r"0|[1-9]\d{0,17}").fillna(False).all():
            frame[name] = frame[name].astype(np.int64)
    return frame


def _recbole(frame: pd.DataFrame) -> pd.DataFrame:
    """RecBole's typed header to plain names; a title, and a text of it and of all that is written in words."""
    kinds = dict(name.partition(":")[::2] for name in frame.columns)
    frame.columns = list(kinds)
    frame = frame.rename(columns={"rating": "value"})
    words = [name for name in frame.columns if kinds.get(name) == "token_seq" and name not in IDS]
    titles = [name for name in words if name.endswith(("title", "name"))]
    if "item_id" in frame.columns and "user_id" not in frame.columns and titles:
        frame = frame.rename(columns={titles[0]: "title"})
        words = ["title", *(name for name in words if name != titles[0])]
        text = frame[words].fillna("").apply(lambda row: " | ".join(filter(None, map(str, row))), axis=1)
        frame = frame.assign(text=text.where(text != ""))
    return frame


def _media(folder: Path, items: pd.DataFrame | None) -> Media | None:
    """The place that holds most of the files that the items name."""
    columns = [] if items is None else [items[name] for name in KINDS if name in items.columns]
    names = {cell for column in columns for cell in column.dropna() if isinstance(cell, str)}
    places = [path for path in (folder / "media.zip", folder / "media", folder) if path.exists()]
    found = [Media.open(path) for path in places] if names else []
    return max(found, key=lambda media: sum(map(media.holds, names)), default=None)
