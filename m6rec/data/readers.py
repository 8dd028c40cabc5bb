"""From files to raw tables: CSV, Parquet and RecBole's files in a folder, and the public data sets' own formats.

What is malformed is told to a `Report`, which raises it, or keeps it and leaves the row out.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from m6rec.data.features import KINDS
from m6rec.data.lookup import YEAR
from m6rec.data.media import Media, shown
from m6rec.data.schema import ROW, Frames, Report, numbers
from m6rec.errors import InputError

RECBOLE = {"items": "item", "users": "user", "interactions": "inter"}  # table -> ending of RecBole's file
IDS = ("item_id", "user_id")
AS_WRITTEN = dict.fromkeys((*IDS, *(f"{key}:token" for key in IDS), "title", "text", *KINDS), str)  # 007 is not 7
MEMBER = 2 << 30  # bytes of one member of a zip archive
IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".JPG", ".JPEG", ".PNG")
LINE = 16 << 20  # bytes of one JSON line; a longer one is malformed, and is never held as a whole


def shipped(name: str) -> Path:
    """The folder of data that come with m6rec, in a clone or in an installed wheel; InputError if it is in neither."""
    package = Path(__file__).resolve().parents[1]
    for place in (package / f"_{name}", package.parent / "data" / name):
        if place.is_dir():
            return place
    raise InputError(f"{name}'s files are not in {place}; install m6rec anew, or in a clone run `git checkout data`.")


def unpack(archive: Path, members: Sequence[str]) -> list[bytes]:
    """These members of a zip file, in memory: nothing is written, so nothing can land outside its folder.

    A member is given by its name, or by the end of its path ("news.tsv" is also "any/folder/news.tsv").
    InputError for an archive that is damaged, lacks one of the members, or has one that climbs out of its folder.
    """
    try:
        with zipfile.ZipFile(archive) as bundle:
            names = bundle.namelist()
            for name in names:
                path = PurePosixPath(name.replace("\\", "/"))
                if path.is_absolute() or ".." in path.parts or ":" in name:
                    raise InputError(f"{archive} has a member {name!r} that climbs out of its folder; delete the file.")
            ends = [next((n for n in names if f"/{n}".endswith(f"/{member}")), member) for member in members]
            for info in map(bundle.getinfo, ends):
                if info.file_size > MEMBER:
                    raise InputError(f"{archive} has a member {info.filename!r} above 2 GB; delete the file.")
            return [bundle.read(name) for name in ends]
    except (KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{archive} is damaged ({error.args[0]}); delete it and load again.") from None


# ------------------------------------------------------------------------------------------------- text and folders


def read_csv(
    source: Path | bytes,
    table: str,
    report: Report,
    *,
    file: str = "",
    sep: str = ",",
    names: Sequence[str] | None = None,
    quoting: int = csv.QUOTE_MINIMAL,
    encoding: str = "utf-8",
    errors: str = "strict",
) -> pd.DataFrame:
    """A table of delimited text; `names` where it has no header. Ids that are all whole numbers become numbers.

    A row with too many fields is a problem; what is missing at a row's end is empty.
    """
    file = report.files[table] = file or source.name
    options = dict(dtype=AS_WRITTEN, keep_default_na=False, na_values=[""], low_memory=False, index_col=False)

    def opened() -> io.BufferedIOBase:
        return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")

    try:
        try:
            with opened() as stream, warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)  # the first row has too many fields
                options |= dict(sep=sep, quoting=quoting, encoding=encoding, encoding_errors=errors)
                frame = pd.read_csv(stream, names=names, header=None if names else 0, **options)
        except (pd.errors.ParserError, pd.errors.ParserWarning):
            with io.TextIOWrapper(opened(), encoding, errors, newline="") as stream:
                frame = _without_long_rows(stream, table, report, names, options)
    except pd.errors.EmptyDataError:
        raise InputError(f"{file} is empty; give it a header and rows.") from None
    except UnicodeDecodeError:
        raise InputError(f"{file} is no UTF-8 text; save it as UTF-8.") from None
    except csv.Error as error:
        raise InputError(f"{file} cannot be read ({error}); close every quote.") from None
    for name in frame.columns.intersection([*IDS, *(f"{key}:token" for key in IDS)]):
        if len(frame) and frame[name].str.fullmatch(r"0|[1-9]\d{0,17}").fillna(False).all():
            frame[name] = frame[name].astype(np.int64)
    return frame


def _without_long_rows(stream: io.TextIOBase, table: str, report: Report, names, options: dict) -> pd.DataFrame:
    """The rows that have no more fields than the header; the others are told by their numbers."""
    limit = csv.field_size_limit(2**30)
    try:
        rows = csv.reader(stream, delimiter=options["sep"], quoting=options["quoting"], strict=True)
        rows = [row for row in rows if row]
    finally:
        csv.field_size_limit(limit)
    header = list(names) if names else rows.pop(0)
    good = [i for i, row in enumerate(rows) if not any(row[len(header) :])]
    for i in sorted({*range(len(rows))} - {*good}):
        problem = f"has {len(rows[i])} fields under a header of {len(header)}"
        report.add(table, i, "", problem, "put a text that holds the separator in quotes")
    text = io.StringIO()  # read again, so that the rest is understood as in a file without such rows
    csv.writer(text).writerows([header, *(rows[i][: len(header)] for i in good)])
    text.seek(0)
    frame = pd.read_csv(text, **options | dict(sep=",", quoting=csv.QUOTE_MINIMAL))
    frame.index = pd.Index(good, name=ROW)
    return frame


def read_folder(folder: str | Path, report: Report) -> Frames:
    """items.csv, .parquet or RecBole's *.item; users.… or *.user (optional); interactions.… or *.inter.

    The media that the items name lie in media.zip, in media/ or in the folder itself.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give one that holds items.csv and interactions.csv.")
    tables = [report.collect(table, _read_table, folder, table, report) for table in RECBOLE]
    return Frames(*tables, report.collect("media", _media, folder, tables[0]))


