"""The public data sets: their terms, official addresses, hashes where published, and how they come into the cache.

`M6REC_HOME` holds the cache; `M6REC_MIRROR` may name a folder with copies (`<source>/<file>`). A file whose SHA-256 is
not published is taken as it first comes; its hash is kept beside it in `<file>.sha256`, and a later change is told.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import platformdirs
import pooch
from filelock import FileLock

from m6rec.cache import whole
from m6rec.data import bazaar, readers
from m6rec.data.dataset import Dataset
from m6rec.data.schema import Frames, Report
from m6rec.errors import InputError

TIMEOUT = 5.0  # seconds without an answer after which a host counts as down


class Route(NamedTuple):
    """Files that together hold the data, and where they are."""

    # The URL of their folder; "pip:<requirement>" for a wheel, "deb:<package>=<version>" for Debian's package, or
    # "hand:<URL>" of a page where a person must agree to the terms, so that they cannot be fetched from here.
    address: str
    files: dict[str, str | None]  # name, with a folder where the address has one -> SHA-256
    read: Callable[[Path, Report], Frames] | None = None


class Source(NamedTuple):
    """A public data set: what one may do with it, and the routes to it, the official one first."""

    terms: str
    routes: tuple[Route, ...]
    megabytes: float | None = None  # what the first route fetches, where that is known


class Unreachable(Exception):
    """A route gave no file; the message says why."""


class Damaged(Unreachable):
    """A route gave a file that is not the one that is known."""


MOVIELENS = "https://files.grouplens.org/datasets/movielens/"
S3_REC = "https://raw.githubusercontent.com/RUCAIBox/CIKM2020-S3Rec/master/data/"
AMAZON_2023 = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw/"
FASHION = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
MICROLENS = "https://recsys.westlake.edu.cn/MicroLens-100k-Dataset/"
MIND = "https://mind201910small.blob.core.windows.net/release/"
RESEARCH = "research use with citation, no redistribution"


def _shipped(terms: str, read: Callable[[Path, Report], Frames]) -> Source:
    return Source(terms, (Route("comes with m6rec", {}, read),), 0)


def _written(name: str) -> Source:
    """Invented headlines or posts, and invented readers: small domains whose texts are read without a download."""
    terms = "written for m6rec, no person, headline or post is real: Apache-2.0"
    return _shipped(terms, lambda _, report: readers.read_folder(readers.shipped("written") / name, report))


def _amazon_2014(category: str, text: str | None = None, attributes: str | None = None, size: float | None = None):
    """Amazon reviews 2014 in S3-Rec's two files."""
    files = {f"{category}.txt": text, f"{category}_item2attributes.json": attributes}
    terms = "Amazon reviews 2014, 5-core, as prepared for S3-Rec: research use, no redistribution"
    return Source(terms, (Route(S3_REC, files, partial(readers.amazon_2014, category=category)),), size)


def _amazon_2023(category: str) -> Source:
    """One category of Amazon reviews 2023: https://amazon-reviews-2023.github.io lists the others."""
    files = {f"review_categories/{category}.jsonl.gz": None, f"meta_categories/meta_{category}.jsonl.gz": None}
    terms = "made for research; its makers say that they cannot give a licence, so no redistribution"
    return Source(terms, (Route(AMAZON_2023, files, partial(readers.amazon_2023, category=category)),))


def _microlens(address: str, covers: str) -> Route:
    files = dict.fromkeys([f"MicroLens-100k_{end}" for end in ("pairs.csv", "title_en.csv", covers)])
    return Route(address, files, readers.microlens)


# fmt: off
ML_100K = {"ml-100k.zip": "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229"}
RECBOLE = {"recbole-1.2.1-py3-none-any.whl": "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"}
ML_1M = {"ml-1m.zip": "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20"}
BEAUTY = ("226cce9c3105299ca0db9615d7d3fb32b3175e90da43100ae352599f0f0107b8",
          "129e40f67486f6877eff0f5318cfa8530ee8ac23d8b0d1de04e1bb7a2ba0b2d4")
