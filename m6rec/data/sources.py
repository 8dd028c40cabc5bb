"""The registry of public data sets, and how their files come into the cache: checked and whole, or not at all.

Each source has routes in order of preference; a route is a set of files, each with its SHA-256, and the reader that
understands them. `M6REC_HOME` holds the cache; `M6REC_MIRROR` may name a folder with copies (`<source>/<file>`).
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import platformdirs
from filelock import FileLock
from tqdm import tqdm

from m6rec.data import readers
from m6rec.data.dataset import Dataset
from m6rec.errors import InputError

TIMEOUT = 5.0  # seconds without an answer after which a host counts as down


class Route(NamedTuple):
    """Files that together hold the data, and where they are."""

    address: str  # URL of their folder, or "pip:<requirement>" for a wheel from the package index
    files: dict[str, str]  # name -> SHA-256
    read: Callable[[Path], readers.Frames]


class Source(NamedTuple):
    """A public data set: what one may do with it, and the routes to it, the official one first."""

    terms: str
    routes: tuple[Route, ...]


class Unreachable(Exception):
    """A route gave no file; the message says why."""


class Damaged(Unreachable):
    """A route gave a file that is not the one that the registry knows."""


ML_100K = Source(
    "research use with citation, no redistribution",
    (
        Route(
            "https://files.grouplens.org/datasets/movielens/",
            {"ml-100k.zip": "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229"},
            readers.ml_100k_official,
        ),
        Route(
            "pip:recbole==1.2.1",
            {"recbole-1.2.1-py3-none-any.whl": "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"},
            readers.ml_100k_recbole,
        ),
    ),
)
AMAZON_BEAUTY = Source(
    "Amazon reviews 2014, 5-core, as prepared for S3-Rec: research use, no redistribution",
    (
        Route(
            "https://raw.githubusercontent.com/RUCAIBox/CIKM2020-S3Rec/master/data/",
            {
                "Beauty.txt": "226cce9c3105299ca0db9615d7d3fb32b3175e90da43100ae352599f0f0107b8",
                "Beauty_item2attributes.json": "129e40f67486f6877eff0f5318cfa8530ee8ac23d8b0d1de04e1bb7a2ba0b2d4",
            },
            readers.amazon_beauty,
        ),
    ),
)
SOURCES = {"ml-100k": ML_100K, "amazon-beauty": AMAZON_BEAUTY}


def home() -> Path:
    """The folder of downloads and caches: M6REC_HOME, or the user's cache folder."""
    return Path(os.environ.get("M6REC_HOME") or platformdirs.user_cache_dir("m6rec")).expanduser().absolute()


def load(name: str, *, ties: str = "file", seed: int = 0) -> Dataset:
    """A public data set by name ("ml-100k", "amazon-beauty"), from the cache or fetched into it first.

    ties, seed: as in `Dataset.from_frames`. InputError if it is unknown, cannot be had, or is damaged.
    """
    if name not in SOURCES:
        raise InputError(f"data set {name!r} is unknown; use {' or '.join(map(repr, SOURCES))}.")
    folder = home() / "data" / name
    route = _cached(SOURCES[name], folder) or _fetch(name, SOURCES[name], folder)
    return Dataset.from_frames(*route.read(folder), name=name, ties=ties, seed=seed)


def _cached(source: Source, folder: Path) -> Route | None:
    """The first route whose files are all in the folder; InputError if one of them is damaged."""
    for route in source.routes:
        if all((folder / file).exists() for file in route.files):
            for file, sha256 in route.files.items():
                if _sha256(folder / file) != sha256:
                    raise InputError(f"{folder / file} is damaged; delete it and load again to fetch it anew.")
            return route
    return None


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
                        _place(route.address, folder / file, sha256)
            except Unreachable as problem:
                problems.append(problem)
                continue
            for problem in problems:
                if isinstance(problem, Damaged):
                    warnings.warn(f"{problem}; used {route.address} instead", stacklevel=3)
            return route
    first = source.routes[0]
    raise InputError(
        f"{name} cannot be had: {'; '.join(map(str, problems))}. Put {' and '.join(first.files)} from {first.address} "
        f"into {folder}, or set M6REC_MIRROR to a folder that holds {name}/{next(iter(first.files))}."
    )


def _place(address: str, path: Path, sha256: str) -> None:
    """Bring one file by mirror, package index or web to `<path>.part`, check it, and only then give it its name."""
    part = path.with_name(path.name + ".part")
    copy = Path(os.environ.get("M6REC_MIRROR", "")).expanduser() / path.parent.name / path.name
    if os.environ.get("M6REC_MIRROR") and copy.exists():
        origin = str(copy)
        shutil.copyfile(copy, part)
    elif address.startswith("pip:"):
        origin = address
        _pip(address.removeprefix("pip:"), path.name, part)
    else:
        origin = address + path.name
        download(origin, part)
    if _sha256(part) != sha256:
        part.unlink()  # or the next try would resume it
        raise Damaged(f"{origin} is damaged (its SHA-256 is not {sha256[:12]}…)")
    os.replace(part, path)


def _pip(requirement: str, wheel: str, part: Path) -> None:
    """One wheel from whatever package index pip is set up for."""
    options = [
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--no-input",
        "--disable-pip-version-check",
        "--retries=1",
    ]
    with tempfile.TemporaryDirectory(dir=part.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", folder, requirement]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        except subprocess.TimeoutExpired:
            raise Unreachable(f"pip download {requirement} took more than two minutes") from None
        if not (Path(folder) / wheel).exists():
            reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise Unreachable(f"pip download {requirement} failed ({reason})")
        os.replace(Path(folder) / wheel, part)


def download(address: str, part: Path) -> None:
    """Fetch an address into a file, going on where an earlier try stopped; Unreachable if it does not end whole."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            have, mode = (have, "ab") if answer.status == 206 else (0, "wb")
            size = have + int(answer.headers.get("Content-Length") or 0)
            bar = tqdm(total=size, initial=have, unit="B", unit_scale=True, desc=part.stem, disable=None)
            with part.open(mode) as out, bar:  # disable=None: no bar where there is no terminal
                while block := answer.read(1 << 16):
                    out.write(block)
                    bar.update(len(block))
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise Unreachable(f"{address} answered {error.code}") from None
        part.unlink()  # not a beginning of this file: start over
        return download(address, part)
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"{address} does not answer ({getattr(error, 'reason', None) or error})") from None
    if part.stat().st_size < size:
        raise Unreachable(f"{address} stopped after {part.stat().st_size:,} of {size:,} bytes; load again to go on")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
