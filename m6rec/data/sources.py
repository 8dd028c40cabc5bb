"""The public data sets: their terms, official addresses, hashes where published, and how they come into the cache.

`M6REC_HOME` holds the cache; `M6REC_MIRROR` may name a folder with copies (`<source>/<file>`). A file whose SHA-256 is
not published is taken as it first comes; its hash is kept beside it in `<file>.sha256`, and a later change is told.
"""

import contextlib
import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import platformdirs
import pooch
from filelock import FileLock

from m6rec.data import image, readers
from m6rec.data.dataset import Dataset
from m6rec.data.schema import Frames, Report
from m6rec.errors import InputError

TIMEOUT = 5.0  # seconds without an answer after which a host counts as down
PIP = "pip download --quiet --no-deps --only-binary=:all: --no-input --disable-pip-version-check --retries=1"
COMMANDS = {"pip": [sys.executable, "-m", *PIP.split()], "deb": ["apt-get", "--quiet", "download"]}  # for addresses

GARMENTS = ("t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
PARTS = {"train": "train", "test": "t10k"}  # of Fashion-MNIST's files
IDX = {"images-idx3-ubyte": 16, "labels-idx1-ubyte": 8}  # bytes before the numbers
HELD_OUT = 0.2  # of bazaar's photographs


class Route(NamedTuple):
    """Files that together hold the data, and where they are."""

    address: str
    files: dict[str, str]  # name, with a folder where the address has one -> SHA-256, or ""


class Source(NamedTuple):
    """A public data set; `sources.toml` says what stands here."""

    terms: str
    routes: tuple[Route, ...] = ()
    read: Callable[[Path, Report], Frames] | None = None
    megabytes: float | None = None  # what the first route fetches, where that is known
    shipped: str = ""  # the folder of one that comes with m6rec


class Photographs(NamedTuple):
    """Grey photographs of garments, light on black."""

    images: np.ndarray  # (N, 28, 28) uint8
    labels: np.ndarray  # (N,) int64, places in names
    names: tuple[str, ...]  # the classes

    @property
    def pixels(self) -> np.ndarray:
        """(N, 784) float32 in 0..1."""
        return self.images.reshape(len(self.images), -1).astype(np.float32) / 255


class Damaged(OSError):
    """A route gave a file that is not the one that is known."""


SOURCES = {
    name: Source(
        read=partial(getattr(readers, entry.pop("reader")), **entry.pop("options", {})) if "reader" in entry else None,
        routes=tuple(Route(**route) for route in entry.pop("routes", ())),
        **entry,
    )
    for name, entry in tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")).items()
}


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
    source, report = SOURCES[name], Report(strict=False)
    if not source.read:
        raise InputError(f"{name} holds photographs and no events; use m6rec.data.photographs().")
    folder = readers.shipped(source.shipped) if source.shipped else files(name)[0]
    data = Dataset.from_tables(source.read(folder, report), report, name=name, ties=ties, seed=seed)
    report.warn(name)
    return data


def photographs(n: int | None = None, part: str = "train", source: str = "fashion-mnist") -> Photographs:
    """The first n photographs (or all) of a part, "train" or "test", of a source.

    source: "fashion-mnist" (60,000 and 10,000; fetched once, 31 MB) or "bazaar" (about 1,300 and 300 of them, which
    come with m6rec; the parts share no photograph). InputError if it cannot be had, or for an unknown name.
    """
    for name, value, known in (("part", part, PARTS), ("source", source, ("fashion-mnist", "bazaar"))):
        if value not in known:
            raise InputError(f"{name}={value!r} has no photographs; use {' or '.join(map(repr, known))}.")
    if source == "bazaar":
        data = load("bazaar")
        items = data.items.dropna(subset="image").drop_duplicates("image")  # several items may show one
        order, held_out = np.random.default_rng(0).permutation(len(items)), round(HELD_OUT * len(items))
        items = items.iloc[order[:held_out] if part == "test" else order[held_out:]]
        pixels = np.stack([image.decode(data.media.read(name)) for name in items["image"]])
        images, labels = (pixels * 255).round().astype(np.uint8), items["category"].map(GARMENTS.index).to_numpy()
    else:
        pair = (gzip.decompress(raw) for raw in _idx_files([f"{PARTS[part]}-{kind}.gz" for kind in IDX]))
        images, labels = (
            np.frombuffer(raw, np.uint8, offset=head) for raw, head in zip(pair, IDX.values(), strict=True)
        )
    return Photographs(images.reshape(-1, image.SIDE, image.SIDE)[:n], labels[:n].astype(np.int64), GARMENTS)


def _idx_files(names: list[str]) -> list[bytes]:
    """Fashion-MNIST's files, as they are or from Debian's package."""
    folder, route = files("fashion-mnist")
    if names[0] in route.files:
        return [(folder / name).read_bytes() for name in names]
    [file] = route.files  # an ar archive with headers of 60 bytes, name first, size at 48, and in it a tar archive
    _, found, data = (folder / file).read_bytes().partition(b"data.tar")
    if not found:
        raise InputError(f"{folder / file} has no data.tar; delete it and load again.")
    with tarfile.open(fileobj=io.BytesIO(data[52 : 52 + int(data[40:50])])) as tar:
        return [tar.extractfile(f"./usr/share/datasets/fashion-mnist/{name}").read() for name in names]


def describe() -> pd.DataFrame:
    """The public data sets: name, terms, address of the first route, megabytes to fetch (NaN where not known)."""
    rows = [(name, s.terms, s.routes[0].address, s.megabytes) for name, s in SOURCES.items() if s.routes]
    return pd.DataFrame(rows, columns=["name", "terms", "address", "megabytes"]).astype({"megabytes": float})


def files(name: str) -> tuple[Path, Route]:
    """The folder of a source's files and the first route that gives them all, fetched into it if need be."""
    source, folder, problems = SOURCES[name], home() / "data" / name, []
    if route := _cached(source.routes, folder):
        return folder, route
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error}); set M6REC_HOME to a folder of your own.") from None
    with FileLock(folder / ".lock"):  # several processes may start on an empty cache
        if route := _cached(source.routes, folder):
            return folder, route
        for route in source.routes:
            if sys.stderr.isatty():
                print(f"{name} ({source.terms}): fetching from {route.address}", file=sys.stderr)
            try:
                for file in route.files:
                    if not (folder / file).exists():
                        _fetch(route, folder, file)
            except OSError as problem:
                problems.append(problem)
                continue
            for problem in problems:
                if isinstance(problem, Damaged):
                    warnings.warn(f"{problem}; used {route.address} instead", stacklevel=3)
            return folder, _cached([route], folder)
    first = source.routes[0]
    raise InputError(
        f"{name} cannot be had: {'; '.join(map(str, problems))}. Put {' and '.join(first.files)} from {first.address} "
        f"into {folder}, or set M6REC_MIRROR to a folder that holds {name}/{next(iter(first.files))}."
    )


