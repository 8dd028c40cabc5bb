"""What the readers share: frames, zip members in memory, rows of text files, and one warning for what is left out."""

from __future__ import annotations

import gzip
import io
import json
import warnings
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv

from m6rec.data.frames import LATEST
from m6rec.errors import InputError

LINE = 16 << 20  # bytes of one JSON line; a longer one is malformed, and is never held as a whole
MEMBER = 2 << 30  # bytes of one member of a zip archive
NAMED = 3  # malformed rows that the warning names
IMAGES = {".jpg", ".jpeg", ".png", ".webp"}


class Frames(NamedTuple):
    """What `Dataset.from_frames` takes."""

    items: pd.DataFrame
    users: pd.DataFrame | None
    interactions: pd.DataFrame
    media: Path | None = None  # the folder or zip archive in which the items' `image` and `sound` are names


class Skipped:
    """The malformed rows of a source: left out, counted, and told in one warning that names the first three."""

    def __init__(self, source: str):
        self.source, self.n, self.first = source, 0, []

    def add(self, file: str, row: int, problem: str) -> None:
        """Count one row (1 = the file's first, the header included)."""
        self.n += 1
        if len(self.first) < NAMED:
            self.first.append(f"{file} row {row} {problem}")

    def keep(self, frame: pd.DataFrame, good: pd.Series | np.ndarray, file: str, problem: str) -> pd.DataFrame:
        """The good rows of a frame whose index holds the row numbers; the others are counted."""
        good = np.asarray(good, dtype=bool)
        for row in frame.index[~good][:NAMED]:
            self.add(file, row, problem)
        self.n += max(0, int((~good).sum()) - NAMED)
        return frame[good]

    def warn(self) -> None:
        """Say what was left out, if anything was."""
        if self.n:
            rest = f" and {self.n - NAMED:,} more" if self.n > NAMED else ""
            rows = "row is" if self.n == 1 else "rows are"
            warnings.warn(
                f"{self.source}: {self.n:,} {rows} left out: {'; '.join(self.first)}{rest}.", UserWarning, stacklevel=3
            )


def unpack(archive: Path, members: list[str]) -> list[io.BytesIO]:
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
                    raise InputError(
                        f"{archive} has a member {name!r} that climbs out of its folder; delete this file."
                    )
            deep = {member: next((n for n in names if n.endswith("/" + member)), member) for member in members}
            chosen = [bundle.getinfo(member if member in names else deep[member]) for member in members]
            for info in chosen:
                if info.file_size > MEMBER:
                    raise InputError(f"{archive} has a member {info.filename!r} above 2 GB; delete this file.")
            return [io.BytesIO(bundle.read(info)) for info in chosen]
    except (KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{archive} is damaged ({error.args[0]}); delete it and load again.") from None


def table(
    source: Path | io.BytesIO,
    file: str,
    columns: dict[str, type],
    skipped: Skipped,
    *,
    separator: str = ",",
    header: bool = False,
    quoted: bool = False,
    encoding: str = "utf8",
) -> pd.DataFrame:
    """The good rows of a delimited file, indexed by their row numbers; the others go to `skipped`.

    columns: name -> str, int, float (finite), or "category" for a text of few values in a large file. Without a header
    they are all the file's columns in order; with one, those that are kept. A row with too many or too few fields, or
    with an int or float that is none, is malformed. InputError, with the columns, where no good row is left.
    """
    wanted = f"{file} needs the columns {', '.join(columns)}"
    broken: list[int] = []
    kinds = {str: pa.string(), "category": pa.dictionary(pa.int32(), pa.string())}

    def leave_out(row: csv.InvalidRow) -> str:
        broken.append(row.number)
        skipped.add(file, row.number, f"has {row.actual_columns} fields instead of {row.expected_columns}")
        return "skip"

    try:
        read = csv.read_csv(
            source,
            # Row numbers are known to one thread only.
            csv.ReadOptions(use_threads=False, column_names=None if header else list(columns), encoding=encoding),
            csv.ParseOptions(
                delimiter=separator,
                quote_char='"' if quoted else False,
                ignore_empty_lines=False,
                invalid_row_handler=leave_out,
            ),
            csv.ConvertOptions(
                check_utf8=False,
                include_columns=list(columns),
                column_types={name: kinds[kind] for name, kind in columns.items() if kind in kinds},
            ),
        )
        frame = pa.table({name: _text(read[name]) for name in columns}).to_pandas()
    except (pa.ArrowInvalid, KeyError, UnicodeError) as error:
        raise InputError(f"{wanted} ({str(error).splitlines()[0]}); delete the file and load again.") from None
    first = 2 if header else 1
    rows = np.setdiff1d(np.arange(first, first + len(frame) + len(broken)), broken)
    frame.index = pd.Index(rows)
    for name, kind in columns.items():
        if kind in (int, float):
            frame = _numbers(frame, name, kind, file, skipped)
    if frame.empty:
        raise InputError(f"{wanted}, and no row of it has them; delete the file and load again.")
    return frame


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """The column, with bytes that are no UTF-8 replaced: a title is not lost for one bad letter."""
    try:
        column.validate(full=True)
        return column
    except pa.ArrowInvalid:
        values = column.cast(pa.string()).cast(pa.binary()).to_pylist()
        return pa.array([value.decode("utf-8", "replace") for value in values])


def _numbers(frame: pd.DataFrame, name: str, kind: type, file: str, skipped: Skipped) -> pd.DataFrame:
    """The rows in which this column is a number, an int a whole one."""
    values = frame[name]
    if values.dtype.kind not in "iuf":  # one bad value makes the whole column text
        values = pd.to_numeric(values.astype("str"), errors="coerce")
    good = np.isfinite(values) if kind is float else np.isfinite(values) & (values % 1 == 0) & (values.abs() < 2**53)
    article = "no number" if kind is float else "no whole number"
    frame = skipped.keep(frame, good, file, f"has {article} in '{name}'")
    return frame.assign(**{name: values[good].astype("float64" if kind is float else "int64")})


def json_lines(path: Path, skipped: Skipped) -> Iterator[tuple[int, dict]]:
    """Row number and object of each line of a .jsonl.gz file; a line that is no object goes to `skipped`."""
    try:
        with gzip.open(path, "rb") as file:
            for row, line in enumerate(iter(lambda: file.readline(LINE), b""), 1):
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError):
                    value = None
                if isinstance(value, dict):
                    yield row, value
                else:
                    skipped.add(path.name, row, "is no JSON object")
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path} is damaged ({error}); delete it and load again.") from None


