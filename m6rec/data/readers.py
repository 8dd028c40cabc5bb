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

from m6rec.data.features import FILE_MODALITIES
from m6rec.data.lookup import YEAR
from m6rec.data.media import Media
from m6rec.data.schema import ROW, Frames, Report, numbers
from m6rec.errors import InputError

RECBOLE = {"items": "item", "users": "user", "interactions": "inter"}  # table -> ending of RecBole's file
IDS = ["item_id", "user_id", "item_id:token", "user_id:token"]
AS_WRITTEN = dict.fromkeys((*IDS, "title", "text", *FILE_MODALITIES), str)  # 007 is not 7
MEMBER = 2 << 30  # bytes of one member of a zip archive
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
            paths = [next((n for n in names if f"/{n}".endswith(f"/{member}")), member) for member in members]
            for info in map(bundle.getinfo, paths):
                if info.file_size > MEMBER:
                    raise InputError(f"{archive} has a member {info.filename!r} above 2 GB; delete the file.")
            return [bundle.read(path) for path in paths]
    except (KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{archive} is damaged ({error.args[0]}); delete it and load again.") from None


def read_csv(
    source: Path | bytes, table: str, report: Report, *, file: str = "", sep: str = ",", names: Sequence[str] = (),
    quoting: int = csv.QUOTE_MINIMAL, encoding: str = "utf-8-sig", errors: str = "strict",
) -> pd.DataFrame:  # fmt: skip
    """A table of delimited text; `names` where it has no header. Ids that are all whole numbers become numbers.

    A row with too many fields is a problem; what is missing at a row's end is empty.
    """
    file = report.files[table] = file or source.name
    options = dict(dtype=AS_WRITTEN, keep_default_na=False, na_values=[""], low_memory=False, index_col=False)

    def text() -> io.TextIOBase:
        raw = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
        return io.TextIOWrapper(raw, encoding, errors, newline="")

    try:
        with text() as stream, warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # the first row has too many fields
            header = dict(names=names, header=None) if names else {}
            frame = pd.read_csv(stream, sep=sep, quoting=quoting, **header, **options)
    except pd.errors.EmptyDataError:
        raise InputError(f"{file} is empty; give it a header and rows.") from None
    except UnicodeDecodeError:
        raise InputError(f"{file} is no UTF-8 text; save it as UTF-8.") from None
    except (pd.errors.ParserError, pd.errors.ParserWarning):
        try:
            with text() as stream:
                rows = [row for row in csv.reader(stream, delimiter=sep, quoting=quoting, strict=True) if row]
        except csv.Error as error:
            raise InputError(f"{file} cannot be read ({error}); close every quote.") from None
        header, rows = (names, rows) if names else (rows[0], rows[1:])
        good = [i for i, row in enumerate(rows) if not any(row[len(header) :])]
        for i in sorted({*range(len(rows))} - {*good}):
            problem = f"has {len(rows[i])} fields under a header of {len(header)}"
            report.add(table, i, "", problem, "put a text that holds the separator in quotes")
        stream = io.StringIO()  # read again, so that the rest is understood as in a file without such rows
        csv.writer(stream).writerows([header, *(rows[i][: len(header)] for i in good)])
        stream.seek(0)
        frame = pd.read_csv(stream, **options).set_index(pd.Index(good, name=ROW))
    for name in frame.columns.intersection(IDS):
        if len(frame) and frame[name].str.fullmatch(r"0|[1-9]\d{0,17}").fillna(False).all():
            frame[name] = frame[name].astype(np.int64)
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
    if not paths and table == "users":
        return None
    if not paths:
        raise InputError(f"{table} are not in {folder}; add {table}.csv, {table}.parquet or a RecBole file *.{ending}.")
    report.files[table] = paths[0].name
    try:
        if paths[0].suffix == ".parquet":
            return pd.read_parquet(paths[0])
        if paths[0].suffix == ".csv":
            return read_csv(paths[0], table, report)
        return _recbole(read_csv(paths[0], table, report, sep="\t", quoting=csv.QUOTE_NONE))
    except InputError:
        raise
    except (OSError, ValueError) as error:  # Arrow's and the parser's errors are among these
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise InputError(f"{paths[0].name} cannot be read ({reason}); save it again.") from None


def _recbole(frame: pd.DataFrame) -> pd.DataFrame:
    """RecBole's typed header to plain names; a title, and a text of it and of all that is written in words."""
    types = dict(name.partition(":")[::2] for name in frame.columns)
    frame.columns = ["value" if name == "rating" else name for name in types]
    words = [name for name, kind in types.items() if kind == "token_seq" and name not in IDS]
    titles = [name for name in words if name.endswith(("title", "name"))]
    if "item_id" in frame.columns and "user_id" not in frame.columns and titles:
        words = [titles[0], *(name for name in words if name != titles[0])]
        text = frame[words].fillna("").apply(lambda row: _joined(*map(str, row)), axis=1)
        frame = frame.rename(columns={titles[0]: "title"}).assign(text=text.where(text != ""))
    return frame


def _media(folder: Path, items: pd.DataFrame | None) -> Media | None:
    """The place that holds most of the files that the items name."""
    columns = [] if items is None else [items[name] for name in FILE_MODALITIES if name in items.columns]
    names = {cell for column in columns for cell in column.dropna() if isinstance(cell, str)}
    places = [path for path in (folder / "media.zip", folder / "media", folder) if path.exists()]
    found = [Media.open(path) for path in places] if names else []
    return max(found, key=lambda media: sum(map(media.holds, names)), default=None)


def bazaar(folder: Path | None, report: Report) -> Frames:
    """Items (with names of files in media.zip), users (age, region) and a year of simulated purchases."""
    folder = shipped("bazaar")
    tables = [pd.read_parquet(folder / f"{table}.parquet") for table in ("items", "users", "events")]
    return Frames(*tables, Media.open(folder / "media.zip"))


def written(folder: Path | None, report: Report, name: str) -> Frames:
    """ "news" or "posts": a small domain whose headlines and readers are invented."""
    return read_folder(shipped("written") / name, report)


# fmt: off
GENRES = ("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
          "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western")
# What the numbers 0…20 of ml-1m's users.dat mean, from its README.
OCCUPATIONS = ("other", "educator", "artist", "clerical", "student", "customer service", "doctor", "executive",
               "farmer", "homemaker", "K-12 student", "lawyer", "programmer", "retired", "sales", "scientist",
               "self-employed", "technician", "craftsman", "unemployed", "writer")
# fmt: on
RATING = ("user_id", "item_id", "value", "timestamp")


def ml_100k(folder: Path, report: Report) -> Frames:
    """GroupLens' ml-100k.zip, or RecBole's copy in its wheel: the same rows in the same order."""
    if (folder / "ml-100k.zip").exists():
        films = ("item_id", "title", "released", "video", "address", *GENRES)
        users = ("user_id", "age", "gender", "occupation", "zip")
        members = {"ml-100k/u.item": ("|", films), "ml-100k/u.user": ("|", users), "ml-100k/u.data": ("\t", RATING)}
        items, users, ratings = _members(folder / "ml-100k.zip", report, members)
        flags = items[list(GENRES)].to_numpy(dtype=bool)
        items["genres"] = [" ".join(genre for genre, on in zip(GENRES, row, strict=True) if on) for row in flags]
        return _movielens(items, users, ratings)
    members = {f"recbole/dataset_example/ml-100k/ml-100k.{end}": ("\t", ()) for end in RECBOLE.values()}
    archive = folder / "recbole-1.2.1-py3-none-any.whl"
    items, users, ratings = map(_recbole, _members(archive, report, members, encoding="utf-8"))
    # There, item 1412, "… (1995) (V)", has "V" for a year, and item 267, "unknown", is misspelt.
    titles = items["title"] + " (" + items["release_year"].astype("str") + ")"
    items = items.assign(title=titles.replace("unkonwn (unkonwn)", "unknown"), genres=items["class"])
    return _movielens(items, users, ratings)


def ml_1m(folder: Path, report: Report) -> Frames:
    """GroupLens' ml-1m.zip. `age` is the lowest age of a range (1, 18, 25, 35, 45, 50, 56)."""
    films, users = ("item_id", "title", "genres"), ("user_id", "gender", "age", "occupation", "zip")
    members = {"movies.dat": ("::", films), "users.dat": ("::", users), "ratings.dat": ("::", RATING)}
    items, users, ratings = _members(folder / "ml-1m.zip", report, members)
    users["occupation"] = users["occupation"].astype("str").map({str(i): name for i, name in enumerate(OCCUPATIONS)})
    items["genres"] = items["genres"].str.replace("|", " ", regex=False)
    return _movielens(items, users, ratings)


def _members(archive: Path, report: Report, members: dict[str, tuple[str, Sequence[str]]], **options):
    """Items, users and interactions in an archive; members: name -> separator and, without a header, columns."""
    options, tables = {"encoding": "latin-1", "quoting": csv.QUOTE_NONE} | options, []
    for table, (name, (sep, names)), data in zip(RECBOLE, members.items(), unpack(archive, [*members]), strict=True):
        if sep == "::":  # CSV parsers take one character
            data, sep = data.replace(b"::", b"\x1f"), "\x1f"
        tables.append(read_csv(data, table, report, file=Path(name).name, sep=sep, names=names, **options))
    return tables


def _movielens(items: pd.DataFrame, users: pd.DataFrame, ratings: pd.DataFrame) -> Frames:
    """text: title without year | genres | year. A film without a year has 0."""
    rows = []
    for item_id, raw_title, genres in items[["item_id", "title", "genres"]].fillna("").itertuples(index=False):
        title = " ".join(raw_title.split())
        bare, year, *_ = [*YEAR.split(title), "0"]
        rows.append((item_id, title, " | ".join([bare, genres] + [year] * (year != "0")), genres, int(year)))
    films = pd.DataFrame(rows, columns=["item_id", "title", "text", "genres", "year"], index=items.index)
    ratings = ratings[["user_id", "item_id", "timestamp", "value"]].assign(action="rate")
    return Frames(films, users[["user_id", "age", "gender", "occupation"]], ratings)


def amazon_2014(folder: Path, report: Report, category: str) -> Frames:
    """S3-Rec's files of Amazon's reviews of 2014, numbers only. category: their stem, such as "Beauty"."""
    attributes = folder / f"{category}_item2attributes.json"
    return sequences(folder / f"{category}.txt", report, attributes, f"{category.replace('_', ' ')} product")


def sequences(path: Path, report: Report, attributes: Path | None = None, noun: str = "item") -> Frames:
    """A text file with a user number and item numbers, in time order, on each line, parted by spaces.

    attributes: a JSON object of item number -> list of attribute numbers, which become the items' texts. noun: what an
    item is called in its title.
    """
    report.files["interactions"], pairs = path.name, []
    try:
        for row, line in enumerate(path.read_text(errors="replace").splitlines()):
            fields = line.split()
            if len(fields) > 1 and all(field.isascii() and field.isdigit() for field in fields):
                pairs += [(int(fields[0]), int(item)) for item in fields[1:]]
            else:
                report.add("interactions", row, "", "is no user number with item numbers behind it", "mend or drop it")
        lists = json.loads(attributes.read_text()) if attributes else {}
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}): name a file that is there.") from None
    except ValueError as error:
        raise InputError(f"{attributes} is no JSON ({error}); mend it, or delete it and load again.") from None
    if not pairs:
        raise InputError(f"{path.name} needs lines of a user number and item numbers, parted by spaces, and has none.")
    if not isinstance(lists, dict) or not all(isinstance(value, list) for value in lists.values()):
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
    were saved under the last part of that address into `images/` are the items' `image`. A product is a `parent_asin`.
    """
    lists = dict.fromkeys(("features", "description", "categories", "images"), (list, type(None)))
    fields = {"parent_asin": str, "title": (str, type(None)), **lists}
    rows = _json_lines(folder / "meta_categories" / f"meta_{category}.jsonl.gz", "items", report, fields)
    items = pd.DataFrame({"item_id": rows["parent_asin"].replace("", None)})
    items["title"] = rows["title"].map(lambda title: _joined(title or "") or None).fillna(items["item_id"])
    texts = [_joined(*row) or None for row in rows[["title", *list(lists)[:3]]].to_numpy()]
    items["text"] = pd.Series(texts, items.index, object).fillna(items["item_id"])
    items["image_address"] = rows["images"].map(_address)
    fields = {"user_id": str, "parent_asin": str, "timestamp": int, "rating": (int, float)}
    events = _json_lines(folder / "review_categories" / f"{category}.jsonl.gz", "interactions", report, fields)
    events = _in_seconds(events.rename(columns={"parent_asin": "item_id", "rating": "value"}).assign(action="review"))
    stems = (PurePosixPath(address).stem for address in items["image_address"].fillna(""))
    return Frames(*_pictured(items, stems, events, folder / "images"))


def _address(images: list | None) -> str | None:
    """The largest version of the main photograph; the first photograph where none is called main."""
    images = [image for image in images or [] if isinstance(image, dict)]
    images = sorted(images, key=lambda image: image.get("variant") != "MAIN")
    sizes = [image.get(size) for image in images for size in ("hi_res", "large", "thumb")]
    return next((size for size in sizes if isinstance(size, str)), None)


def _json_lines(path: Path, table: str, report: Report, fields: dict[str, object]) -> pd.DataFrame:
    """The objects of a .jsonl.gz file whose fields are of these types, as rows."""
    report.files[table], rows = path.name, {}
    try:
        with gzip.open(path, "rb") as file:
            for row, line in enumerate(iter(lambda: file.readline(LINE), b"")):
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError):
                    value = None
                if isinstance(value, dict) and all(isinstance(value.get(name), kind) for name, kind in fields.items()):
                    rows[row] = [value.get(name) for name in fields]
                else:
                    problem = f"is no JSON object with {', '.join(fields)} of the right types"
                    report.add(table, row, "", problem, "delete the file and load again")
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path} is damaged ({error}); delete it and load again.") from None
    return pd.DataFrame([*rows.values()], columns=[*fields], index=pd.Index([*rows], name=ROW), dtype=object)


def microlens(folder: Path, report: Report) -> Frames:
    """MicroLens-100K: short videos with titles (item,title) and covers, and who commented (user,item,timestamp)."""
    file, rows = "MicroLens-100k_title_en.csv", {}
    report.files["items"] = file
    for row, line in enumerate((folder / file).read_text("utf-8-sig", errors="replace").split("\n")):
        number, comma, title = line.partition(",")  # a title may hold commas without quotes
        title = " ".join(title.strip().strip('"').split())
        if comma and number.strip().isascii() and number.strip().isdigit():
            rows[row] = (int(number), title or f"Video {int(number)}", title)
        elif line and (row or not comma):  # the first row may be a header
            report.add("items", row, "", "is no item number with a title behind it", "mend it or drop it")
    items = pd.DataFrame([*rows.values()], [*rows], ["item_id", "title", "text"]).rename_axis(ROW)
    events = read_csv(folder / "MicroLens-100k_pairs.csv", "interactions", report)
    if not {"user", "item", "timestamp"} <= {*events.columns}:
        raise InputError("MicroLens-100k_pairs.csv needs the columns user, item, timestamp; delete it and load again.")
    events = _in_seconds(events.rename(columns={"user": "user_id", "item": "item_id"}).assign(action="comment"))
    return Frames(*_pictured(items, items["item_id"].astype("str"), events, folder / "MicroLens-100k_covers.zip"))


def _in_seconds(events: pd.DataFrame) -> pd.DataFrame:
    """Events with timestamps in milliseconds, in that order, with timestamps in seconds."""
    return events.assign(timestamp=numbers(events["timestamp"]) / 1000).sort_values("timestamp", kind="stable")


def _pictured(items: pd.DataFrame, stems: Iterable[str], events: pd.DataFrame, place: Path):
    """Frames whose items have the pictures with these stems in a folder or zip archive, if any is there."""
    media = Media.open(place) if place.exists() else None
    names = {PurePosixPath(name).stem: name for name in (media.names() if media else ())}
    if not names:
        return items, None, events, None
    return items.assign(image=pd.Series([names.get(s) for s in stems], items.index, object)), None, events, media


def _joined(*parts: str | Sequence[str] | None) -> str:
    """An item's text: the parts that say something, in one line, separated by " | "."""
    flat = (part if isinstance(part, str) else " ".join(map(str, part or ())) for part in parts)
    return " | ".join(text for text in (" ".join(part.split()) for part in flat) if text)