GZIPS = {
    "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
DEBIAN = "0.0~git20200523.55506a9-1"
PACKAGE = {f"dataset-fashion-mnist_{DEBIAN}_all.deb":
           "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0"}
SOURCES = {
    "bazaar": _shipped("MIT, CC0 and WordNet's licence: data/README.md", lambda _, report: bazaar.frames()),
    "ml-100k": Source(RESEARCH, (Route(MOVIELENS, ML_100K, readers.ml_100k_official),
                                 Route("pip:recbole==1.2.1", RECBOLE, readers.ml_100k_recbole)), 4.9),
    "ml-1m": Source(RESEARCH, (Route(MOVIELENS, ML_1M, readers.ml_1m),), 5.9),
    "amazon-beauty": _amazon_2014("Beauty", *BEAUTY, 1.4),
    "amazon-sports": _amazon_2014("Sports_and_Outdoors"),
    "amazon-toys": _amazon_2014("Toys_and_Games"),
    "amazon-2023-all-beauty": _amazon_2023("All_Beauty"),  # the smallest; most of its people wrote one review
    "amazon-2023-instruments": _amazon_2023("Musical_Instruments"),  # long enough histories
    "microlens-100k": Source("research use with citation; no changed copy may be offered for download",
                             (_microlens(MICROLENS, "covers.zip"), _microlens(f"hand:{MICROLENS}", "covers")), 700),
    "mind-small": Source("Microsoft Research licence (https://msnews.github.io): research use, no redistribution",
                         (Route(MIND, {"MINDsmall_train.zip": None, "MINDsmall_dev.zip": None}, readers.mind),), 84),
    "written-news": _written("news"),
    "written-posts": _written("posts"),
    "fashion-mnist": Source("MIT licence, Zalando SE", (Route(FASHION, GZIPS),
                                                        Route(f"deb:dataset-fashion-mnist={DEBIAN}", PACKAGE)), 31),
}
# fmt: on


def home() -> Path:
    """The folder of downloads and caches: M6REC_HOME, or the user's cache folder."""
    return Path(os.environ.get("M6REC_HOME") or platformdirs.user_cache_dir("m6rec")).expanduser().absolute()


def load(name: str, *, ties: str = "file", seed: int = 0) -> Dataset:
    """A data set by name: "bazaar", which comes with m6rec, or a public one ("ml-100k"; `describe()` lists them).

    A public one comes from the cache, or is fetched into it first. Its malformed rows are left out, with one warning.

    ties, seed: as in `Dataset.from_frames`. InputError if it is unknown, cannot be had, or is damaged.
    """
    if name not in SOURCES:
        raise InputError(f"data set {name!r} is unknown; use {', '.join(map(repr, SOURCES))}.")
    if name == "fashion-mnist":
        raise InputError("fashion-mnist holds photographs and no events; use m6rec.data.photographs().")
    folder, route = files(name)
    report = Report(strict=False)
    data = Dataset.from_tables(route.read(folder, report), report, name=name, ties=ties, seed=seed)
    report.warn(name)
    return data


def describe() -> pd.DataFrame:
    """The public data sets: name, terms, address of the first route, megabytes to fetch (NaN where not known)."""
    rows = [
        (name, source.terms, source.routes[0].address.removeprefix("hand:"), source.megabytes)
        for name, source in SOURCES.items()
        if source.routes[0].files  # what comes with m6rec has none to fetch
    ]
    return pd.DataFrame(rows, columns=["name", "terms", "address", "megabytes"]).astype({"megabytes": float})


def files(name: str) -> tuple[Path, Route]:
    """The folder of a source's files, fetched into it first if need be, and the route whose files they are."""
    folder = home() / "data" / name
    return folder, _cached(SOURCES[name], folder) or _fetch(name, SOURCES[name], folder)


def _cached(source: Source, folder: Path) -> Route | None:
    """The first route whose files are all in the folder; InputError if one of them is damaged."""
    for route in source.routes:
        if all((folder / file).exists() for file in route.files):
            for file, sha256 in route.files.items():
                _check(folder / file, sha256)
            return route
    return None


def _first_seen(path: Path) -> Path:
    """Where the hash of a file is written down that has no published one, as `sha256sum --check` reads it."""
    return path.with_name(path.name + ".sha256")


def _expected(path: Path, sha256: str | None) -> str | None:
    """The published hash, or the one that the file had when it was first seen."""
    words = _first_seen(path).read_text().split() if not sha256 and _first_seen(path).exists() else []
    return sha256 or (words[0] if words else None)


def _check(path: Path, sha256: str | None) -> None:
    """InputError unless the file has its published hash, or the one that it had when it was first seen."""
    if path.is_dir():
        return  # media: read one by one, and each checked when it is decoded
    actual, expected, seen = pooch.file_hash(path), _expected(path, sha256), _first_seen(path)
    if sha256 and actual != sha256:
        raise InputError(f"{path} is damaged; delete it and load again to fetch it anew.")
    if expected and actual != expected:
        raise InputError(
            f"{path} is not the file that was first seen here; delete it and load again to fetch it anew, "
            f"or delete {seen.name} to take it as it is."
        )
    if not expected:
        with contextlib.suppress(OSError), whole(seen) as new:  # a cache that only others may write to can be read
            new.write_text(f"{actual}  {path.name}\n")


def _fetch(name: str, source: Source, folder: Path) -> Route:
    """The first route that gives all its files, which are then in the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error}); set M6REC_HOME to a folder of your own.") from None
    problems: list[Unreachable] = []
    with FileLock(folder / ".lock"):  # several processes may start on an empty cache
        if cached := _cached(source, folder):
            return cached
        for route in source.routes:
            if sys.stderr.isatty():
                print(f"{name} ({source.terms}): fetching from {route.address}", file=sys.stderr)
            try:
                for file, sha256 in route.files.items():
                    if not (folder / file).exists():
                        _place(route.address, folder, file, sha256)
                    _check(folder / file, sha256)
            except Unreachable as problem:
                problems.append(problem)
                continue
            for problem in problems:
                if isinstance(problem, Damaged):
                    warnings.warn(f"{problem}; used {route.address} instead", stacklevel=4)
            return route
    first = source.routes[0]
    address = first.address.removeprefix("hand:")
    raise InputError(
        f"{name} cannot be had: {'; '.join(map(str, problems))}. Put {' and '.join(first.files)} from {address} "
        f"into {folder}, or set M6REC_MIRROR to a folder that holds {name}/{next(iter(first.files))}."
    )


def _place(address: str, folder: Path, file: str, sha256: str | None) -> None:
    """Fetch one file with pooch, which gives it its name only when it is whole and has the expected hash."""
    expected, pooch.get_logger().level = _expected(folder / file, sha256), 30  # pooch's own notes stay away
    mirror = Path(os.environ.get("M6REC_MIRROR", "")).expanduser() / folder.name / file
    origin = str(mirror) if os.environ.get("M6REC_MIRROR") and mirror.exists() else address
    origin += file if origin.startswith("http") else ""
    registry = pooch.create(folder, "", registry={file: expected}, urls={file: origin}, retry_if_failed=1)
    try:
        registry.fetch(file, downloader=_download)
    except ValueError:
        if sha256:
            raise Damaged(f"{origin} is damaged (its SHA-256 is not {sha256[:12]}…)") from None
        seen = _first_seen(folder / file)
        raise Damaged(f"{origin} has changed since it was first fetched; delete {seen} to take it anew") from None
    except OSError as error:
        raise Unreachable(f"{origin} does not answer ({error})") from None


def _download(origin: str, part: str, registry: pooch.Pooch) -> None:
    """Bring a file from a mirror, a package index, an archive of packages, or the web into `part`."""
    kind, _, what = origin.partition(":")
    [file] = registry.registry
    if kind == "pip":
        options = "--quiet --no-deps --only-binary=:all: --no-input --disable-pip-version-check --retries=1 --dest ."
        _run([sys.executable, "-m", "pip", "download", *options.split(), what], file, part)
    elif kind == "deb":
        if not shutil.which("apt-get"):
            raise Unreachable(f"there is no apt-get here to download {what}")
        _run(["apt-get", "--quiet", "download", what], file, part)
    elif kind == "hand":
        raise Unreachable(f"{file} must be fetched by hand")
    elif kind in ("http", "https"):
        # Some hosts turn Python's own name away; a compressed answer would have another hash.
        headers = {"User-Agent": "m6rec", "Accept-Encoding": "identity"}
        get = pooch.HTTPDownloader(sys.stderr.isatty(), chunk_size=1 << 16, timeout=TIMEOUT, headers=headers)
        try:
            get(origin, part, registry)
        except OSError as error:
            if "IncompleteRead" in str(error):
                raise  # pooch tries once more
            raise Unreachable(f"{origin} does not answer ({error})") from None
    else:
        shutil.copyfile(origin, part)


def _run(command: list[str], file: str, part: str) -> None:
    """Run a downloader in a folder of its own and keep the file that it leaves there."""
    what = " ".join(word for word in command if not word.startswith(("-", "/", ".")))
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
        except subprocess.TimeoutExpired:
            raise Unreachable(f"{what} took more than two minutes") from None
        if not (Path(folder) / file).exists():
            reason = (done.stderr.strip().splitlines() or [f"no {file} came"])[-1]
            raise Unreachable(f"{what} failed ({reason})")
        shutil.move(Path(folder) / file, part)