def _read_table(folder: Path, table: str, report: Report) -> pd.DataFrame | None:
    ending = RECBOLE[table]
    paths = [folder / f"{table}.csv", folder / f"{table}.parquet", *sorted(folder.glob(f"*.{ending}"))]
    paths = [path for path in paths if path.is_file()]
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths)
        raise InputError(f"{table} are there {len(paths)} times in {folder} ({names}); keep one file.")
    if not paths and table != "users":
        raise InputError(f"{table} are not in {folder}; add {table}.csv, {table}.parquet or a RecBole file *.{ending}.")
    for path in paths:
        report.files[table] = path.name
        try:
            if path.suffix == ".parquet":
                return pd.read_parquet(path)
            if path.suffix == ".csv":
                return read_csv(path, table, report)
            return _described(_untyped(read_csv(path, table, report, sep="\t", quoting=csv.QUOTE_NONE)))
        except InputError:
            raise
        except (OSError, ValueError) as error:  # Arrow's and the parser's errors are among these
            reason = " ".join(str(error).split())[:200].rstrip(".")
            raise InputError(f"{path.name} cannot be read ({reason}); save it again.") from None
    return None


def _untyped(frame: pd.DataFrame) -> pd.DataFrame:
    """RecBole's typed header, such as age:token, to plain names; `attrs` keeps which columns are texts."""
    types = dict(name.partition(":")[::2] for name in frame.columns)
    frame.columns = ["value" if name == "rating" else name for name in types]
    frame.attrs["texts"] = [name for name, kind in types.items() if kind == "token_seq" and name not in IDS]
    return frame


def _described(frame: pd.DataFrame) -> pd.DataFrame:
    """RecBole's items with a title, and a text of it and of all that is written in words."""
    words = frame.attrs.pop("texts")
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


# -------------------------------------------------------------------------------------------------- public data sets
# fmt: off
GENRES = ("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
          "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western")
# What the numbers 0…20 of ml-1m's users.dat mean, from its README.
OCCUPATIONS = ("other", "educator", "artist", "clerical", "student", "customer service", "doctor", "executive",
               "farmer", "homemaker", "K-12 student", "lawyer", "programmer", "retired", "sales", "scientist",
               "self-employed", "technician", "craftsman", "unemployed", "writer")
# fmt: on
PROFILE = ("age", "gender", "occupation")
RATING = ("user_id", "item_id", "value", "timestamp")


def _movielens(archive: Path, report: Report, encoding: str, members: dict[str, tuple[str, Sequence[str] | None]]):
    """The items, users and ratings in an archive; members: name -> separator and, without a header, columns."""
    tables = []
    for table, (name, (sep, columns)), data in zip(
        RECBOLE, members.items(), unpack(archive, list(members)), strict=True
    ):
        if len(sep) > 1:  # CSV parsers take one character
            data, sep = data.replace(sep.encode(), b"\x1f"), "\x1f"
        options = dict(sep=sep, names=columns, encoding=encoding, quoting=csv.QUOTE_NONE)
        tables.append(read_csv(data, table, report, file=Path(name).name, **options))
    return tables


