"""From a source's own files to raw frames: one function for each format, the same frames for the same data."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd

from m6rec.data.lookup import YEAR
from m6rec.errors import InputError

# fmt: off
GENRES = ("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
          "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western")
# fmt: on


class Frames(NamedTuple):
    """What `Dataset.from_frames` takes."""

    items: pd.DataFrame
    users: pd.DataFrame | None
    interactions: pd.DataFrame


def unpack(archive: Path, members: list[str]) -> list[io.BytesIO]:
    """These members of a zip file, in memory: nothing is written, so nothing can land outside its folder.

    InputError for an archive that is damaged, lacks one of the members, or has one that climbs out of its folder.
    """
    try:
        with zipfile.ZipFile(archive) as bundle:
            for name in bundle.namelist():
                path = PurePosixPath(name.replace("\\", "/"))
                if path.is_absolute() or ".." in path.parts or ":" in name:
                    raise InputError(
                        f"{archive} has a member {name!r} that climbs out of its folder; delete this file."
                    )
            return [io.BytesIO(bundle.read(member)) for member in members]
    except (KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{archive} is damaged ({error.args[0]}); delete it and load again.") from None


def ml_100k_official(folder: Path) -> Frames:
    """GroupLens' ml-100k.zip: u.item (Latin-1, a flag for each genre), u.user, u.data."""
    item, user, data = unpack(folder / "ml-100k.zip", [f"ml-100k/u.{end}" for end in ("item", "user", "data")])
    columns = ["item_id", "title", "released", "video", "address", *GENRES]
    items = pd.read_csv(item, sep="|", names=columns, encoding="latin-1", quoting=3, keep_default_na=False)
    flags = items[list(GENRES)].to_numpy(dtype=bool)
    genres = [" ".join(genre for genre, on in zip(GENRES, row, strict=True) if on) for row in flags]
    users = pd.read_csv(user, sep="|", names=["user_id", "age", "gender", "occupation", "zip"], keep_default_na=False)
    ratings = pd.read_csv(data, sep="\t", names=["user_id", "item_id", "value", "timestamp"])
    return _ml_100k(items["item_id"], items["title"], genres, users, ratings)


def ml_100k_recbole(folder: Path) -> Frames:
    """RecBole's copy in its wheel: the same rows in the same order, with the year in a column of its own."""
    stem = "recbole/dataset_example/ml-100k/ml-100k."
    files = unpack(folder / "recbole-1.2.1-py3-none-any.whl", [stem + end for end in ("item", "user", "inter")])
    items, users, ratings = (pd.read_csv(file, sep="\t", quoting=3, keep_default_na=False) for file in files)
    for frame in (items, users, ratings):
        frame.columns = [column.partition(":")[0] for column in frame.columns]  # "age:token" -> "age"
    # There, item 1412, "… (1995) (V)", has "V" for a year, and item 267, "unknown", is misspelt.
    titles = (items["movie_title"] + " (" + items["release_year"].astype("str") + ")").replace(
        "unkonwn (unkonwn)", "unknown"
    )
    return _ml_100k(items["item_id"], titles, items["class"], users, ratings.rename(columns={"rating": "value"}))


def _ml_100k(
    item_ids: pd.Series, titles: Iterable[str], genres: Iterable[str], users: pd.DataFrame, ratings: pd.DataFrame
) -> Frames:
    """One shape for both copies. text: title without year | genres | year. The one film without a year has 0."""
    rows = []
    for item_id, raw_title, genre in zip(item_ids, titles, genres, strict=True):
        title = " ".join(raw_title.split())
        bare, year, *_ = [*YEAR.split(title), "0"]
        text = " | ".join([bare, genre] + ([year] if year != "0" else []))
        rows.append((item_id, title, text, genre, int(year)))
    items = pd.DataFrame(rows, columns=["item_id", "title", "text", "genres", "year"])
    interactions = ratings[["user_id", "item_id", "timestamp", "value"]].assign(action="rate")
    return Frames(items, users[["user_id", "age", "gender", "occupation"]], interactions)


def amazon_beauty(folder: Path) -> Frames:
    """S3-Rec's files: one user a line with the items in time order, no timestamps; attribute numbers for content."""
    lines = [line.split() for line in (folder / "Beauty.txt").read_text().splitlines()]
    pairs = [(int(user), int(item)) for user, *items in lines for item in items]
    interactions = pd.DataFrame(pairs, columns=["user_id", "item_id"]).assign(action="review")
    attributes = json.loads((folder / "Beauty_item2attributes.json").read_text())
    ids = sorted(interactions["item_id"].unique())
    texts = [" ".join(f"attribute{number}" for number in attributes.get(str(item), [])) for item in ids]
    items = pd.DataFrame({"item_id": ids, "title": [f"Beauty product {item}" for item in ids], "text": texts})
    return Frames(items, None, interactions)
