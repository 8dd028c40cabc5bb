"""Tables, ids, times and histories in every form that people have them in: one meaning, or one sentence."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from fixtures import small_model

import m6rec.data as d
from m6rec.config import InputError
from m6rec.data.tables import seconds
from m6rec.evaluate import evaluate

START = 1_600_000_000


def frames() -> dict[str, pd.DataFrame]:
    """Six people with five events each of twelve items, a column of each type."""
    items = pd.DataFrame({"item_id": range(12), "title": [f"Film {i}" for i in range(12)], "year": 1990.5})
    items["genres"] = ["war", None] * 6
    rows = [(u, (u + 2 * t) % 12, START + 9999 * u + 3600 * t, 3.0, "tv") for u in range(6) for t in range(5)]
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "value", "device"])
    return {"items": items, "users": None, "interactions": events}


def changed(table: str, **columns: object) -> dict[str, pd.DataFrame]:
    parts = frames()
    return parts | {table: parts[table].assign(**columns)}


class AnyOrder:
    def scores(self, users: d.Targets) -> np.ndarray:
        return np.tile(np.arange(12.0), (len(users), 1))


class Stream:
    """What a library has that speaks Arrow and knows nothing of pandas."""

    def __init__(self, frame: pd.DataFrame):
        self.table = pa.Table.from_pandas(frame)

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


FORMS = {
    "nullable": lambda f: f.convert_dtypes(),
    "Arrow types": lambda f: f.convert_dtypes(dtype_backend="pyarrow"),
    "objects": lambda f: f.astype(object),
    "categories": lambda f: f.astype("category"),
    "columns named by objects": lambda f: f.set_axis(pd.CategoricalIndex(f.columns), axis=1),
    "pyarrow table": pa.Table.from_pandas,
    "record batch": pa.RecordBatch.from_pandas,
    "stream": Stream,
    "dict": lambda f: f.to_dict("list"),
    "records": lambda f: f.to_dict("records"),
}


@pytest.fixture(scope="module")
def model():
    return small_model(d.Dataset.from_frames(**frames()))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_table_in_any_form_is_the_same_data_and_the_same_history(model, form):
    items, _, events = frames().values()
    assert d.Dataset.from_frames(form(items), None, form(events)).fingerprint == model.data.fingerprint
    past = events[events["user_id"] == 1]
    assert torch.equal(model.extract_context(form(past)).gap, model.extract_context(past).gap)
    assert model.extract_context(form(past)).item.tolist() == [past["item_id"].tolist()]


NO_TABLES = [5, "x", [1], np.zeros((2, 2)), pd.Series([1]), pa.array([1]), {"item_id": [1], "title": ["a", "b"]}]


@pytest.mark.parametrize("bad", [*NO_TABLES, {"a": [1]}, [{"a": 1}]])
def test_what_is_no_table_is_told(bad):
    with pytest.raises(InputError, match=r"items (is a|cannot be read|has no column)"):
        d.Dataset.from_frames(bad, None, frames()["interactions"])


@pytest.mark.parametrize(
    "history",
    [
        (1, 2), np.array([1, 2]), np.array([1.0, 2.0], np.float32), pd.Series([1, 2], index=[7, 7]), pd.Index([1, 2]),
        pd.array([1, 2]), torch.tensor([1, 2]), torch.tensor([1.0, 2.0]), pa.array([1, 2]), {1: 0, 2: 0}.keys(),
        iter([1, 2]), (x for x in "12"), map(float, [1, 2]), [b"1", Decimal(2)], ["Film 1", 2], {"item_id": ["1", 2]},
    ],
)  # fmt: skip
def test_a_history_of_any_sort_is_the_same_person(model, history):
    person = model.person(history=history)
    assert person.history == [1, 2] and not person.new


def test_an_iterator_is_read_once_and_keeps_its_new_items(model):
    person = model.person(history=iter([{"title": "New"}, 3]))
    assert person.history == [12, 3] and person.new == [{"title": "New"}]


@pytest.mark.parametrize("bad", ["Film 1", b"1", 3, torch.tensor(1), {1, 2}, {"a": [1]}, pa.array([[1]]), [None]])
def test_a_history_without_order_or_ids_is_told(model, bad):
    with pytest.raises(InputError, match=r"give a list|give one item_id|is not in the catalogue|each column"):
        model.person(history=bad)


IDS = {
    "half": [i + 0.5 for i in range(12)],
    "floats": [float(i) for i in range(12)],
    "float32": list(np.arange(12, dtype=np.float32)),
    "large": [2**60 + i for i in range(12)],
    "bytes": [b"%d" % i for i in range(12)],
    "UUID": [uuid.UUID(int=i) for i in range(12)],
    "dates": list(pd.date_range("2020", periods=12)),
    "texts": ["1.0", "1", "01", " 1", "é", "a,b", "", "None", "nan", "1e3", "x" * 99, "👩"],
    "mixed": [1, "2", 3.5, True, *range(10, 18)],
}


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
def test_ids_of_any_type_are_found_again_as_they_are_given_and_as_they_are_shown(ids):
    parts = frames()
    for table in ("items", "interactions"):
        parts[table]["item_id"] = pd.Series([ids[i] for i in parts[table]["item_id"]])
    data = d.Dataset.from_frames(**parts)
    shown = data.items["item_id"]
    for asked in (ids, shown, map(str, shown)):
        asked = list(asked)
        assert data.item_codes(asked).tolist() == list(range(12)) == data.history_codes(asked).tolist()
    if isinstance(ids[0], float) and ids[0].is_integer():
        assert shown.dtype == np.int64 and data.item_codes(7).tolist() == [7]


@pytest.mark.parametrize(
    "ids", [[*range(11), np.inf], [2.0**53 + 2 * i for i in range(12)], np.float32([2**24 + 2 * i for i in range(12)])]
)
def test_floats_that_cannot_tell_ids_apart_are_refused(ids):
    with pytest.raises(InputError, match=r"column 'item_id': .* is a rounded number; give integers, float64 or text"):
        d.Dataset.from_frames(**changed("items", item_id=ids))


def test_an_id_in_two_spellings_is_one_id():
    with pytest.raises(InputError, match=r"items row 1, column 'item_id': '1\.0' is there already"):
        d.Dataset.from_frames(**changed("items", item_id=pd.Series([1, 1.0, *range(2, 12)], dtype=object)))
    data = d.Dataset.from_frames(**frames())
    with pytest.raises(InputError, match="item '7' is in frames already"):
        data.with_items({"item_id": [7.0], "title": ["again"]})
    assert data.with_items({"item_id": [31.0]}).items["item_id"].dtype == np.int64


def test_a_text_that_is_one_item_s_id_and_another_s_title_is_asked_about():
    data = d.Dataset.from_frames(**changed("items", title=["7", "1 (1999)", *"abcdefghij"]))
    for written, both in (("7", "7 'f' and the title of 0 '7'"), ("1", None)):
        if both:
            with pytest.raises(InputError, match=f"'{written}' is the id of {both}: write the title in full"):
                data.history_codes([written])
        else:
            assert data.history_codes([written]).tolist() == [1]  # both mean the same item
    assert data.history_codes([7, "1 (1999)"]).tolist() == [7, 1] and data.item_codes(["7"]).tolist() == [7]


def test_columns_named_like_the_codes_are_refused_and_not_overwritten():
    for name in ("user", "item"):
        with pytest.raises(InputError, match=f"interactions has a column '{name}', .*; rename it"):
            d.Dataset.from_frames(**changed("interactions", **{name: "web"}))
    with pytest.raises(InputError, match="items has two columns '5'"):
        d.Dataset.from_frames(
            frames()["items"].assign(**{"5": 1}).rename(columns={"year": 5}), None, frames()["interactions"]
        )
    bare = pd.DataFrame({"user": [1], "item": [1]})
    with pytest.raises(
        InputError, match=r"no column 'user_id' \(did you mean user\?\) and 'item_id' \(did you mean item"
    ):
        d.Dataset.from_frames(frames()["items"], None, bare)


# ----------------------------------------------------------------------------------------------------------- times


@pytest.mark.parametrize(
    "form",
    [
        lambda t: dt.datetime.fromtimestamp(t, dt.UTC),
        lambda t: dt.datetime.fromtimestamp(t, dt.UTC).replace(tzinfo=None),  # without a zone: UTC
        lambda t: np.datetime64(t, "s"),
        lambda t: pd.Timestamp(t, unit="s", tz="Asia/Shanghai"),
        lambda t: pd.Timestamp(t, unit="s", tz=["Asia/Shanghai", None][t // 3600 % 2]),
        lambda t: pd.Timestamp(t + 8 * 3600, unit="s").isoformat() + "+08:00",
        lambda t: str(pd.Timestamp(t, unit="s")),
        str, float, Decimal, lambda t: t * 10**3, lambda t: str(t * 10**3), lambda t: t * 10**6, lambda t: t * 10**9,
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [None, object])
def test_a_time_in_any_form_is_utc_seconds(form, dtype):
    times = [START, START + 3600, START + 7300]
    assert seconds(pd.Series([form(t) for t in times], dtype=dtype)).tolist() == times


def test_zeros_decide_no_unit_and_what_is_no_time_in_any_unit_stays_so():
    assert seconds(pd.Series([0, START * 1000])).tolist() == [0, START]
    assert seconds(pd.Series([1e300]))[0] > 1e200


@pytest.mark.parametrize("form", [int, float, str])
def test_whole_numbers_that_are_dates_are_no_seconds(form):
    def times(*numbers):
        return seconds(pd.Series([None if n is None else form(n) for n in numbers])).tolist()

    assert times(20240131, 20240201) == [1706659200, 1706745600]
    assert times(202401312359, 202402010000) == [1706745540, 1706745600]
    assert times(20240131235958, 20240201000000) == [1706745598, 1706745600]
    assert times(20240131, 86400) == [20240131, 86400]  # seconds
    np.testing.assert_equal(times(20240131, 20240230, None), [1706659200, np.nan, np.nan])
    with pytest.raises(InputError, match=r"row 1, column 'timestamp': '20240230.* is no time; give UTC seconds or"):
        d.Dataset.from_frames(**changed("interactions", timestamp=[form(20240229), form(20240230)] * 15))


def test_days_are_their_midnights_and_milliseconds_among_seconds_are_refused():
    assert seconds(pd.Series([dt.date(2020, 9, 13)])).tolist() == [1599955200]
    times = frames()["interactions"]["timestamp"].copy()
    times[3] *= 1000
    with pytest.raises(InputError, match=r"row 3, column 'timestamp': .* is in milliseconds and others are in sec"):
        d.Dataset.from_frames(**changed("interactions", timestamp=times))


@pytest.mark.parametrize("dtype", ["float32", "Float32", "float[pyarrow]"])
def test_float32_seconds_which_are_128_apart_are_refused(model, dtype):
    events = frames()["interactions"].astype({"timestamp": "float32"}).astype({"timestamp": dtype})
    with pytest.raises(InputError, match=r"row 0, column 'timestamp': .* is a rounded number; give integers, float64"):
        d.Dataset.from_frames(frames()["items"], None, events)
    with pytest.raises(InputError, match="the history's timestamp is rounded"):
        model.person(history=events)


# ------------------------------------------------------------------------------------------------- columns of one's own


def test_a_field_that_is_another_text_in_every_row_is_told_and_left_out():
    parts = changed("interactions", ticket=[f"T{i}" for i in range(30)], price=np.arange(30) * 1.5)
    with pytest.warns(
        UserWarning, match="interactions column 'ticket': is another text in every row, so that no model"
    ):
        data = d.Dataset.from_frames(**parts)
    assert d.Dataset.validate(**parts)["column"].tolist() == ["ticket"]
    assert [f.name for f in small_model(data).fields.request] == ["hour", "weekday", "gap", "device", "price"]


def test_datetimes_of_one_s_own_are_times_without_a_declaration():
    data = d.Dataset.from_frames(**changed("interactions", due=pd.date_range("2020", periods=30)))
    assert [f.name for f in small_model(data).fields.request][-3:] == ["due_hour", "due_weekday", "due_season"]


@pytest.mark.parametrize(
    ("cells", "written"),
    [
        ([["war", "love"], ["love"], None] * 4, ["war|love", "love", None] * 4),
        ([np.array(["war"]), ("love", "war"), np.nan] * 4, ["war", "love|war", None] * 4),
        ([1, 2, 3] * 4, ["1", "2", "3"] * 4),
        ([1.0, np.nan, 2.5] * 4, ["1", None, "2.5"] * 4),
        ([True, False, True] * 4, ["True", "False", "True"] * 4),
        (pd.Categorical(["a", "b", None] * 4), ["a", "b", None] * 4),
        ([None] * 12, [None] * 12),
    ],
)
def test_categories_may_be_numbers_lists_or_nothing(cells, written):
    for name in ("genres", "category"):
        parts = frames()
        parts["items"] = parts["items"].drop(columns="genres").assign(**{name: pd.Series(cells)})
        data = d.Dataset.from_frames(**parts)
        other = parts["items"].assign(**{name: pd.Series(written, dtype="str")})
        assert data.fingerprint == d.Dataset.from_frames(**parts | {"items": other}).fingerprint
        evaluate(AnyOrder(), data)


@pytest.mark.parametrize(("table", "column"), [("items", "item_id"), ("items", "title"), ("interactions", "device")])
def test_half_an_emoji_is_named_by_its_row(table, column):
    parts = frames()
    cells = parts[table][column].astype(object)
    cells[1] = "\ud83d"
    parts[table] = parts[table].assign(**{column: cells})
    told = d.Dataset.validate(**parts).iloc[0]
    assert (told["row"], told["column"]) == (1, column) and "has half a character" in told["problem"]
    with pytest.raises(InputError, match=f"{table} row 1, column '{column}': .* has half a character"):
        d.Dataset.from_frames(**parts)


@pytest.mark.parametrize(
    "asked",
    [
        {"user": "\ud83d"},
        {"history": ["\ud83d"]},
        *({"user": 1, "context": {n: "\ud83d"}} for n in ("device", "timestamp")),
    ],
)
def test_half_an_emoji_in_a_request_is_one_sentence(model, asked):
    with pytest.raises(InputError, match="has half a character"):
        model.person(**asked)


def test_columns_that_are_probably_misnamed_are_told_and_nothing_else_is(tmp_path):
    items, _, events = frames().values()
    items = items.rename(columns={"title": "Name"}).assign(photo="x.png")
    events = events.rename(columns={"timestamp": "date", "value": "rating"})
    told = d.Dataset.validate(items, None, events, media=tmp_path)
    assert told["column"].tolist() == ["Name", "photo", "image", "date", "rating"]
    assert told["fix"].iloc[0] == "rename it 'title' if it is that" and told["fix"].iloc[3].startswith(
        "rename it 'time"
    )
    with pytest.warns(UserWarning) as warned:
        data = d.Dataset.from_frames(items, None, events, media=tmp_path)
    assert len(warned) == 5 and warned[0].filename == __file__ and not data.timed
    assert d.Dataset.validate(**frames()).empty


def test_a_missing_title_shows_the_id_and_a_missing_text_the_title():
    parts = changed("items", text=["about"] * 11 + [None])
    parts["items"].loc[2, "title"] = None
    with pytest.warns(UserWarning, match="column '(title|text)': is missing in 1 rows, which show the (id|title)"):
        data = d.Dataset.from_frames(**parts)
    assert data.items["title"].iloc[2] == "2" and data.items["text"].iloc[11] == "Film 11"
    assert d.Dataset.validate(**parts)["column"].tolist() == ["title", "text"]


# --------------------------------------------------------------------------------------------------------- vectors


def test_vectors_of_a_frozen_encoder_are_a_modality_of_known_and_new_items():
    vectors = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    cells = [*vectors[:11], None]
    data = d.Dataset.from_frames(**changed("items", image=pd.Series(cells)))
    model = small_model(data)
    assert data.modalities == ("text", "image") and model.features.image.shape == (12, 1, 5)
    assert model.features.present[:, 1].tolist() == [True] * 11 + [False]
    np.testing.assert_allclose(np.square(model.features.image[:11, 0]).mean(1), 1, rtol=1e-5)
    model.pretrain()
    model.fine_tune()
    new = {"title": "New", "image": vectors[0] * 100}  # of a vector only the direction counts
    fresh = model.item_vectors([new, {**new, "image": vectors[0]}, {**new, "image": -vectors[0]}])[-3:]
    torch.testing.assert_close(fresh[0], fresh[1])
    assert (fresh[0] - fresh[2]).abs().max() > 1e-3
    with pytest.raises(InputError, match="has nothing to see: give a title, text, image or sound"):
        model.item_vectors([{"image": ""}])
    assert model.with_items({"item_id": [77], "image": [vectors[3].tolist()]}).features.present[-1, 1]
    with pytest.warns(UserWarning, match="is no vector of 5 finite numbers"):
        assert not model.with_items({"item_id": [77], "title": "x", "image": [[1.0, 2.0]]}).features.present[-1, 1]


def test_a_vector_is_the_same_as_a_list_and_any_of_its_numbers_counts():
    matrix = np.random.default_rng(0).normal(size=(12, 2000)).astype(np.float32)
    items, _, events = frames().values()
    prints = set()
    for column in (list(matrix), matrix.tolist(), list(torch.from_numpy(matrix))):
        prints.add(d.Dataset.from_frames(items.assign(sound=pd.Series(column, dtype=object)), None, events).fingerprint)
    prints.add(d.Dataset.from_frames(items.to_dict("list") | {"sound": matrix}, None, events).fingerprint)
    assert len(prints) == 1
    matrix[5, 1000] += 1
    assert d.Dataset.from_frames(items.assign(sound=list(matrix)), None, events).fingerprint not in prints


@pytest.mark.parametrize("cell", [[1.0], [1.0, np.nan], ["a", "b"], "a.png", b"raw", [[1.0, 2.0]], 5.0])
def test_a_cell_that_is_no_vector_among_vectors_is_named(cell):
    cells = pd.Series([[1.0, 2.0]] * 4 + [cell] + [None] * 7)
    with pytest.raises(InputError, match=r"items row 4, column 'image': .* is no vector of 2 finite numbers; give one"):
        d.Dataset.from_frames(**changed("items", image=cells))


@pytest.mark.parametrize(
    ("items", "events", "has"),
    [(9, slice(None), "9 items and 6 users"), (12, slice(0, None, 5), "12 items and 0 users with three events")],
)
def test_a_set_that_is_too_small_is_told_before_any_training(items, events, has):
    parts = frames()
    parts["items"], seen = parts["items"].head(items), parts["interactions"].iloc[events]
    model = small_model(d.Dataset.from_frames(**parts | {"interactions": seen[seen["item_id"] < items]}))
    with pytest.raises(InputError, match=rf"frames has {has}.*: training needs 10 and 1, or"):
        model.pretrain(on_epoch=lambda row: pytest.fail("an epoch"))


def test_the_caller_s_tables_are_never_changed_and_never_change_the_data(model):
    items, _, events = frames().values()
    copies, past = (items.copy(), events.copy()), events[events["user_id"] == 1].copy()
    data = d.Dataset.from_frames(items, None, events)
    model.person(history=past)
    pd.testing.assert_frame_equal(past, events[events["user_id"] == 1])
    for mine, copy in zip((items, events), copies, strict=True):
        pd.testing.assert_frame_equal(mine, copy)
        mine.iloc[:, 1] = mine.iloc[0, 1]
    assert data.fingerprint == d.Dataset.from_frames(copies[0], None, copies[1]).fingerprint