def mind(folder: Path, report: Report) -> Frames:
    """MIND-small (Microsoft News): what 50,000 people clicked in one week of November 2019, and before it.

    Events are the clicks among an impression's news (action "click"), and before them the history (action "history"):
    it has an order but no times, and stands at the first day on which clicks were collected. Times are taken as UTC.
    """
    news = ["item_id", "category", "subcategory", "title", "abstract", "address", "entities", "more_entities"]
    behaviors = ["impression", "user_id", "time", "history", "impressions"]
    tables = {"news.tsv": ("items", news, []), "behaviors.tsv": ("interactions", behaviors, [])}
    for archive in ("MINDsmall_train.zip", "MINDsmall_dev.zip"):
        for (file, (table, names, parts)), data in zip(
            tables.items(), unpack(folder / archive, [*tables]), strict=True
        ):
            options = dict(file=file, sep="\t", names=names, quoting=csv.QUOTE_NONE, errors="replace")
            parts.append(read_csv(data, table, report, **options).astype({names[3]: "str", names[4]: "str"}))
    items = pd.concat(tables["news.tsv"][2]).drop_duplicates("item_id")  # both archives hold many of the same news
    texts = items[["title", "abstract", "category", "subcategory"]].astype("str").fillna("").to_numpy()
    items = items.assign(title=items["title"].fillna(items["item_id"]), text=[_joined(*row) for row in texts])
    rows = pd.concat(tables["behaviors.tsv"][2]).rename_axis(ROW)
    times = pd.to_datetime(rows["time"], format="%m/%d/%Y %I:%M:%S %p", errors="coerce").astype("datetime64[s]")
    clicked, fix = rows["impressions"].fillna("").str.fullmatch(r"\S+-[01](?: \S+-[01])*"), "drop the row"
    good = report.cells(times.notna(), "interactions", rows["time"], "is no time such as 11/9/2019 9:05:58 AM", fix)
    good &= report.cells(clicked | ~good, "interactions", rows["impressions"], "is not such as N1-0 N2-1", fix)
    rows = rows.assign(timestamp=times)[good].sort_values("timestamp", kind="stable").astype({"timestamp": "int64"})
    past = rows.drop_duplicates("user_id").assign(timestamp=1570838400, action="history")  # 2019-10-12
    past["item_id"] = past["history"].str.split()
    clicks = rows.assign(action="click", item_id=rows["impressions"].str.findall(r"(\S+)-1(?!\S)").tolist())
    events = pd.concat([past, clicks]).explode("item_id").dropna(subset="item_id")
    columns = ["item_id", "title", "text", "category", "subcategory"], ["user_id", "item_id", "timestamp", "action"]
    return Frames(items[columns[0]], None, events[columns[1]])
