"""The public data sets, whose terms, addresses and hashes are in `sources.toml`.

`M6REC_HOME` holds the cache; `M6REC_MIRROR` may name a folder with copies (`<source>/<file>`)."""

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pandas as pd
import pooch

from m6rec.cache import writing
from m6rec.config import Frame, InputError, choose, typed
from m6rec.data.dataset import YEAR, Dataset

TIMEOUT = 5.0  # seconds
PIP = "pip download --quiet --no-deps --only-binary=:all: --no-input --disable-pip-version-check --retries=1"


def movielens(folder: Path, archives: dict[str, list], occupations: tuple[str, ...] = ()) -> tuple[Frame, ...]:
    """text: title without year | genres | year. A film without a year has 0.

    archives: file -> encoding, and name, separator and header of each table; the first that is there is read.
    occupations: of the numbers of ml-1m; its `age` is the lowest of a range."""
    archive = next(name for name in archives if (folder / name).exists())
    encoding, *members = archives[archive]
    options = dict(encoding=encoding, engine="python", quoting=3, keep_default_na=False, na_values="")  # 3: no quotes
    options["header"] = 0 if "utf" in encoding else None
    with zipfile.ZipFile(folder / archive) as bundle:
        items, users, ratings = (
            pd.read_csv(bundle.open(name), sep=sep, names=names.split(), **options) for name, sep, names in members
        )
    if "year" in items:  # RecBole's copy of ml-100k has the same rows in the same order
        # Item 1412, "… (1995) (V)", has "V" for a year there, and item 267, "unknown", is misspelt.
        titles = items["title"] + " (" + items["year"].astype("str") + ")"
        items["title"] = titles.replace("unkonwn (unkonwn)", "unknown")
    elif "genres" not in items:
        flags = items.iloc[:, 5:]
        items["genres"] = [" ".join(flags.columns[row]) for row in flags.to_numpy(dtype=bool)]
    if occupations:
        users["occupation"] = users["occupation"].map(dict(enumerate(occupations)))
    title = items["title"].str.split().str.join(" ")
    genres, year = items["genres"].str.replace("|", " ", regex=False), title.str.extract(YEAR, expand=False)
    text = title.str.replace(f"{YEAR.pattern}.*", "", regex=True) + " | " + genres + (" | " + year).fillna("")
    films = {"title": title, "text": text, "genres": genres, "year": year.fillna("0").astype("int64")}
    ratings = ratings[["user_id", "item_id", "timestamp", "value"]].assign(action="rate")
    return items[["item_id"]].assign(**films), users[["user_id", "age", "gender", "occupation"]], ratings


def sequences(folder: Path, file: str, attributes: str, noun: str) -> tuple[Frame, ...]:
    """Lines of a user's number, then items' in time order, as S3-Rec has Amazon 2014 and Last.fm.

    attributes: a JSON file of item -> attribute numbers, which become texts. noun: begins the titles."""
    rows = [list(map(int, line.split())) for line in (folder / file).read_text().splitlines()]
    pairs = [(user, item, "review") for user, *items in rows for item in items]
    events = Frame(pairs, columns=["user_id", "item_id", "action"])
    items = Frame({"item_id": sorted(events["item_id"].unique())})
    lists, names = json.loads((folder / attributes).read_bytes()), items["item_id"].astype("str")
    texts = [" ".join(f"attribute{number}" for number in lists.get(name, [])) for name in names]
    return items.assign(title=f"{noun} " + names, text=texts), None, events


def mind(folder: Path, archives: list[str], news: str, behaviors: str) -> tuple[Frame, ...]:
    """Microsoft News: title | category | subcategory, and the clicked news of each impression, times taken as UTC.

    Before them each user's first history (action "history"), in order, without times: MIND's first day."""
    tables, options = [], dict(sep="\t", quoting=3, keep_default_na=False, encoding="utf-8")
    for table, names in (("news.tsv", news), ("behaviors.tsv", behaviors)):
        parts = []
        for archive in archives:
            with zipfile.ZipFile(folder / archive) as bundle:
                member = next(name for name in bundle.namelist() if name.endswith(table))
                parts.append(pd.read_csv(bundle.open(member), names=names.split(), **options))
        tables.append(pd.concat(parts))
    items, rows = tables[0].drop_duplicates("item_id"), tables[1]  # both archives hold most of the news
    items["text"] = items[["title", "category", "subcategory"]].agg(" | ".join, axis=1)
    rows["timestamp"] = pd.to_datetime(rows["time"], format="%m/%d/%Y %I:%M:%S %p")
    first = rows.sort_values("timestamp", kind="stable").drop_duplicates("user_id")
    past = first.assign(item_id=first["history"].str.split(), timestamp=pd.Timestamp("2019-10-12"), action="history")
    clicks = rows.assign(item_id=rows["impressions"].str.findall(r"(\S+)-1(?!\S)"), action="click")
    events = pd.concat([past, clicks]).explode("item_id").dropna(subset="item_id")
    items = items[["item_id", "title", "text", "category", "subcategory"]]
    return items, None, events[["user_id", "item_id", "timestamp", "action"]]