def _films(items: pd.DataFrame, users: pd.DataFrame, ratings: pd.DataFrame) -> Frames:
    """One shape for all of MovieLens. text: title without year | genres | year. A film without a year has 0."""
    rows = []
    for item_id, raw_title, genres in items[["item_id", "title", "genres"]].fillna("").itertuples(index=False):
        title = " ".join(raw_title.split())
        bare, year, *_ = [*YEAR.split(title), "0"]
        rows.append((item_id, title, " | ".join([bare, genres] + [year] * (year != "0")), genres, int(year)))
    films = pd.DataFrame(rows, columns=["item_id", "title", "text", "genres", "year"], index=items.index)
    ratings = ratings[["user_id", "item_id", "timestamp", "value"]].assign(action="rate")
    return Frames(films, users[["user_id", "age", "gender", "occupation"]], ratings)


def ml_100k_official(folder: Path, report: Report) -> Frames:
    """GroupLens' ml-100k.zip: u.item (Latin-1, a flag for each genre), u.user, u.data."""
    films = ("item_id", "title", "released", "video", "address", *GENRES)
    people = ("user_id", "age", "gender", "occupation", "zip")
    members = {"ml-100k/u.item": ("|", films), "ml-100k/u.user": ("|", people), "ml-100k/u.data": ("\t", RATING)}
    items, users, ratings = _movielens(folder / "ml-100k.zip", report, "latin-1", members)
    flags = items[list(GENRES)].to_numpy(dtype=bool)
    items["genres"] = [" ".join(genre for genre, on in zip(GENRES, row, strict=True) if on) for row in flags]
    return _films(items, users, ratings)


def ml_100k_recbole(folder: Path, report: Report) -> Frames:
    """RecBole's copy in its wheel: the same rows in the same order, with the year in a column of its own."""
    members = {f"recbole/dataset_example/ml-100k/ml-100k.{end}": ("\t", None) for end in RECBOLE.values()}
    archive = folder / "recbole-1.2.1-py3-none-any.whl"
    items, users, ratings = map(_untyped, _movielens(archive, report, "utf-8", members))
    # There, item 1412, "… (1995) (V)", has "V" for a year, and item 267, "unknown", is misspelt.
    titles = items["movie_title"] + " (" + items["release_year"].astype("str") + ")"
    items = items.assign(title=titles.replace("unkonwn (unkonwn)", "unknown"), genres=items["class"])
    return _films(items, users, ratings)


def ml_1m(folder: Path, report: Report) -> Frames:
    """GroupLens' ml-1m.zip: movies.dat, users.dat and ratings.dat, fields parted by "::", Latin-1.

    `age` is the lowest age of a range (1, 18, 25, 35, 45, 50, 56), `occupation` its name.
    """
    members = {
        "movies.dat": ("::", ("item_id", "title", "genres")),
        "users.dat": ("::", ("user_id", "gender", "age", "occupation", "zip")),
        "ratings.dat": ("::", RATING),
    }
    items, users, ratings = _movielens(folder / "ml-1m.zip", report, "latin-1", members)
    users["occupation"] = users["occupation"].astype("str").map({str(i): name for i, name in enumerate(OCCUPATIONS)})
    items["genres"] = items["genres"].str.replace("|", " ", regex=False)
    return _films(items, users, ratings)


def amazon_2014(folder: Path, report: Report, category: str) -> Frames:
    """S3-Rec's files of Amazon's reviews of 2014, numbers only. category: their stem, such as "Beauty"."""
    attributes = folder / f"{category}_item2attributes.json"
    return sequences(folder / f"{category}.txt", report, attributes, f"{category.replace('_', ' ')} product")


def sequences(path: Path, report: Report, attributes: Path | None = None, noun: str = "item") -> Frames:
    """A text file with a user number and item numbers, in time order, on each line, parted by spaces.

    attributes: a JSON object of item number -> list of attribute numbers, which become the items' texts. noun: what an
    item is called in its title.
    """
    report.files["interactions"] = path.name
    pairs = []
    try:
        with path.open(errors="replace") as file:
            for row, line in enumerate(file):
                fields = line.split()
                if len(fields) > 1 and all(field.isascii() and field.isdigit() for field in fields):
                    pairs += [(int(fields[0]), int(item)) for item in fields[1:]]
                else:
                    problem = f"is no user number with item numbers behind it: {shown(line.strip())}"
                    report.add("interactions", row, "", problem, "mend it or drop it")
        lists = json.loads(attributes.read_text()) if attributes else {}
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}): name a file that is there.") from None
    except ValueError as error:
        raise InputError(f"{attributes} is no JSON ({error}); mend it, or delete it and load again.") from None
    if not pairs:
        raise InputError(f"{path.name} needs lines of a user number and item numbers, parted by spaces, and has none.")
    if not isinstance(lists, dict) or not all(isinstance(numbers, list) for numbers in lists.values()):
        raise InputError(f"{attributes} needs one object of item number -> list of attribute numbers; mend it.")
    interactions = pd.DataFrame(pairs, columns=["user_id", "item_id"]).assign(action="review")
    ids = sorted(interactions["item_id"].unique())
    items = pd.DataFrame({"item_id": ids, "title": [f"{noun} {item}" for item in ids]})
    if attributes:
        items["text"] = [" ".join(f"attribute{number}" for number in lists.get(str(item), [])) for item in ids]
    return Frames(items, None, interactions)


