"""Each public set in its own format, written here: what is read from it, and what becomes of malformed rows."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import m6rec.data as d
from m6rec.data.schema import Frames, Report
from m6rec.data.sources import SOURCES
from m6rec.errors import InputError


def dataset(read: Callable[..., Frames], folder: Path, *options: object) -> d.Dataset:
    """What `load` makes of the files in a folder."""
    report = Report(strict=False)
    data = d.Dataset.from_tables(read(folder, report, *options), report)
    report.warn("source")
    return data


def with_one_warning(read: Callable[..., Frames], *arguments: object) -> tuple[d.Dataset, str]:
    """What is read, and the one warning that says what was left out of it."""
    with pytest.warns(UserWarning) as caught:
        data = dataset(read, *arguments)
    assert len(caught) == 1, [str(warning.message) for warning in caught]
    return data, str(caught[0].message)


def zipped(path: Path, **members: str | bytes) -> None:
    with zipfile.ZipFile(path, "w") as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)


# ------------------------------------------------------------------------------------------------------- movielens

FILMS = [  # id, title, year and genres as the official file and RecBole's have them
    (1, "Toy Story (1995)", ("Toy Story", "1995"), ["Animation", "Children's", "Comedy"]),
    (12, "Usual Suspects, The (1995)", ("Usual Suspects, The", "1995"), ["Crime", "Thriller"]),
    (267, "unknown", ("unkonwn", "unkonwn"), ["unknown"]),
    (543, "Misérables, Les (1995)", ("Misérables, Les", "1995"), ["Drama", "Musical"]),
    (1201, 'Marlene "M" Dietrich (1996) ', ('Marlene "M" Dietrich', "1996"), ["Documentary"]),
    (1412, "Land III: Time (1995) (V)", ("Land III: Time (1995)", "V"), ["Animation", "Children's"]),
]
GENRES = SOURCES["ml-100k"].read.keywords["archives"]["ml-100k.zip"][1][2].split()[5:]
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
    official, recbole = (dataset(SOURCES["ml-100k"].read, folder) for folder in sorted(tmp_path.iterdir()))
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
    data = dataset(SOURCES["amazon-beauty"].read, tmp_path)
    assert not data.timed and data.items["item_id"].tolist() == [3, 5, 9]
    assert data.events[["user", "item"]].to_numpy().tolist() == [[0, 1], [0, 0], [0, 2], [1, 0]]
    assert data.items["text"].tolist() == ["attribute7 attribute8", "attribute1", "attribute8"]


def test_beauty_leaves_malformed_lines_out_and_names_the_first_three(tmp_path):
    (tmp_path / "Beauty.txt").write_text("1 5 3\n2\n3 x 4\n\n4 -1 2\n5 5\n")
    (tmp_path / "Beauty_item2attributes.json").write_text("{}")
    told = r"4 problems, .*: .* row 1: '2' is .* row 2: '3 x 4' is .* row 3: '' is .* and 1 more\."
    with pytest.warns(UserWarning, match=told):
        data = dataset(SOURCES["amazon-beauty"].read, tmp_path)
    assert data.n_users == 2 and data.n_items == 2 and data.n_events == 3
    assert data.items["title"].tolist() == ["Beauty product 3", "Beauty product 5"]
    for text in ("one two\n", ""):
        (tmp_path / "Beauty.txt").write_text(text)
        with pytest.raises(InputError, match=r"Beauty\.txt has no good row; mend at least one"):
            dataset(SOURCES["amazon-beauty"].read, tmp_path)


@pytest.mark.parametrize("text", ["{", "[1]", '{"3": 7}'])
def test_attributes_of_another_shape_are_named(tmp_path, text):
    (tmp_path / "Beauty.txt").write_text("1 5 3 9\n")
    (tmp_path / "Beauty_item2attributes.json").write_text(text)
    with pytest.raises(InputError, match=r"Beauty_item2attributes\.json cannot be read .*give one JSON object"):
        dataset(SOURCES["amazon-beauty"].read, tmp_path)


@pytest.mark.parametrize("file", ["LastFM.txt", "LastFM_item2attributes.json"])
def test_a_missing_file_of_sequences_or_attributes_is_named(tmp_path, file):
    (tmp_path / "LastFM.txt").write_text("7 1 2 3\n9 2 3 1\n")
    (tmp_path / "LastFM_item2attributes.json").write_text('{"1": [4, 5], "2": []}')
    data = dataset(SOURCES["lastfm"].read, tmp_path)
    assert data.events["item"].tolist() == [0, 1, 2, 1, 2, 0]
    assert data.items["text"].tolist() == ["attribute4 attribute5", "", ""]
    (tmp_path / file).unlink()
    with pytest.raises(InputError, match=rf"{file} cannot be read"):
        dataset(SOURCES["lastfm"].read, tmp_path)


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


def write_ml_1m(folder: Path, movies: str = MOVIES, users: str = USERS, stars: str = STARS) -> None:
    parts = {"ml-1m/movies.dat": movies, "ml-1m/users.dat": users, "ml-1m/ratings.dat": stars}
    zipped(folder / "ml-1m.zip", **{name: text.encode("latin-1") for name, text in parts.items()})


def test_ml_1m_is_read_as_ml_100k_is(tmp_path):
    write_ml_1m(tmp_path)
    data = dataset(SOURCES["ml-1m"].read, tmp_path)
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


def test_ml_1m_leaves_malformed_rows_out_in_one_warning(tmp_path):
    stars = STARS + "1::1::five::978300275\n1::1::5\n2::99::5::978300275\n9::1::5::978300275\n1::543::1::2::3\n"
    write_ml_1m(tmp_path, MOVIES + "\n1::Twice::Drama\n", USERS + "3::M::25::77::1\n", stars)
    data, message = with_one_warning(SOURCES["ml-1m"].read, tmp_path)
    assert message.startswith("source: 6 problems, whose rows are left out: ") and message.endswith("; and 3 more.")
    assert data.left_out.iloc[:, :4].to_numpy().tolist() == [
        ["ratings.dat", 7, "", "has 5 fields under a header of 4"],
        ["movies.dat", 3, "item_id", "'1' is there already"],
        ["ratings.dat", 6, "user_id", "'9' is not in users"],
        ["ratings.dat", 5, "item_id", "'99' is not in items"],
        ["ratings.dat", 4, "timestamp", "'nan' is no number"],
        ["ratings.dat", 3, "value", "'five' is no number"],
    ]
    assert data.n_events == 3 and data.n_users == 3 and data.n_items == 3
    assert data.users["occupation"].isna().tolist() == [False, False, True]  # there is no occupation 77


def test_row_numbers_are_those_of_the_file_after_a_broken_row(tmp_path):
    write_ml_1m(tmp_path, stars="1::1::5::1::1\n" + STARS + "1::1::?::978300275\n")
    data, message = with_one_warning(SOURCES["ml-1m"].read, tmp_path)
    assert "ratings.dat row 0: has 5 fields under a header of 4; ratings.dat row 4: '?' is no number" in message
    assert data.n_events == 3 and data.events["value"].tolist() == [4, 5, 3]


@pytest.mark.parametrize("stars", ["", "nothing\n", "1::1::x::y\n"])
def test_a_file_without_a_good_row_is_named(tmp_path, stars):
    write_ml_1m(tmp_path, stars=stars)
    with pytest.raises(InputError, match=r"ratings\.dat has no (good row|rows); (give|mend)"):
        dataset(SOURCES["ml-1m"].read, tmp_path)


# ------------------------------------------------------------------------------------------------------------ mind


def news(number: int, title: str, abstract: str = "") -> str:
    return f"N{number}\tlifestyle\troyals\t{title}\t{abstract}\thttps://example.org/{number}\t[]\t[]\n"


NEWS = news(1, 'The "Brands', "Shop these.") + news(2, "Dogs") + news(3, "Cats") + news(4, "")
TRAIN = "1\tU1\t11/11/2019 9:05:58 PM\tN3 N2\tN1-1 N2-0 N4-1\n2\tU1\t11/10/2019 12:30:00 AM\tN3 N2\tN2-1 N1-0\n"
DEV = "1\tU2\t11/15/2019 8:00:00 AM\t\tN5-1\n2\tU1\t11/15/2019 9:00:00 AM\tN3 N2 N1\tN5-0\n"


def write_mind(folder: Path, train: str = TRAIN, articles: str = NEWS, inside: str = "", shown: str = DEV) -> None:
    zipped(folder / "MINDsmall_train.zip", **{inside + "behaviors.tsv": train, inside + "news.tsv": articles})
    dev = NEWS + news(5, "Birds")
    zipped(folder / "MINDsmall_dev.zip", **{inside + "behaviors.tsv": shown, inside + "news.tsv": dev})


@pytest.mark.parametrize("inside", ["", "MINDsmall/"])
def test_mind_has_each_history_once_and_then_the_clicks_in_time_order(tmp_path, inside):
    write_mind(tmp_path, inside=inside)
    data = dataset(SOURCES["mind-small"].read, tmp_path)
    assert data.items["item_id"].tolist() == ["N1", "N2", "N3", "N4", "N5"]
    assert data.items["text"].tolist()[0] == 'The "Brands | Shop these. | lifestyle | royals'
    assert data.items["title"].tolist()[3] == "N4"
    assert data.users["user_id"].tolist() == ["U1", "U2"]
    assert data.events["item"].tolist() == [2, 1, 1, 0, 3, 4]
    assert data.events["action"].tolist() == ["history", "history", "click", "click", "click", "click"]
    times = pd.to_datetime(data.events["timestamp"], unit="s").astype("str").tolist()
    assert times[0] == times[1] and times[0].startswith("2019-10-12")
    assert times[2:4] == ["2019-11-10 00:30:00", "2019-11-11 21:05:58"]


def test_mind_leaves_malformed_rows_out_in_one_warning(tmp_path):
    wrong = (
        "3\tU3\t2019-11-11\tN1\tN2-1\n4\tU3\t11/11/2019 9:05:58 AM\tN9\tN2\n5\tU3\n"
        "6\tU3\t11/11/2019 9:05:58 AM\tN9\tN2-1\n7\t\t11/11/2019 9:05:58 AM\tN1\tN2-1\n"
    )
    write_mind(tmp_path, TRAIN + wrong, NEWS + "N8\ttoo short\n" + news(1, "again"))
    data, message = with_one_warning(SOURCES["mind-small"].read, tmp_path)
    assert message.startswith("source: 4 problems, whose rows are left out: behaviors.tsv row 6: 'nan' is no id; ")
    assert data.left_out["problem"].tolist()[-1] == "'NaT' is no number"  # "2019-11-11" is not how MIND writes a time
    assert data.n_events == 7 and data.n_users == 3  # U3's click counts; the unknown news in the history does not


def test_mind_without_a_good_row_is_named(tmp_path):
    write_mind(tmp_path, train="nothing\n", shown="nothing\n")
    with pytest.raises(InputError, match=r"behaviors\.tsv has no rows"):
        dataset(SOURCES["mind-small"].read, tmp_path)


def test_a_letter_that_is_no_utf_8_costs_the_letter_and_not_the_row(tmp_path):
    write_mind(tmp_path, articles=NEWS.encode().replace(b"Dogs", b"D\xe9gs"))
    assert dataset(SOURCES["mind-small"].read, tmp_path).items["title"].tolist()[1] == "D\ufffdgs"
