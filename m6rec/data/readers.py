"""From files to raw tables: CSV, Parquet and RecBole's files in a folder, and the public data sets' own formats.

What is malformed in a user's folder is told to a `Report`. The public files are checked by their hashes before.
`sources.toml` says which reader takes which files.
"""

import csv
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from m6rec.data.features import FILE_MODALITIES
from m6rec.data.lookup import YEAR
from m6rec.data.media import Media
from m6rec.data.schema import ROW, Frames, Report
from m6rec.errors import InputError

RECBOLE = {"items": "item", "users": "user", "interactions": "inter"}  # table -> ending of RecBole's file
IDS = ("item_id", "user_id", "item_id:token", "user_id:token")
csv.field_size_limit(16 << 20)  # characters; of 131,072 otherwise, fewer than a text may have


def shipped(name: str) -> Path:
    """The folder of data that come with m6rec, in a clone or in an installed wheel; InputError if it is in neither."""
    package = Path(__file__).resolve().parents[1]
    for place in (package / f"_{name}", package.parent / "data" / name):
        if place.is_dir():
            return place
    raise InputError(f"{name}'s files are not in {place}; install m6rec anew, or in a clone run `git checkout data`.")


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
        return _recbole(read_csv(text, file, table, report, "\t"))
    except InputError:
        raise
    except UnicodeDecodeError:
        raise InputError(f"{file} is no UTF-8 text; save it as UTF-8.") from None
    except (OSError, ValueError) as error:  # Arrow's and the parser's errors are among these
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise InputError(f"{file} cannot be read ({reason}); save it again.") from None


def _recbole(frame: pd.DataFrame) -> pd.DataFrame:
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


# ---------------------------------------------------------------------------------------------- the public data sets


def movielens(folder: Path, archives: dict[str, list], occupations: Sequence[str] = ()) -> Frames:
    """Films, people and ratings. text: title without year | genres | year. A film without a year has 0.

    archives: file -> encoding, and name, separator and header of each table; the first one that is there is read.
    occupations: what the numbers of ml-1m stand for; its `age` is the lowest of a range.
    """
    archive = next(name for name in archives if (folder / name).exists())
    encoding, *members = archives[archive]
    with zipfile.ZipFile(folder / archive) as bundle:
        options = dict(encoding=encoding, engine="python", quoting=csv.QUOTE_NONE, keep_default_na=False, na_values="")
        items, users, ratings = (
            pd.read_csv(bundle.open(name), sep=sep, names=names.split() or None, header=None if names else 0, **options)
            for name, sep, names in members
        )
    if encoding == "utf-8":  # RecBole's copy of ml-100k, the same rows in the same order
        items, users, ratings = map(_recbole, (items, users, ratings))
        # There, item 1412, "… (1995) (V)", has "V" for a year, and item 267, "unknown", is misspelt.
        titles = items["title"] + " (" + items["release_year"].astype("str") + ")"
        items = items.assign(title=titles.replace("unkonwn (unkonwn)", "unknown"), genres=items["class"])
    elif "genres" not in items:  # each has a column
        flags = items.iloc[:, 5:]
        items["genres"] = [" ".join(flags.columns[row]) for row in flags.to_numpy(dtype=bool)]
    if occupations:
        users["occupation"] = users["occupation"].map(dict(enumerate(occupations)))
    title = items["title"].str.split().str.join(" ")
    genres, year = items["genres"].str.replace("|", " ", regex=False), title.str.extract(YEAR, expand=False)
    text = title.str.replace(f"{YEAR.pattern}.*", "", regex=True) + " | " + genres + (" | " + year).fillna("")
    films = {"title": title, "text": text, "genres": genres, "year": year.fillna("0").astype("int64")}
    ratings = ratings[["user_id", "item_id", "timestamp", "value"]].assign(action="rate")
    return Frames(items[["item_id"]].assign(**films), users[["user_id", "age", "gender", "occupation"]], ratings)


def sequences(folder: Path, file: str, attributes: str, noun: str) -> Frames:
    """A line for each user: its number, and item numbers in time order. Amazon 2014 and Last.fm as S3-Rec has them.

    attributes: a JSON file of item number -> list of attribute numbers, the items' texts. noun: begins their titles.
    """
    rows = [list(map(int, line.split())) for line in (folder / file).read_text().splitlines()]
    pairs = [(user, item, "review") for user, *items in rows for item in items]
    events = pd.DataFrame(pairs, columns=["user_id", "item_id", "action"])
    items = pd.DataFrame({"item_id": np.unique(events["item_id"])})
    lists, names = json.loads((folder / attributes).read_bytes()), items["item_id"].astype("str")
    texts = [" ".join(f"attribute{number}" for number in lists.get(name, [])) for name in names]
    return Frames(items.assign(title=f"{noun} " + names, text=texts), None, events)