def amazon_2023(folder: Path, report: Report, category: str) -> Frames:
    """Reviews and products of one category, as the McAuley Lab publishes them: one JSON object a line, gzipped.

    text: title | features | description | categories. `image_address` is where the main photograph lies; those that
    were saved under the last part of that address into `images/` beside the two files' folders are the items' `image`.
    A product is a `parent_asin`: colours and sizes of one thing are one item. category: such as "All_Beauty".
    """
    path, lists = folder / "meta_categories" / f"meta_{category}.jsonl.gz", ("features", "description", "categories")
    optional = {"title": (str, type(None)), **dict.fromkeys(lists, (list, type(None))), "images": object}
    found = _json_lines(path, "items", report, {"parent_asin": str, **optional})
    ids = found["parent_asin"].replace("", None)
    titles = found["title"].map(lambda title: " ".join((title or "").split())).where(lambda title: title != "", ids)
    texts = [_joined(*row) for row in found[["title", *lists]].itertuples(index=False)]
    items = pd.DataFrame({"item_id": ids, "title": titles, "text": texts})
    items = items.assign(
        text=items["text"].where(items["text"] != "", ids), image_address=found["images"].map(_address)
    )
    stems = [PurePosixPath(address).stem if address else "" for address in items["image_address"].fillna("")]
    path = folder / "review_categories" / f"{category}.jsonl.gz"
    fields = {"user_id": str, "parent_asin": str, "timestamp": int, "rating": (int, float)}
    events = _json_lines(path, "interactions", report, fields).assign(action="review")
    events = _in_seconds(events.rename(columns={"parent_asin": "item_id", "rating": "value"}))
    items, media = _pictured(items, stems, folder / "images")
    return Frames(items, None, events, media)


def _address(images: object) -> str | None:
    """The largest version of the main photograph; the first photograph where none is called main."""
    images = [image for image in images if isinstance(image, dict)] if isinstance(images, list) else []
    for image in sorted(images, key=lambda image: image.get("variant") != "MAIN"):
        for size in ("hi_res", "large", "thumb"):
            if isinstance(image.get(size), str):
                return image[size]
    return None


def microlens(folder: Path, report: Report) -> Frames:
    """MicroLens-100K (Westlake University): short videos with titles and cover pictures, and who commented when.

    Pairs (user,item,timestamp in ms), titles (item,title), and the covers as a folder or zip of <item>.jpg.
    """
    stem, rows, lines = "MicroLens-100k", [], []
    report.files["items"] = f"{stem}_title_en.csv"
    text = (folder / report.files["items"]).read_text("utf-8-sig", errors="replace")
    for row, line in enumerate(text.splitlines()):
        number, comma, title = line.partition(",")  # a title may hold commas without quotes
        title = " ".join(title.strip().strip('"').split())
        if comma and number.strip().isascii() and number.strip().isdigit():
            rows.append((int(number), title or f"Video {int(number)}", title))
            lines.append(row)
        elif row or not comma:  # the first row may be a header
            report.add("items", row, "", "is no item number with a title behind it", "mend it or drop it")
    items = pd.DataFrame(rows, columns=["item_id", "title", "text"], index=pd.Index(lines, name=ROW))
    events = read_csv(folder / f"{stem}_pairs.csv", "interactions", report)
    if not {"user", "item", "timestamp"} <= {*events.columns}:
        raise InputError(f"{stem}_pairs.csv needs the columns user, item, timestamp; delete it and load again.")
    events = _in_seconds(events.rename(columns={"user": "user_id", "item": "item_id"}).assign(action="comment"))
    covers = folder / f"{stem}_covers"
    covers = covers if covers.is_dir() else covers.with_suffix(".zip")
    items, media = _pictured(items, items["item_id"].astype("str"), covers)
    return Frames(items, None, events, media)


