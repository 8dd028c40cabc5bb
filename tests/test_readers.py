"""Each public set in its own format, written here: what is read from it, and what becomes of malformed rows."""

from __future__ import annotations

import gzip
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import m6rec.data as d
from m6rec.data import readers
from m6rec.data.schema import Frames, Report
from m6rec.data.sources import SOURCES
from m6rec.errors import InputError

PNG = b"no matter: readers give names, and never open a picture"


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


def json_lines(path: Path, rows: list) -> None:
    path.parent.mkdir(exist_ok=True)
    with gzip.open(path, "wt") as file:
        file.writelines((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


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
    (tmp_path / "Toys_and_Games.txt").write_text("1 5 3\n2\n3 x 4\n\n4 -1 2\n5 5\n")
    (tmp_path / "Toys_and_Games_item2attributes.json").write_text("{}")
    with pytest.warns(UserWarning, match=r"4 problems, .*: .* row 1: is .* row 2: is .* row 3: is .* and 1 more\."):
        data = dataset(SOURCES["amazon-toys"].read, tmp_path)
    assert data.n_users == 2 and data.n_items == 2 and data.n_events == 3
    assert data.items["title"].tolist() == ["Toys and Games product 3", "Toys and Games product 5"]
    (tmp_path / "Toys_and_Games.txt").write_text("one two\n")
    with pytest.raises(InputError, match="has no line of a user number and item numbers"):
        dataset(SOURCES["amazon-toys"].read, tmp_path)


@pytest.mark.parametrize("text", ["{", "[1]", '{"3": 7}'])
def test_attributes_of_another_shape_are_named(tmp_path, text):
    (tmp_path / "Beauty.txt").write_text("1 5 3 9\n")
    (tmp_path / "Beauty_item2attributes.json").write_text(text)
    with pytest.raises(InputError, match=r"Beauty_item2attributes\.json cannot be read .*give one JSON object"):
        dataset(SOURCES["amazon-beauty"].read, tmp_path)


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


# ----------------------------------------------------------------------------------------------------- amazon 2023


def picture(name: str, variant: str = "MAIN", size: str = "hi_res") -> dict:
    return {"thumb": None, "large": None, "hi_res": None, "variant": variant, size: f"https://example.org/I/{name}"}


PRODUCTS = [
    {
        "parent_asin": "B01",
        "title": "Sea  Salt\nSpray",
        "features": ["8 oz", "vegan"],
        "description": ["Smells of sea."],
        "categories": ["Beauty", "Hair"],
        "images": [picture("side.jpg", "PT01"), picture("main.jpg")],
        "price": None,
    },
    {"parent_asin": "B02", "title": None, "features": [], "description": [], "categories": None, "images": []},
    {"parent_asin": "B03", "title": "Comb", "images": [picture("comb.jpg", "PT02", "large")]},
]
REVIEWS = [
    {"user_id": "U1", "parent_asin": "B01", "asin": "B01X", "timestamp": 1_600_000_000_900, "rating": 5.0, "text": "!"},
    {"user_id": "U1", "parent_asin": "B03", "asin": "B03", "timestamp": 1_600_000_000_100, "rating": 1},
    {"user_id": "U2", "parent_asin": "B02", "asin": "B02", "timestamp": 1_500_000_000_000, "rating": 3.0},
]


def write_amazon_2023(folder: Path, products: list = PRODUCTS, reviews: list = REVIEWS) -> None:
    json_lines(folder / "meta_categories" / "meta_All_Beauty.jsonl.gz", products)
    json_lines(folder / "review_categories" / "All_Beauty.jsonl.gz", reviews)


def test_amazon_2023_joins_the_texts_and_orders_one_second_by_its_milliseconds(tmp_path):
    write_amazon_2023(tmp_path)
    frames = readers.amazon_2023(tmp_path, Report(), "All_Beauty")
    data = dataset(readers.amazon_2023, tmp_path, "All_Beauty")
    assert data.items["text"].tolist() == [
        "Sea Salt Spray | 8 oz vegan | Smells of sea. | Beauty Hair", "B02", "Comb",
    ]  # fmt: skip
    assert data.items["title"].tolist() == ["Sea Salt Spray", "B02", "Comb"]
    addresses = ["https://example.org/I/main.jpg", None, "https://example.org/I/comb.jpg"]
    assert [a if isinstance(a, str) else None for a in data.items["image_address"]] == addresses
    assert frames.interactions["item_id"].tolist() == ["B02", "B03", "B01"]
    assert data.events["item"].tolist() == [1, 2, 0] or data.events["item"].tolist() == [2, 0, 1]
    assert sorted(data.events["timestamp"]) == [1_500_000_000, 1_600_000_000, 1_600_000_000]
    assert sorted(data.events["value"]) == [1.0, 3.0, 5.0] and frames.media is None


def test_amazon_2023_takes_the_photographs_that_were_saved_beside_it(tmp_path):
    write_amazon_2023(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "comb.jpg").write_bytes(PNG)
    frames = readers.amazon_2023(tmp_path, Report(), "All_Beauty")
    assert frames.media.path == tmp_path / "images"
    assert [name if isinstance(name, str) else None for name in frames.items["image"]] == [None, None, "comb.jpg"]


def test_amazon_2023_leaves_malformed_lines_out_in_one_warning(tmp_path):
    products = [
        "{not json",
        *PRODUCTS,
        "[1]",
        {"title": "no id"},
        {"parent_asin": "B01"},
        {"parent_asin": "", "title": 5},
    ]
    reviews = [
        *REVIEWS,
        {"user_id": "U1", "parent_asin": "B09", "timestamp": 1, "rating": 1.0},
        {"user_id": "U1", "parent_asin": "B01", "timestamp": None, "rating": 1.0},
        '{"user_id": "U1", "parent_asin": "B01", "timestamp": 1, "rating": NaN}',
        {"user_id": "U1", "parent_asin": "B01", "timestamp": 10**30, "rating": 1.0},
        {"user_id": ["U1"], "parent_asin": "B01", "timestamp": 1, "rating": 1.0},
        "",
    ]
    write_amazon_2023(tmp_path, products, reviews)
    data, message = with_one_warning(readers.amazon_2023, tmp_path, "All_Beauty")
    assert message.startswith("source: 11 problems, whose rows are left out: meta_All_Beauty.jsonl.gz row 0: is no")
    assert "row 4: is no JSON object with parent_asin, title, features, description" in message
    assert (data.n_items, data.n_events) == (3, 3)


def test_amazon_2023_without_a_good_row_is_named(tmp_path):
    write_amazon_2023(tmp_path, products=["nothing"])
    with pytest.raises(InputError, match=r"meta_All_Beauty\.jsonl\.gz has no rows"):
        dataset(readers.amazon_2023, tmp_path, "All_Beauty")
    write_amazon_2023(tmp_path, reviews=["nothing"])
    with pytest.raises(InputError, match=r"All_Beauty\.jsonl\.gz has no rows"):
        dataset(readers.amazon_2023, tmp_path, "All_Beauty")


def test_a_gzip_that_is_cut_short_is_named(tmp_path):
    write_amazon_2023(tmp_path)
    path = tmp_path / "review_categories" / "All_Beauty.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(InputError, match=r"All_Beauty\.jsonl\.gz cannot be read .*replace it and load again"):
        dataset(readers.amazon_2023, tmp_path, "All_Beauty")


def test_a_line_without_an_end_is_never_held_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "LINE", 1000)
    write_amazon_2023(tmp_path, products=[*PRODUCTS, "x" * 2500])
    assert with_one_warning(readers.amazon_2023, tmp_path, "All_Beauty")[1].startswith("source: 3 problems")


# ------------------------------------------------------------------------------------------------------- microlens

PAIRS = "user,item,timestamp\n1,20,1583378629552\n1,3,1583378629100\n2,3,1584448147612\n"
VIDEOS = "3,First, and with a comma\n20,Bicycle “café”\n21,\n"


def write_microlens(folder: Path, pairs: str = PAIRS, titles: str = VIDEOS) -> None:
    (folder / "MicroLens-100k_pairs.csv").write_text(pairs)
    (folder / "MicroLens-100k_title_en.csv").write_text(titles, encoding="utf-8")


def test_microlens_finds_its_covers_in_the_zip(tmp_path):
    write_microlens(tmp_path)
    place = tmp_path / "MicroLens-100k_covers.zip"
    zipped(place, **{"covers/3.jpg": PNG, "covers/20.png": PNG, "covers/readme.txt": "21"})
    expected = ["covers/3.jpg", "covers/20.png", None]
    frames = readers.microlens(tmp_path, Report())
    assert frames.media.path == place
    assert dataset(readers.microlens, tmp_path).media.read(expected[1]) == PNG
    assert [name if isinstance(name, str) else None for name in frames.items["image"]] == expected


def test_microlens_without_covers_has_titles_and_events_in_order(tmp_path):
    write_microlens(tmp_path)
    data = dataset(readers.microlens, tmp_path)
    assert data.media is None and "image" not in data.items
    assert data.items["title"].tolist() == ["First, and with a comma", "Bicycle “café”", "Video 21"]
    assert data.items["text"].tolist() == ["First, and with a comma", "Bicycle “café”", ""]
    assert data.events["item"].tolist() == [0, 1, 0]  # two events of one second, by their milliseconds
    assert data.events["timestamp"].tolist() == [1583378629, 1583378629, 1584448147]


def test_microlens_leaves_malformed_rows_out_in_one_warning(tmp_path):
    titles = "item,title\n" + VIDEOS + "no comma\n3,again\n"
    write_microlens(tmp_path, PAIRS + "1,99,1583378629552\n1,3\n1,3,soon\n1,3,1583378629552000\n", titles)
    data, message = with_one_warning(readers.microlens, tmp_path)
    assert message.startswith("source: 6 problems, whose rows are left out: MicroLens-100k_title_en.csv row 4: is")
    assert (data.n_items, data.n_events) == (3, 3)


@pytest.mark.parametrize("pairs", ["a,b\n1,2\n", "user,item,timestamp\n", ""])
def test_microlens_names_the_columns_that_it_needs(tmp_path, pairs):
    write_microlens(tmp_path, pairs)
    with pytest.raises(InputError, match=r"MicroLens-100k_pairs\.csv (needs the columns user, item|has no|is empty)"):
        dataset(readers.microlens, tmp_path)
    write_microlens(tmp_path, PAIRS, "nothing")
    with pytest.raises(InputError, match=r"MicroLens-100k_title_en\.csv has no rows"):
        dataset(readers.microlens, tmp_path)


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
        "3\tU3\t2019-11-11\tN1\tN2-1\n4\tU3\t11/11/2019 9:05:58 AM\tN1\tN2\n5\tU3\n"
        "6\tU3\t11/11/2019 9:05:58 AM\tN9\tN2-1\n7\t\t11/11/2019 9:05:58 AM\tN1\tN2-1\n"
    )
    write_mind(tmp_path, TRAIN + wrong, NEWS + "N8\ttoo short\n" + news(1, "again"))
    data, message = with_one_warning(SOURCES["mind-small"].read, tmp_path)
    assert message.startswith(
        "source: 6 problems, whose rows are left out: behaviors.tsv row 2: '2019-11-11' is no time"
    )
    assert data.n_events == 7 and data.n_users == 3  # U3's click counts; the unknown news in the history does not


def test_mind_without_a_good_row_is_named(tmp_path):
    write_mind(tmp_path, train="nothing\n", shown="nothing\n")
    with pytest.raises(InputError, match=r"behaviors\.tsv has no good row"):
        dataset(SOURCES["mind-small"].read, tmp_path)


def test_a_letter_that_is_no_utf_8_costs_the_letter_and_not_the_row(tmp_path):
    write_mind(tmp_path, articles=NEWS.encode().replace(b"Dogs", b"D\xe9gs"))
    assert dataset(SOURCES["mind-small"].read, tmp_path).items["title"].tolist()[1] == "D\ufffdgs"
