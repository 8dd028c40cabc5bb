"""One's own data: folders in two formats, the first problem raised, and every problem in one table."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_media import HUM, MUG, png_header, recording

import m6rec.data as d
from m6rec.config import InputError

COLUMNS = ["table", "row", "column", "problem", "fix"]


def frames() -> dict[str, pd.DataFrame]:
    items = pd.DataFrame({"item_id": [1, 2, 3, 4], "title": ["Mug", "Hum", "Hat", "007"], "price": [5.0, None, 9.5, 1]})
    users = pd.DataFrame({"user_id": [7, 8], "age": [30, 40]})
    rows = [(7, 1, 10, 4.0), (7, 2, 20, 3.0), (8, 3, 15, 5.0), (8, 4, 25, 1.0), (7, 3, 30, 2.0)]
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "value"]).assign(device="tv")
    return {"items": items, "users": users, "interactions": events}


def changed(table: str, row: int, column: str, value: object) -> dict[str, pd.DataFrame]:
    parts = frames()
    values = parts[table][column].astype(object)
    values[row] = value
    parts[table][column] = values
    return parts


@pytest.fixture
def media(tmp_path) -> Path:
    """Two good files and bad ones of every kind."""
    place = tmp_path / "media"
    place.mkdir()
    (tmp_path / "secret.png").write_bytes(MUG)
    (place / "link.png").symlink_to("../secret.png")
    files = {"mug.png": MUG, "hum.wav": HUM, "torn.png": MUG[:200], "huge.png": png_header(40_000, 40_000)}
    for name, content in (files | {"empty.wav": recording(np.zeros(0)), "silent.wav": recording(np.zeros(99))}).items():
        (place / name).write_bytes(content)
    return place


# ------------------------------------------------------------------------------------- one bad cell, told in two ways

BAD_CELLS = [
    ("items", 1, "item_id", 1, "'1' is there already", "keep one row for each id"),
    ("items", 1, "title", "x" * 2**20, "'xxx.*…' is longer than 100,000 characters", "shorten it"),
    ("users", 1, "user_id", None, "is no id", "drop the row or give the id"),
    ("interactions", 1, "timestamp", np.nan, "'nan' is no time", "give UTC seconds or a datetime"),
    ("interactions", 1, "timestamp", "soon", "'soon' is no time", "give UTC seconds or a datetime"),
    ("interactions", 1, "item_id", 99, "'99' is not in items", "add it to items or drop the row"),
    ("interactions", 1, "user_id", 99, "'99' is not in users", "add it to users or drop the row"),
    ("interactions", 1, "value", np.inf, "'inf' is no number", "give a number"),
]


@pytest.mark.parametrize(("table", "row", "column", "value", "problem", "fix"), BAD_CELLS)
def test_a_bad_cell_is_raised_and_listed_in_the_same_words(table, row, column, value, problem, fix):
    parts = changed(table, row, column, value)
    with pytest.raises(InputError, match=f"{table} row {row}, column '{column}': .*{problem}; {fix}") as raised:
        d.Dataset.from_frames(**parts)
    assert len(str(raised.value)) < 250
    found = d.Dataset.validate(**parts)
    first = found.iloc[0]
    assert (first["table"], first["row"], first["column"]) == (table, row, column)
    assert f"'{column}': {first['problem']}; {first['fix']}." in str(raised.value)
    assert list(found.columns) == COLUMNS


@pytest.mark.parametrize("table", ["items", "users", "interactions"])
def test_an_empty_table_is_a_problem(table):
    parts = frames()
    parts[table] = parts[table].head(0)
    assert f"{table} has no rows; give at least one" in said(d.Dataset.validate(**parts))
    with pytest.raises(InputError, match=f"{table} has no rows; give at least one"):
        d.Dataset.from_frames(**parts)


def said(found: pd.DataFrame) -> str:
    return "\n".join(f"{row.table} {row.problem}; {row.fix}" for row in found.itertuples())


def test_good_frames_have_no_problem():
    found = d.Dataset.validate(**frames())
    assert found.empty and list(found.columns) == COLUMNS


def test_all_problems_of_all_tables_are_told():
    parts = changed("items", 3, "item_id", 1)
    parts["interactions"] = pd.concat([parts["interactions"]] * 2, ignore_index=True).astype(object)
    parts["interactions"].loc[[5, 6], "timestamp"] = [None, 1e13]
    parts["interactions"].loc[5, "value"] = "good"
    found = d.Dataset.validate(**parts)
    assert list(zip(found["table"], found["row"], found["column"], strict=True)) == [
        ("items", 3, "item_id"),
        ("interactions", 3, "item_id"),
        ("interactions", 8, "item_id"),
        ("interactions", 5, "timestamp"),
        ("interactions", 6, "timestamp"),
        ("interactions", 5, "value"),
    ]


def test_a_table_that_cannot_be_used_is_told_with_what_was_found_before():
    parts = changed("items", 1, "item_id", None)
    parts["interactions"] = parts["interactions"].rename(columns={"item_id": "the_id"})
    found = d.Dataset.validate(**parts)
    assert found["problem"].tolist() == [
        "'None' is no id",
        "interactions has no column 'item_id' (did you mean the_id?)",
    ]
    assert found["fix"][1] == "rename a column or add it" and pd.isna(found["row"][1])
    with pytest.raises(
        InputError, match=r"interactions has no column 'item_id' \(did you mean the_id\?\); rename a column or"
    ):
        d.Dataset.from_frames(**parts | {"items": frames()["items"]})
    bad = changed("interactions", 0, "item_id", 99)
    bad["interactions"]["item_id"] = 99
    assert "interactions has no good row" in said(d.Dataset.validate(**bad))
    double = frames()
    double["users"].columns = ["user_id", "user_id"]
    assert "users has two columns 'user_id'; rename one" in said(d.Dataset.validate(**double))


def test_thousands_of_problems_are_all_listed():
    parts = frames()
    parts["interactions"] = pd.DataFrame(
        {"user_id": 7, "item_id": [1] + [99] * 1500, "value": ["1"] + ["x"] * 700 + ["1"] * 800}
    )
    assert d.Dataset.validate(**parts)["column"].value_counts().to_dict() == {"item_id": 1500, "value": 700}


def test_times_are_read_as_python_objects_and_with_zones():
    times = [pd.Timestamp(10, unit="s"), pd.Timestamp(20, unit="s", tz="Asia/Shanghai").to_pydatetime(),
             np.datetime64(15, "s"), "1970-01-01T08:00:25+08:00", 30.9]  # fmt: skip
    parts = frames()
    parts["interactions"]["timestamp"] = pd.Series(times, dtype=object)
    assert d.Dataset.from_frames(**parts).fingerprint == d.Dataset.from_frames(**frames()).fingerprint


def test_times_are_read_as_people_write_them():
    parts = changed("interactions", 1, "timestamp", "1970-01-01T00:00:20+00:00")
    parts["interactions"].loc[0, "timestamp"] = "10"
    assert d.Dataset.from_frames(**parts).fingerprint == d.Dataset.from_frames(**frames()).fingerprint


# ----------------------------------------------------------------------------------------------------------- media

BAD_FILES = [
    ("image", "torn.png", "'torn.png' is a damaged image"),
    ("image", "huge.png", "'huge.png' is an image above 50 megapixels; scale it down"),
    ("image", "gone.png", "'gone.png' is no file among the media; add it"),
    ("image", "hum.wav", "'hum.wav' is no image that can be read"),
    ("image", "link.png", "'link.png' climbs out of the media folder; give a path"),
    ("image", "../secret.png", "'../secret.png' climbs out of the media folder; give a path"),
    ("sound", "/etc/passwd", "'/etc/passwd' climbs out of the media folder; give a path"),
    ("sound", "empty.wav", "'empty.wav' is a sound whose peak in its first 10 seconds is 0"),
    ("sound", "silent.wav", "'silent.wav' is a sound whose peak in its first 10 seconds is 0"),
    ("sound", 5.0, "'5.0' is no file name"),
]


@pytest.mark.parametrize(("column", "name", "message"), BAD_FILES)
def test_a_bad_file_is_listed_by_its_row(media, column, name, message):
    parts = frames()
    parts["items"]["image"] = ["mug.png", "./mug.png", None, None]
    parts["items"]["sound"] = ["hum.wav", None, "", None]
    parts["items"][column] = pd.Series(["hum.wav" if column == "sound" else "mug.png", None, name, None], dtype=object)
    found = d.Dataset.validate(**parts, media=media)
    assert found[["table", "row", "column"]].to_numpy().tolist() == [["items", 2, column]]
    assert message in said(found)
    if ("climbs" in message and name != "link.png") or "no file name" in message:
        with pytest.raises(InputError, match=f"items row 2, column '{column}': '{name}' "):
            d.Dataset.from_frames(**parts, media=media)
    else:  # files are read later, and count as absent then
        assert d.Dataset.from_frames(**parts, media=media).items[column][2] == name


def test_names_without_media_and_media_that_are_none_are_told(tmp_path):
    parts = frames()
    parts["items"]["image"] = ["mug.png", None, None, None]
    with pytest.raises(InputError, match="items column 'image': names files that are nowhere; give media="):
        d.Dataset.from_frames(**parts)
    found = d.Dataset.validate(**parts, media=tmp_path / "nowhere")
    assert "is no folder and no zip file" in said(found)


# --------------------------------------------------------------------------------------------------------- folders


def written(folder: Path, ending: str, parts: dict[str, pd.DataFrame]) -> Path:
    folder.mkdir(exist_ok=True)
    for table, frame in parts.items():
        if ending == "csv":
            frame.to_csv(folder / f"{table}.csv", index=False)
        else:
            frame.to_parquet(folder / f"{table}.parquet", index=False)
    return folder


def with_media() -> dict[str, pd.DataFrame]:
    parts = frames()
    parts["items"]["image"] = ["mug.png", None, None, "mug.png"]
    parts["items"]["sound"] = [None, "hum.wav", None, None]
    return parts


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_folder_is_the_same_as_its_frames(media, tmp_path, ending):
    folder = written(tmp_path / "shop", ending, with_media())
    wanted = d.Dataset.from_frames(**with_media(), media=media).fingerprint
    media.rename(folder / "media")
    data = d.Dataset.from_folder(folder)
    assert data.name == "shop" and data.fingerprint == wanted
    assert data.items["title"].tolist() == ["Mug", "Hum", "Hat", "007"]
    assert d.Dataset.validate(folder).empty and d.Dataset.validate(str(folder)).empty


def test_media_are_found_in_a_zip_in_their_subfolder_or_beside_the_tables(tmp_path):
    prints = set()
    for place in ("media.zip", "media", "."):
        folder = written(tmp_path / f"shop-{place}", "csv", with_media())
        if place == "media.zip":
            with zipfile.ZipFile(folder / place, "w") as archive:
                archive.writestr("mug.png", MUG)
                archive.writestr("hum.wav", HUM)
        else:
            (folder / "media").mkdir()  # there in both cases: the place that holds the files is taken
            (folder / place / "mug.png").write_bytes(MUG)
            (folder / place / "hum.wav").write_bytes(HUM)
        data = d.Dataset.from_folder(folder)
        prints.add(data.fingerprint)
        assert data.modalities == ("text", "image", "sound")
    assert len(prints) == 1
    parts = with_media()
    parts["items"]["image"] = "media/" + parts["items"]["image"]
    folder = written(tmp_path / "shop", "csv", parts)
    (folder / "media").mkdir()
    (folder / "media" / "mug.png").write_bytes(MUG)
    assert d.Dataset.from_folder(folder).media.path == folder


def test_a_folder_without_media_is_the_same_as_its_frames(tmp_path):
    folder = written(tmp_path / "shop", "csv", frames())
    (folder / "media.zip").write_bytes(b"torn")  # never opened
    data = d.Dataset.from_folder(folder, name="frames")
    assert data.media is None and data.fingerprint == d.Dataset.from_frames(**frames()).fingerprint


def test_ids_keep_their_zeros(tmp_path):
    parts = frames()
    parts["items"]["item_id"] = ["1", "01", "001", "4"]
    parts["interactions"]["item_id"] = ["1", "01", "001", "4", "1"]
    data = d.Dataset.from_folder(written(tmp_path / "shop", "csv", parts))
    assert data.items["item_id"].tolist() == ["1", "01", "001", "4"] and data.item_codes(["01"]).tolist() == [1]


@pytest.mark.parametrize("row", [0, 2])  # the first row decides what the parser expects
def test_a_row_with_too_many_fields_is_told(tmp_path, row):
    folder = written(tmp_path / "shop", "csv", frames())
    lines = (folder / "items.csv").read_text().splitlines()
    lines[1 + row] = f"{row + 1},Mug, red, large,5.0"
    (folder / "items.csv").write_text("\n".join(lines) + "\n\n")
    reason = "Expected 3 fields in line 4, saw 5" if row else "Length of header or names does not match"
    with pytest.raises(InputError, match=rf"items\.csv cannot be read \(.*{reason}.*put texts with commas in quotes"):
        d.Dataset.from_folder(folder)
    (folder / "items.csv").write_text('item_id,title\n1,"Mug, red"\n\n2,\n')
    assert d.Dataset.validate(folder)["problem"][0].startswith("is missing in 1 rows")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"items\.csv cannot be read \(No columns.*\); save it in UTF-8 with a header"),
        (b"item_id,title\n", "items has no rows"),
        (b"item_id,title\n1,Caf\xe9\n", r"items\.csv cannot be read \(.*can't decode byte 0xe9.*\); save it in UTF-8"),
        (
            b'item_id,title\n1,"Mug\n2,Hum\n',
            r"items\.csv cannot be read \(.*EOF inside string.*close every quote",
        ),
        (b"number,title\n1,Mug\n", "items has no column 'item_id'"),
    ],
)
def test_a_file_that_is_no_table_is_named(tmp_path, content, message):
    folder = written(tmp_path / "shop", "csv", changed("interactions", 1, "value", "good"))
    (folder / "items.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        d.Dataset.from_folder(folder)
    assert re.search(message, said(d.Dataset.validate(folder)))


def test_a_folder_without_its_tables_or_with_two_of_them_is_told(tmp_path):
    with pytest.raises(InputError, match=r"nowhere is no folder; give one that holds items\.csv"):
        d.Dataset.from_folder(tmp_path / "nowhere")
    assert "nowhere is no folder" in said(d.Dataset.validate(tmp_path / "nowhere"))
    folder = written(tmp_path / "shop", "csv", frames())
    (folder / "users.csv").unlink()
    assert d.Dataset.from_folder(folder).profile_columns == []
    written(folder, "parquet", {"items": frames()["items"]})
    assert "has 2 files of items; keep or add items.csv or items.parquet" in said(d.Dataset.validate(folder))
    (folder / "items.csv").unlink()
    (folder / "interactions.csv").unlink()
    found = said(d.Dataset.validate(folder))
    assert "has 0 files of interactions; keep or add interactions.csv or interactions.parquet" in found
    (folder / "items.parquet").write_bytes(b"PAR1 torn")
    (folder / "media.zip").write_bytes(b"torn")
    with pytest.raises(InputError, match=r"items\.parquet cannot be read"):
        d.Dataset.from_folder(folder)


def test_a_damaged_zip_of_media_is_told(tmp_path):
    folder = written(tmp_path / "shop", "csv", with_media())
    (folder / "media.zip").write_bytes(b"torn")
    assert "and no zip file" in said(d.Dataset.validate(folder))
    with pytest.raises(InputError, match=r"media\.zip is no folder and no zip file"):
        d.Dataset.from_folder(folder)
