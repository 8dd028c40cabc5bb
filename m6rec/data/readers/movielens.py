"""GroupLens' MovieLens: ml-100k from two places, and ml-1m."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from m6rec.data.lookup import YEAR
from m6rec.data.readers.files import Frames, Skipped, in_seconds, known, table, unique, unpack

# fmt: off
GENRES = ("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
          "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western")
# What the numbers 0…20 of ml-1m's users.dat mean, from its README.
OCCUPATIONS = ("other", "educator", "artist", "clerical", "student", "customer service", "doctor", "executive",
               "farmer", "homemaker", "K-12 student", "lawyer", "programmer", "retired", "sales", "scientist",
               "self-employed", "technician", "craftsman", "unemployed", "writer")
# fmt: on


def ml_100k_official(folder: Path) -> Frames:
    """GroupLens' ml-100k.zip: u.item (Latin-1, a flag for each genre), u.user, u.data."""
    item, user, data = unpack(folder / "ml-100k.zip", [f"ml-100k/u.{end}" for end in ("item", "user", "data")])
    columns = ["item_id", "title", "released", "video", "address", *GENRES]
    items = pd.read_csv(item, sep="|", names=columns, encoding="latin-1", quoting=3, keep_default_na=False)
    flags = items[list(GENRES)].to_numpy(dtype=bool)
    genres = [" ".join(genre for genre, on in zip(GENRES, row, strict=True) if on) for row in flags]
    users = pd.read_csv(user, sep="|", names=["user_id", "age", "gender", "occupation", "zip"], keep_default_na=False)
    ratings = pd.read_csv(data, sep="\t", names=["user_id", "item_id", "value", "timestamp"])
    return _movielens(items["item_id"], items["title"], genres, users, ratings)


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
    return _movielens(items["item_id"], titles, items["class"], users, ratings.rename(columns={"rating": "value"}))


def ml_1m(folder: Path) -> Frames:
    """GroupLens' ml-1m.zip: movies.dat, users.dat and ratings.dat, fields parted by "::", Latin-1.

    `age` is the lowest age of a range (1, 18, 25, 35, 45, 50, 56), `occupation` its name.
    """
    skipped = Skipped("ml-1m")
    names = ("movies.dat", "users.dat", "ratings.dat")
    columns = (
        {"item_id": int, "title": str, "genres": str},
        {"user_id": int, "gender": str, "age": int, "occupation": int, "zip": str},
        {"user_id": int, "item_id": int, "value": float, "timestamp": int},
    )
    films, users, ratings = (
        table(_one_separator(data), name, fields, skipped, separator="\x1f", encoding="latin1")
        for name, fields, data in zip(names, columns, unpack(folder / "ml-1m.zip", list(names)), strict=True)
    )
    films = unique(films, "item_id", "movies.dat", skipped)
    users = unique(users, "user_id", "users.dat", skipped)
    users = skipped.keep(users, users["occupation"].between(0, 20), "users.dat", "has an occupation beyond 0…20")
    users = users.assign(occupation=[OCCUPATIONS[code] for code in users["occupation"]])
    ratings = in_seconds(known(ratings, films, "ratings.dat", skipped), "ratings.dat", skipped)
    there = ratings["user_id"].isin(users["user_id"])
    ratings = skipped.keep(ratings, there, "ratings.dat", "has a user who is not in users.dat")
    skipped.warn()
    genres = films["genres"].str.replace("|", " ", regex=False)
    return _movielens(films["item_id"], films["title"], genres, users, ratings)


def _one_separator(data: io.BytesIO) -> io.BytesIO:
    """The same file with one byte that stands in no title instead of "::", which CSV readers do not take."""
    return io.BytesIO(data.getvalue().replace(b"::", b"\x1f"))


def _movielens(
    item_ids: pd.Series, titles: Iterable[str], genres: Iterable[str], users: pd.DataFrame, ratings: pd.DataFrame
) -> Frames:
    """One shape for all. text: title without year | genres | year. A film without a year has 0."""
    rows = []
    for item_id, raw_title, genre in zip(item_ids, titles, genres, strict=True):
        title = " ".join(raw_title.split())
        bare, year, *_ = [*YEAR.split(title), "0"]
        text = " | ".join([bare, genre] + ([year] if year != "0" else []))
        rows.append((item_id, title, text, genre, int(year)))
    items = pd.DataFrame(rows, columns=["item_id", "title", "text", "genres", "year"])
    interactions = ratings[["user_id", "item_id", "timestamp", "value"]].assign(action="rate")
    return Frames(items, users[["user_id", "age", "gender", "occupation"]], interactions)
