"""How the files of the public data sets (`registry.py`) come into the cache: checked and whole, or not at all.

`M6REC_HOME` holds the cache; `M6REC_MIRROR` may name a folder with copies (`<source>/<file>`). A file whose SHA-256 is
not published is taken as it first comes; its hash is kept beside it in `<file>.sha256`, and a later change is told.
"""

from __future__ import annotations

import contextlib
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
from pathlib import Path

import pandas as pd
import platformdirs
from filelock import FileLock
from tqdm import tqdm

from m6rec.data.dataset import Dataset
from m6rec.data.registry import SOURCES, Route, Source
from m6rec.errors import InputError

TIMEOUT = 5.0  # seconds without an answer after which a host counts as down


class Unreachable(Exception):
    """A route gave no file; the message says why."""


class Damaged(Unreachable):
    """A route gave a file that is not the one that the registry knows."""


def home() -> Path:
    """The folder of downloads and caches: M6REC_HOME, or the user's cache folder."""
    return Path(os.environ.get("M6REC_HOME") or platformdirs.user_cache_dir("m6rec")).expanduser().absolute()


def load(name: str, *, ties: str = "file", seed: int = 0) -> Dataset:
    """A data set by name: "bazaar", which comes with m6rec, or a public one ("ml-100k"; `describe()` lists them).

    A public one comes from the cache, or is fetched into it first.

    ties, seed: as in `Dataset.from_frames`. InputError if it is unknown, cannot be had, or is damaged.
    """
    if name not in SOURCES:
        raise InputError(f"data set {name!r} is unknown; use {', '.join(map(repr, SOURCES))}.")
    if name == "fashion-mnist":
        raise InputError("fashion-mnist holds photographs and no events; use m6rec.data.photographs().")
    folder, route = files(name)
    frames = route.read(folder)
    return Dataset.from_frames(*frames[:3], media=frames.media, name=name, ties=ties, seed=seed)


def describe() -> pd.DataFrame:
    """The public data sets: name, terms, address of the first route, megabytes to fetch (NaN where not known)."""
    rows = [
        (name, source.terms, source.routes[0].address.removeprefix("hand:"), source.megabytes)
        for name, source in SOURCES.items()
        if source.routes[0].files  # what comes with m6rec has none to fetch
    ]
    return pd.DataFrame(rows, columns=["name", "terms", "address", "megabytes"]).astype({"megabytes": float})


def files(name: str) -> tuple[Path, Route]:
    """The folder of a source's files, fetched into it first if need be, and the route that can read them."""
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


def _check(path: Path, sha256: str | None) -> None:
    """InputError unless the file has its published hash, or the one that it had when it was first seen."""
    if path.is_dir():
        return  # media: read one by one, and each checked when it is decoded
    actual = _sha256(path)
    if sha256 and actual != sha256:
        raise InputError(f"{path} is damaged; delete it and load again to fetch it anew.")
    if not sha256 and actual != (_seen(path) or actual):
        raise InputError(
            f"{path} is not the file that was first seen here; delete it and load again to fetch it anew, "
            f"or delete {path.name}.sha256 to take it as it is."
        )
    if not sha256 and not _seen(path):
        _see(path, actual)


def _record(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _seen(path: Path) -> str | None:
    """The hash that was written down for this file."""
    words = _record(path).read_text().split() if _record(path).exists() else []
    return words[0] if words else None


def _see(path: Path, sha256: str) -> None:
    """Write a hash down as `sha256sum --check` reads it; whole or not at all, as other processes may be reading."""
    part = _record(path).with_suffix(f".{os.getpid()}.part")
    with contextlib.suppress(OSError):  # a cache that only others may write to can still be read
        part.write_text(f"{sha256}  {path.name}\n")
        os.replace(part, _record(path))


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
                    warnings.warn(f"{problem}; used {route.address} instead", stacklevel=3)
            return route
    first = source.routes[0]
    address = first.address.removeprefix("hand:")
    raise InputError(
        f"{name} cannot be had: {'; '.join(map(str, problems))}. Put {' and '.join(first.files)} from {address} "
        f"into {folder}, or set M6REC_MIRROR to a folder that holds {name}/{next(iter(first.files))}."
    )


def _place(address: str, folder: Path, file: str, sha256: str | None) -> None:
    """Bring one file by mirror, package index or web to `<path>.part`, check it, and only then give it its name."""
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    copy = Path(os.environ.get("M6REC_MIRROR", "")).expanduser() / folder.name / file
    if os.environ.get("M6REC_MIRROR") and copy.exists():
        origin = str(copy)
        shutil.copyfile(copy, part)
    elif address.startswith("pip:"):
        origin = address
        _pip(address.removeprefix("pip:"), path.name, part)
    elif address.startswith("deb:"):
        origin = address
        _apt(address.removeprefix("deb:"), path.name, part)
    elif address.startswith("hand:"):
        raise Unreachable(f"{file} must be fetched by hand")
    else:
        origin = address + file
        download(origin, part)
    expected = sha256 or _seen(path)
    if expected and _sha256(part) != expected:
        part.unlink()  # or the next try would resume it
        if not sha256:
            raise Damaged(f"{origin} has changed since it was first fetched; delete {_record(path)} to take it anew")
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
    _run(
        [sys.executable, "-m", "pip", "download", *options, "--dest", ".", requirement],
        f"pip download {requirement}",
        wheel,
        part,
    )


def _apt(package: str, file: str, part: Path) -> None:
    """One package file from whatever archive apt is set up for; needs no rights and installs nothing."""
    if not shutil.which("apt-get"):
        raise Unreachable(f"there is no apt-get here to download {package}")
    _run(["apt-get", "--quiet", "download", package], f"apt-get download {package}", file, part)


def _run(command: list[str], what: str, file: str, part: Path) -> None:
    """Run a downloader in a folder of its own and keep the file that it leaves there."""
    with tempfile.TemporaryDirectory(dir=part.parent) as folder:
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
        except subprocess.TimeoutExpired:
            raise Unreachable(f"{what} took more than two minutes") from None
        if not (Path(folder) / file).exists():
            reason = (done.stderr.strip().splitlines() or [f"no {file} came"])[-1]
            raise Unreachable(f"{what} failed ({reason})")
        os.replace(Path(folder) / file, part)


def download(address: str, part: Path) -> None:
    """Fetch an address into a file, going on where an earlier try stopped; Unreachable if it does not end whole."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "m6rec"}  # some hosts turn Python's own name away
    if have:
        headers["Range"] = f"bytes={have}-"
    request = urllib.request.Request(address, headers=headers)
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