def known(frame: pd.DataFrame, items: pd.DataFrame, file: str, skipped: Skipped) -> pd.DataFrame:
    """The events whose item is in the catalogue."""
    return skipped.keep(
        frame, frame["item_id"].isin(items["item_id"]), file, "has an item that is not in the catalogue"
    )


def in_seconds(frame: pd.DataFrame, file: str, skipped: Skipped, per_second: int = 1) -> pd.DataFrame:
    """Events with their timestamp in seconds; finer ones first order the events of one second."""
    good = frame["timestamp"].between(0, LATEST * per_second - 1)
    frame = skipped.keep(frame, good, file, "has a timestamp before 1970 or after 5138")
    if per_second > 1:
        frame = frame.sort_values("timestamp", kind="stable", ignore_index=True)
    return frame.assign(timestamp=frame["timestamp"] // per_second)


def unique(frame: pd.DataFrame, key: str, file: str, skipped: Skipped) -> pd.DataFrame:
    """The rows whose id is given, and given for the first time."""
    frame = skipped.keep(frame, frame[key].astype("str").str.strip() != "", file, f"has no {key}")
    return skipped.keep(frame, ~frame[key].duplicated(), file, f"has a {key} that is there already")


def joined(*parts: str | Collection[str]) -> str:
    """An item's text: the parts that say something, in one line, separated by " | "."""
    flat = (part if isinstance(part, str) else " ".join(map(str, part)) for part in parts)
    return " | ".join(text for text in (" ".join(part.split()) for part in flat) if text)


def pictures(place: Path) -> dict[str, str]:
    """Stem -> name of every picture in a folder or zip archive; empty where neither is there."""
    if place.is_dir():
        names = [path.relative_to(place).as_posix() for path in sorted(place.rglob("*"))]
    elif place.exists():
        try:
            with zipfile.ZipFile(place) as bundle:
                names = bundle.namelist()
        except zipfile.BadZipFile as error:
            raise InputError(f"{place} is damaged ({error}); delete it and load again.") from None
    else:
        names = []
    return {path.stem: name for name in names if (path := PurePosixPath(name)).suffix.lower() in IMAGES}