def mind(folder: Path, report: Report) -> Frames:
    """MIND-small (Microsoft News): what 50,000 people clicked in one week of November 2019, and before it.

    Events are the clicks among an impression's news (action "click"), and before them the history (action "history"):
    it has an order but no times, and stands at the first day on which clicks were collected. Times are taken as UTC.
    text: title | abstract | category | subcategory.
    """
    columns = {
        "items": ("item_id", "category", "subcategory", "title", "abstract", "address", "entities", "more_entities"),
        "interactions": ("impression", "user_id", "time", "history", "impressions"),
    }
    files, parts = {"items": "news.tsv", "interactions": "behaviors.tsv"}, {"items": [], "interactions": []}
    for archive in ("MINDsmall_train.zip", "MINDsmall_dev.zip"):
        for (table, file), data in zip(files.items(), unpack(folder / archive, [*files.values()]), strict=True):
            options = dict(file=file, sep="\t", names=columns[table], quoting=csv.QUOTE_NONE, errors="replace")
            parts[table].append(read_csv(data, table, report, **options))
    items = pd.concat(parts["items"]).drop_duplicates("item_id")  # both archives hold many of the same news
    shown = items[["title", "abstract", "category", "subcategory"]].astype("str").fillna("")
    items = items.assign(
        title=items["title"].fillna(items["item_id"]), text=[_joined(*row) for row in shown.to_numpy()]
    )
    rows = pd.concat(parts["interactions"]).rename_axis(ROW).astype({"history": "str", "impressions": "str"})
    times = pd.to_datetime(rows["time"], format="%m/%d/%Y %I:%M:%S %p", errors="coerce").astype("datetime64[s]")
    clicked = rows["impressions"].fillna("").str.fullmatch(r"\S+-[01](?: \S+-[01])*")
    fix = "delete the file and load again"
    good = report.cells(times.notna(), "interactions", rows["time"], "is no time such as 11/9/2019 9:05:58 AM", fix)
    good &= report.cells(clicked | ~good, "interactions", rows["impressions"], "is not such as N1-0 N2-1", fix)
    rows = rows.assign(timestamp=times)[good].sort_values("timestamp", kind="stable").astype({"timestamp": "int64"})
    start = int(pd.Timestamp("2019-10-12", tz="UTC").timestamp())
    past = rows.drop_duplicates("user_id").assign(timestamp=start, action="history")
    past["item_id"] = past["history"].str.split()
    clicks = rows.assign(action="click", item_id=rows["impressions"].str.findall(r"(\S+)-1(?!\S)").tolist())
    events = pd.concat([past, clicks]).explode("item_id").dropna(subset="item_id")
    return Frames(
        items[["item_id", "title", "text", "category", "subcategory"]],
        None,
        events[["user_id", "item_id", "timestamp", "action"]],
    )


def _json_lines(path: Path, table: str, report: Report, fields: dict[str, object]) -> pd.DataFrame:
    """The objects of a .jsonl.gz file whose fields are of these types, as rows."""
    report.files[table], rows, lines = path.name, [], []
    try:
        with gzip.open(path, "rb") as file:
            for row, line in enumerate(iter(lambda: file.readline(LINE), b"")):
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError):
                    value = None
                if isinstance(value, dict) and all(isinstance(value.get(name), kind) for name, kind in fields.items()):
                    rows.append([value.get(name) for name in fields])
                    lines.append(row)
                else:
                    problem = f"is no JSON object with {', '.join(fields)} of the right types"
                    report.add(table, row, "", problem, "delete the file and load again")
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path} is damaged ({error}); delete it and load again.") from None
    return pd.DataFrame(rows, columns=[*fields], index=pd.Index(lines, name=ROW), dtype=object)


def _in_seconds(events: pd.DataFrame) -> pd.DataFrame:
    """Events with timestamps in milliseconds, in that order, with timestamps in seconds."""
    return events.assign(timestamp=numbers(events["timestamp"]) / 1000).sort_values("timestamp", kind="stable")


def _joined(*parts: str | Sequence[str] | None) -> str:
    """An item's text: the parts that say something, in one line, separated by " | "."""
    flat = (part if isinstance(part, str) else " ".join(map(str, part or ())) for part in parts)
    return " | ".join(text for text in (" ".join(part.split()) for part in flat) if text)


def _pictured(items: pd.DataFrame, stems: Iterable[str], place: Path) -> tuple[pd.DataFrame, Media | None]:
    """The items with the pictures that a folder or zip archive has under these names; unchanged where it has none."""
    media = Media.open(place) if place.exists() else None
    names = {PurePosixPath(name).stem: name for name in (media.names() if media else ()) if name.endswith(IMAGES)}
    if not names:
        return items, None
    return items.assign(image=pd.Series([names.get(stem) for stem in stems], items.index, object)), media