SOURCES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
READERS = {"movielens": movielens, "sequences": sequences, "mind": mind}  # -> items, users, interactions


def home() -> Path:
    folder = Path(os.environ.get("M6REC_HOME") or pooch.os_cache("m6rec"))
    try:
        return folder.expanduser().absolute()
    except (RuntimeError, OSError) as error:  # a user without a home, a working directory that is gone
        raise InputError(f"{folder} cannot be found ({error}): set M6REC_HOME to an absolute path.") from None


def shipped(name: str) -> Path:
    """Data that come with m6rec, in a clone or a wheel."""
    package = Path(__file__).resolve().parents[1]
    for place in (package / f"_{name}", package.parent / "data" / name):
        if place.is_dir():
            return place
    raise InputError(f"{name}'s files are not in {place}; install m6rec anew, or in a clone run `git checkout data`.")


@typed
def load(name: str | Path) -> Dataset:
    """A data set: "bazaar", which comes with m6rec, a public one such as "ml-100k", fetched unless in the cache, or a
    folder of one's own: see `Dataset.from_folder`. InputError if it is unknown or cannot be had."""
    if name not in SOURCES and os.path.isdir(name):
        return Dataset.from_folder(name)
    choose("data set or folder", str(name), SOURCES)
    source = SOURCES[name]
    if "shipped" in source:
        return Dataset.from_folder(shipped(source["shipped"]), name=name)
    folder = files(name)
    try:
        tables = READERS[source["reader"]](folder, **source["options"])
    except Exception as error:  # a damaged archive fails in many ways
        raise InputError(f"{folder} cannot be read ({error}): delete it, and load {name} again.") from error
    return Dataset.from_frames(*tables, name=name)


def files(name: str) -> Path:
    """The folder of a source's files, checked, by the first route that has them all; InputError if none does.

    What is missing or damaged is fetched. A file gets its name with its hash alone."""
    source, folder, problems = SOURCES[name], home() / "data" / name, []
    mirror = Path(os.environ.get("M6REC_MIRROR") or folder.parent).expanduser() / name
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        here = {path.name for path in folder.iterdir()}
    pooch.get_logger().setLevel("WARNING")
    for route in sorted(source["routes"], key=lambda route: not route["files"].keys() <= here):
        try:
            for file, sha256 in route["files"].items():
                if sys.stderr.isatty() and file not in here:
                    print(f"{name} ({source['terms']}): fetching {file} from {route['address']}", file=sys.stderr)
                url = route["address"] + file * route["address"].startswith("http")
                origin = str(mirror / file) if mirror != folder and (mirror / file).exists() else url
                own = {"registry": {file: sha256 or None}, "urls": {file: origin}}
                pooch.create(folder, "", **own, retry_if_failed=1).fetch(file, downloader=_download)
            return folder
        except ValueError:
            problems.append(f"{origin} is damaged (its SHA-256 is not {sha256[:12]}…)")
        except (OSError, subprocess.TimeoutExpired) as error:
            if re.search(f"No space|quota|Read-only|denied: '{re.escape(str(folder))}", str(error)):
                with writing(folder):
                    raise
            reason = str(getattr(error.args[0], "reason", error) if error.args else error)
            problems.append(f"{origin} does not answer ({reason.rpartition('): ')[2]})")
    first, address = list(source["routes"][0]["files"]), source["routes"][0]["address"]
    raise InputError(
        f"{name} cannot be had: {'; '.join(problems)}. Put {' and '.join(first)} from {address} into {folder}, or set "
        f"M6REC_MIRROR to a folder that holds {name}/{first[0]}."
    )


def _download(origin: str, part: str, registry: pooch.Pooch) -> None:
    kind, _, requirement = origin.partition(":")
    if kind in ("http", "https"):
        # Some hosts refuse Python's name; a compressed answer has another hash.
        headers = {"User-Agent": "m6rec", "Accept-Encoding": "identity"}
        pooch.HTTPDownloader(sys.stderr.isatty(), 1 << 16, timeout=TIMEOUT, headers=headers)(origin, part, registry)
    elif kind == "pip":
        folder, command = Path(part).parent, [sys.executable, "-m", *PIP.split(), requirement]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise OSError(f"pip download: {(done.stderr.strip().splitlines() or ['nothing came'])[-1]}")
        (folder / next(iter(registry.registry))).replace(part)
    else:
        Path(part).write_bytes(Path(origin).read_bytes())