def _cached(routes: Sequence[Route], folder: Path) -> Route | None:
    """The first route whose files are all in the folder; InputError if one of them is damaged."""
    route = next((route for route in routes if all((folder / file).exists() for file in route.files)), None)
    for file, sha256 in route.files.items() if route else ():
        path, (note, seen) = folder / file, _first_seen(folder / file)
        actual = pooch.file_hash(path)
        if actual != (sha256 or seen or actual):
            first = f"is not the file that was first seen here; delete {note.name} to take it as it is, or"
            raise InputError(f"{path} {'is damaged;' if sha256 else first} delete it and load again to fetch it anew.")
        if not sha256 and not seen:
            with contextlib.suppress(OSError):  # a cache that only others may write to can still be read
                note.write_text(f"{actual}  {path.name}\n")  # as `sha256sum --check` reads it
    return route


def _first_seen(path: Path) -> tuple[Path, str | None]:
    """Where the hash of a file without a published one is written down, and that hash, once it is."""
    note = path.with_name(f"{path.name}.sha256")
    return note, next(iter(note.read_text().split()), None) if note.exists() else None


def _fetch(route: Route, folder: Path, file: str) -> None:
    """Fetch a file with pooch, which gives it its name only when it is whole and has the expected hash; or OSError."""
    mirror, sha256, (note, seen) = os.environ.get("M6REC_MIRROR"), route.files[file], _first_seen(folder / file)
    copy = Path(mirror or "").expanduser() / folder.name / file
    web = route.address + (file if route.address.startswith("http") else "")
    origin = str(copy) if mirror and copy.exists() else web
    pooch.get_logger().setLevel("WARNING")
    registry = pooch.create(folder, "", registry={file: sha256 or seen}, urls={file: origin}, retry_if_failed=1)
    try:
        registry.fetch(file, downloader=_download)
    except ValueError:
        change = f"has changed since it was first fetched; delete {note} to take it anew"
        raise Damaged(f"{origin} {f'is damaged (its SHA-256 is not {sha256[:12]}…)' if sha256 else change}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(getattr(error.args[0], "reason", error) if error.args else error)
        raise OSError(f"{origin} does not answer ({reason.rpartition('): ')[2]})") from None


def _download(origin: str, part: str, registry: pooch.Pooch) -> None:
    """Bring a file from the web, a package index, an archive of packages, or a mirror into `part`."""
    kind, _, what = origin.partition(":")
    [file] = registry.registry
    if kind in ("http", "https"):
        # Some hosts turn Python's own name away; a compressed answer would have another hash.
        headers = {"User-Agent": "m6rec", "Accept-Encoding": "identity"}
        pooch.HTTPDownloader(sys.stderr.isatty(), 1 << 16, timeout=TIMEOUT, headers=headers)(origin, part, registry)
    elif kind not in COMMANDS:
        shutil.copyfile(origin, part)
    elif not shutil.which(COMMANDS[kind][0]):
        raise OSError(f"there is no {COMMANDS[kind][0]} here to download it")
    else:
        with tempfile.TemporaryDirectory() as folder:
            command = [*COMMANDS[kind], what]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
            if not (Path(folder) / file).exists():
                reason = (done.stderr.strip().splitlines() or [f"no {file} came"])[-1]
                raise OSError(f"{kind} download: {reason}")
            shutil.move(Path(folder) / file, part)
