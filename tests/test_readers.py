"""Each public set in its own format, written here: what is read from it."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

import m6rec.data as d
from m6rec.data.sources import READERS, SOURCES


def dataset(name: str, folder: Path) -> d.Dataset:
    """What `load` makes of the files in a folder."""
    return d.Dataset.from_frames(*READERS[SOURCES[name]["reader"]](folder, **SOURCES[name]["options"]))


# ------------------------------------------------------------------------------------------------------- movielens

FILMS = [  # id, title, year and genres as the official file and RecBole's have them
    (1, "Toy Story (1995)", ("Toy Story", "1995"), ["Animation", "Children's", "Comedy"]),
    (12, "Usual Suspects, The (1995)", ("Usual Suspects, The", "1995"), ["Crime", "Thriller"]),
    (267, "unknown", ("unkonwn", "unkonwn"), ["unknown"]),
    (543, "Misérables, Les (1995)", ("Misérables, Les", "1995"), ["Drama", "Musical"]),
    (1201, 'Marlene "M" Dietrich (1996) ', ('Marlene "M" Dietrich', "1996"), ["Documentary"]),
    (1412, "Land III: Time (1995) (V)", ("Land III: Time (1995)", "V"), ["Animation", "Children's"]),
]
GENRES = SOURCES["ml-100k"]["options"]["archives"]["ml-100k.zip"][1][2].split()[5:]
PEOPLE = [(1, 24, "M", "technician", "85711"), (2, 53, "F", "other", "V3N4P")]
RATINGS = [(2, 12, 3, 300), (1, 1, 5, 100), (1, 1412, 2, 100), (1, 267, 4, 100), (2, 543, 1, 50)]


def lines(rows, separator: str) -> str:
    return "".join(separator.join(map(str, row)) + "\n" for row in rows)


def write_official(folder: Path) -> None:
    films = [
        (number, title, "01-Jan-1995", "", "http://imdb", *(int(genre in genres) for genre in GENRES))
        for number, title, _, genres in FILMS
    ]
    with zipfile.ZipFile(folder / "ml-100k.zip", "w") as bundle:
        bundle.writestr("ml-100k/u.item", lines(films, "|").encode("latin-1"))
        bundle.writestr("ml-100k/u.user", lines(PEOPLE, "|"))
        bundle.writestr("ml-100k/u.data", lines(RATINGS, "\t"))


def write_recbole(folder: Path) -> None:
    films = [(number, *titled, " ".join(genres)) for number, _, titled, genres in FILMS]
    heads = {
        "item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n" + lines(films, "\t"),
        "user": "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n" + lines(PEOPLE, "\t"),
        "inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + lines(RATINGS, "\t"),
    }
    with zipfile.ZipFile(folder / "recbole-1.2.1-py3-none-any.whl", "w") as bundle:
        for end, text in heads.items():
            bundle.writestr(f"recbole/dataset_example/ml-100k/ml-100k.{end}", text.encode())


def test_both_copies_of_ml_100k_become_the_same_dataset(tmp_path):
    for write in (write_official, write_recbole):
        (tmp_path / write.__name__).mkdir()
        write(tmp_path / write.__name__)
    official, recbole = (dataset("ml-100k", folder) for folder in sorted(tmp_path.iterdir()))
    for table in ("items", "users", "events"):
        assert getattr(official, table).equals(getattr(recbole, table)), table
    assert official.fingerprint == recbole.fingerprint
    assert official.items["text"].tolist() == [
        "Toy Story | Animation Children's Comedy | 1995",
        "Usual Suspects, The | Crime Thriller | 1995",
        "unknown | unknown",
        "Misérables, Les | Drama Musical | 1995",
        'Marlene "M" Dietrich | Documentary | 1996',
        "Land III: Time | Animation Children's | 1995",
    ]
    assert official.items["title"].tolist() == [title.strip() for _, title, *_ in FILMS]
    assert official.items["year"].tolist() == [1995, 1995, 0, 1995, 1996, 1995]
    assert official.profile_columns == ["age", "gender", "occupation"]
    assert official.events["value"].tolist() == [5.0, 2.0, 4.0, 1.0, 3.0]  # ties of user 1 in file order


# ------------------------------------------------------------------------------------------------- amazon 2014


def test_beauty_is_read_in_the_order_of_its_lines(tmp_path):
    (tmp_path / "Beauty.txt").write_text("1 5 3 9\n2 3\n")
    (tmp_path / "Beauty_item2attributes.json").write_text('{"3": [7, 8], "5": [1], "9": [8]}')
    data = dataset("amazon-beauty", tmp_path)
    assert not data.timed and data.items["item_id"].tolist() == [3, 5, 9]
    assert data.events[["user", "item"]].to_numpy().tolist() == [[0, 1], [0, 0], [0, 2], [1, 0]]
    assert data.items["text"].tolist() == ["attribute7 attribute8", "attribute1", "attribute8"]


def test_last_fm_is_read_as_beauty_is(tmp_path):
    (tmp_path / "LastFM.txt").write_text("7 1 2 3\n9 2 3 1\n")
    (tmp_path / "LastFM_item2attributes.json").write_text('{"1": [4, 5], "2": []}')
    data = dataset("lastfm", tmp_path)
    assert data.events["item"].tolist() == [0, 1, 2, 1, 2, 0]
    assert data.items["text"].tolist() == ["attribute4 attribute5", "", ""]
    assert data.items["title"].tolist() == ["Artist 1", "Artist 2", "Artist 3"]


@pytest.mark.skipif(
    not (Path(os.environ.get("M6REC_MIRROR", "none")) / "amazon-beauty" / "Beauty.txt").exists(), reason="no mirror"
)
def test_amazon_beauty_is_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("M6REC_HOME", str(tmp_path))
    data = d.load("amazon-beauty")
    assert (data.n_users, data.n_items, data.n_events) == (22_363, 12_101, 198_502)
    assert data.items["text"].str.startswith("attribute").mean() > 0.99


# ----------------------------------------------------------------------------------------------------------- ml-1m

MOVIES = (
    "1::Toy Story (1995)::Animation|Children's|Comedy\n543::Mis\xe9rables, Les (1995)::Drama\n7::Odd: a film::Drama\n"
)
USERS = "1::F::1::10::48067\n2::M::56::16::70072\n"
STARS = "1::543::5::978300760\n2::1::3::978302109\n1::1::4::978300275\n"


def write_ml_1m(folder: Path) -> None:
    parts = {"movies": MOVIES, "users": USERS, "ratings": STARS}
    with zipfile.ZipFile(folder / "ml-1m.zip", "w") as bundle:
        for name, text in parts.items():
            bundle.writestr(f"ml-1m/{name}.dat", text.encode("latin-1"))


def test_ml_1m_is_read_as_ml_100k_is(tmp_path):
    write_ml_1m(tmp_path)
    data = dataset("ml-1m", tmp_path)
    assert data.items["text"].tolist() == [
        "Toy Story | Animation Children's Comedy | 1995",
        "Misérables, Les | Drama | 1995",
        "Odd: a film | Drama",
    ]
    assert data.items["year"].tolist() == [1995, 1995, 0]
    assert data.users.to_dict("list") == {
        "user_id": [1, 2], "age": [1, 56], "gender": ["F", "M"], "occupation": ["K-12 student", "self-employed"],
    }  # fmt: skip
    assert data.events["item"].tolist() == [0, 1, 0] and data.events["value"].tolist() == [4, 5, 3]


# ------------------------------------------------------------------------------------------------------------ mind


def test_mind_has_each_history_once_and_then_the_clicks_in_time_order(tmp_path):
    def news(number: int, title: str) -> str:
        return f"N{number}\tlifestyle\troyals\t{title}\tAn abstract\thttps://example.org/{number}\t[]\t[]\n"

    some = news(1, 'The "Brands') + news(2, "Dogs") + news(3, "Cats") + news(4, "Fish")
    train = "1\tU1\t11/11/2019 9:05:58 PM\tN3 N2\tN1-1 N2-0 N4-1\n2\tU1\t11/10/2019 12:30:00 AM\tN3 N2\tN2-1 N1-0\n"
    dev = "1\tU2\t11/15/2019 8:00:00 AM\t\tN5-1\n2\tU1\t11/15/2019 9:00:00 AM\tN3 N2 N1\tN5-0\n"
    for part, rows, articles in (("train", train, some), ("dev", dev, some + news(5, "Birds"))):
        with zipfile.ZipFile(tmp_path / f"MINDsmall_{part}.zip", "w") as bundle:
            bundle.writestr(f"MINDsmall_{part}/behaviors.tsv", rows)
            bundle.writestr(f"MINDsmall_{part}/news.tsv", articles)
    data = dataset("mind-small", tmp_path)
    assert data.items["item_id"].tolist() == ["N1", "N2", "N3", "N4", "N5"]
    assert data.items["text"].tolist()[0] == 'The "Brands | lifestyle | royals'
    assert data.users["user_id"].tolist() == ["U1", "U2"]
    assert data.events["item"].tolist() == [2, 1, 1, 0, 3, 4]
    assert data.events["action"].tolist() == ["history"] * 2 + ["click"] * 4
    times = data.events["timestamp"].to_numpy().astype("datetime64[s]").astype(str)
    assert times[1] == "2019-10-12T00:00:00" and times[2] == "2019-11-10T00:30:00"
