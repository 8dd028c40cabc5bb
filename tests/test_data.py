"""The Dataset: order and ties, splits, what a target may know, lookups, and what bad frames are told."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import m6rec.data as d
from m6rec.config import InputError
from m6rec.data.dataset import Targets


def frames() -> dict[str, pd.DataFrame]:
    """Three users, five items; user 7 has a tie at 30, user 9 only two events, rows out of order on purpose."""
    items = pd.DataFrame(
        {
            "item_id": [10, 20, 30, 40, 50],
            "title": ["Fargo (1996)", "Abyss, The (1989)", "Sabrina (1954)", "Sabrina (1995)", "Fargo (1996)"],
            "genres": ["Crime", "Action", "Romance", "Romance", "Crime"],
        }
    )
    users = pd.DataFrame({"user_id": [9, 7, 8], "age": [20, 30, 40]})
    rows = [
        (7, 10, 30), (8, 20, 15), (7, 20, 30), (7, 30, 10), (9, 50, 5),
        (8, 30, 45), (7, 40, 40), (8, 50, 25), (9, 10, 50), (8, 50, 35),
    ]  # fmt: skip
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).assign(value=4.0, device="tv")
    return {"items": items, "users": users, "interactions": events}


def small(**options) -> d.Dataset:
    return d.Dataset.from_frames(**frames(), **options)


def raw_history(data: d.Dataset, user: int) -> list[int]:
    code = data.user_codes([user])[0]
    codes = data.events["item"].iloc[data.offsets[code] : data.offsets[code + 1]]
    return data.items["item_id"].iloc[codes].tolist()


def many_ties() -> dict[str, pd.DataFrame]:
    events = pd.DataFrame({"user_id": 1, "item_id": np.arange(50) % 50, "timestamp": np.arange(50) // 25})
    return {"items": pd.DataFrame({"item_id": np.arange(50)}), "users": None, "interactions": events}


# ------------------------------------------------------------------------------------------------ codes and order


def test_events_lie_by_user_then_time_with_codes_from_the_tables():
    data = small()
    assert data.events[["user", "item", "timestamp"]].to_numpy().tolist() == [
        [0, 4, 5], [0, 0, 50],
        [1, 2, 10], [1, 0, 30], [1, 1, 30], [1, 3, 40],
        [2, 1, 15], [2, 4, 25], [2, 4, 35], [2, 2, 45],
    ]  # fmt: skip
    assert data.offsets.tolist() == [0, 2, 6, 10]
    assert data.events["action"].unique().tolist() == ["event"] and data.events["device"].eq("tv").all()
    assert list(data.items.columns) == ["item_id", "title", "text", "genres"]
    assert data.profile_columns == ["age"]


def test_ties_in_file_order_keep_the_row_order():
    assert raw_history(small(), 7) == [30, 10, 20, 40]
    swapped = frames()
    swapped["interactions"] = swapped["interactions"].iloc[[2, 1, 0, *range(3, 10)]]  # the tie, the other way round
    assert raw_history(d.Dataset.from_frames(**swapped), 7) == [30, 20, 10, 40]
    assert raw_history(d.Dataset.from_frames(**many_ties()), 1) == list(range(50))


def test_without_timestamps_the_row_order_is_the_order():
    parts = frames()
    parts["interactions"] = parts["interactions"].drop(columns="timestamp")
    data = d.Dataset.from_frames(**parts)
    assert not data.timed and raw_history(data, 7) == [10, 20, 30, 40]
    assert data.events["timestamp"].eq(0).all()
    with pytest.raises(InputError, match=r"needs timestamps.*leave_one_out"):
        data.split("global_time")


def test_datetimes_are_utc_seconds():
    parts = frames()
    parts["interactions"]["timestamp"] = pd.to_datetime(parts["interactions"]["timestamp"], unit="s")
    assert d.Dataset.from_frames(**parts).fingerprint == small().fingerprint


def test_without_users_they_are_numbered_as_they_appear():
    parts = frames() | {"users": None}
    data = d.Dataset.from_frames(**parts)
    assert data.users["user_id"].tolist() == [7, 8, 9] and data.profile_columns == []


def test_of_interactions_alone_items_are_their_ids():
    events = frames()["interactions"]
    data, ids = d.Dataset.from_frames(None, None, events), [10, 20, 30, 50, 40]
    assert data.items["item_id"].tolist() == ids and data.items["text"].tolist() == [*map(str, ids)]
    assert data.item_codes(ids).tolist() == [*range(5)] and d.Dataset.validate(None, None, events).empty
    with pytest.raises(InputError, match="interactions row 0, column 'item_id': 'nan' is no id"):
        d.Dataset.from_frames(None, None, events.assign(item_id=events["item_id"].shift()))


# --------------------------------------------------------------------------------------------------------- splits


def test_leave_one_out_tests_the_last_validates_the_one_before_and_leaves_short_users_to_training():
    data = small()
    split = data.split()
    assert split.test.tolist() == [5, 9] and split.valid.tolist() == [4, 8]
    assert np.flatnonzero(~split.train).tolist() == [4, 5, 8, 9]
    assert split.train[:2].all()  # user 9 has two events


def test_global_time_fits_on_nothing_later_than_any_target():
    data = small()
    split = data.split("global_time")
    time = data.events["timestamp"].to_numpy()
    assert time[split.train].max() < time[split.valid].min() <= time[split.valid].max() < time[split.test].min()
    assert split.valid.tolist() == [5] and split.test.tolist() == [1, 9]


def test_global_time_targets_are_the_first_event_of_the_period_that_has_a_past():
    events = pd.DataFrame({"user_id": [1] * 20 + [2, 2, 3], "item_id": 10, "timestamp": range(23)})
    data = d.Dataset.from_frames(frames()["items"], None, events)
    split = data.split("global_time")
    assert split.valid.tolist() == [17]
    assert split.test.tolist() == [19, 21]  # user 2's second event; user 3 has no second


def test_an_unknown_split_is_refused():
    with pytest.raises(InputError, match='split="random" is unknown: take one of leave_one_out'):
        small().split("random")


# -------------------------------------------------------------------------------------------------------- targets


def test_history_is_what_precedes_the_target_most_recent_last_padded_left():
    data = small()
    targets = data.targets(np.array([5, 1, 2]))
    assert targets.history().tolist() == [[2, 0, 1], [-1, -1, 4], [-1, -1, -1]]
    assert targets.history(2).tolist() == [[0, 1], [-1, 4], [-1, -1]]
    assert targets.history(5)[0].tolist() == [-1, -1, 2, 0, 1]
    assert targets.items.tolist() == [3, 0, 2] and targets.users.tolist() == [1, 0, 1]


def test_history_and_seen_never_hold_the_target_or_anything_later():
    data = d.Dataset.from_frames(**many_ties())  # fifty items, each once: any leak shows
    targets = data.targets(np.arange(50))
    history, seen = targets.history(), targets.seen().toarray()
    for event in range(50):
        before = data.events["item"].to_numpy()[:event]
        assert history[event][history[event] >= 0].tolist() == before.tolist()
        assert sorted(np.flatnonzero(seen[event])) == sorted(before)


def test_seen_counts_an_item_seen_twice_once():
    seen = small().targets(np.array([9, 0])).seen()
    assert seen.toarray().astype(int).tolist() == [[0, 1, 0, 0, 1], [0, 0, 0, 0, 0]]
    assert seen.dtype == bool and seen.nnz == 2


def test_targets_look_like_an_array_of_raw_user_ids():
    targets = small().targets(np.array([1, 5, 9]))
    assert list(targets) == [9, 7, 8] == np.asarray(targets).tolist()
    assert len(targets) == 3 and isinstance(targets[1:], Targets) and list(targets[1:]) == [7, 8]
    assert targets[:0].history().shape == (0, 0) and targets[:0].seen().shape == (0, 5)
    with pytest.raises(InputError, match=r"0\.\.9"):
        small().targets(np.array([10]))


# -------------------------------------------------------------------------------------------------------- lookups


def test_ids_are_found_as_numbers_or_as_text():
    data = small()
    assert data.item_codes([20, "20", 20.0, np.int64(20)]).tolist() == [1, 1, 1, 1]
    assert data.user_codes("7").tolist() == [1] == data.user_codes(7).tolist()
    assert data.user_codes([]).tolist() == []
    parts = frames()
    parts["interactions"]["item_id"] = parts["interactions"]["item_id"].astype(float)  # as a column with gaps is read
    assert d.Dataset.from_frames(**parts).fingerprint == data.fingerprint


def test_an_unknown_id_is_named_with_the_nearest_known_ones():
    with pytest.raises(InputError, match="user '99' is not in frames; the nearest known ids are 9, 8, 7"):
        small().user_codes([7, 99])
    with pytest.raises(InputError, match="user '' is not in frames"):
        small().user_codes([""])
    named = frames() | {"users": None}
    named["interactions"]["user_id"] = named["interactions"]["user_id"].map({7: "anna", 8: "bert", 9: "carl"})
    with pytest.raises(InputError, match=r"user 'ana'.* are anna"):
        d.Dataset.from_frames(**named).user_codes(["ana"])


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("Abyss, The (1989)", 1),
        ("abyss, the", 1),
        ("The  Abyss", 1),
        ("aby", 1),
        ("Sabrina (1995)", 3),
        ("sabrina (19", None),
        ("Fargo", 4),  # two items bear the title; item 50 has three events, item 10 two
    ],
)
def test_titles_are_found_as_people_write_them(written, code):
    if code is None:
        with pytest.raises(InputError, match=r"fits 2 items: 'Sabrina \(1954\)', 'Sabrina \(1995\)'"):
            small().find(written)
    else:
        assert small().find([written]).tolist() == [code]


def test_an_unknown_title_is_answered_with_the_nearest():
    with pytest.raises(InputError, match=r"title 'Fagro' is not in the catalogue; the nearest are 'Fargo \(1996\)'"):
        small().find(["Fargo", "Fagro"])


# ----------------------------------------------------------------------------------------------------- validation


def with_value(table: str, row: int, column: str, value: object) -> dict[str, pd.DataFrame]:
    parts = frames()
    values = parts[table][column].astype(object)
    values.iloc[row] = value
    parts[table] = parts[table].assign(**{column: values})
    return parts


@pytest.mark.parametrize(
    ("table", "row", "column", "value", "message"),
    [
        ("items", 3, "item_id", 20, "items row 3, column 'item_id': '20' is there already; keep one row"),
        ("users", 2, "user_id", 9, "users row 2, column 'user_id': '9' is there already; keep one row"),
        ("interactions", 4, "item_id", 99, "interactions row 4, column 'item_id': '99' is not in items; add it"),
        ("interactions", 4, "item_id", None, "interactions row 4, column 'item_id': .* is no id; drop the row"),
        ("interactions", 6, "user_id", 1, "interactions row 6, column 'user_id': '1' is not in users; add it"),
        ("interactions", 2, "timestamp", np.nan, "interactions row 2, column 'timestamp': 'nan' .* give UTC seconds"),
        ("interactions", 2, "timestamp", "noon", "interactions row 2, column 'timestamp': 'noon' .* give UTC seconds"),
        ("interactions", 5, "timestamp", 881250949000, "row 5, column 'timestamp': '881250949000' is in millisec"),
        ("interactions", 0, "value", "good", "interactions row 0, column 'value': 'good' is no number; give a number"),
    ],
)
def test_a_bad_cell_is_named_by_table_row_and_column_with_the_fix(table, row, column, value, message):
    with pytest.raises(InputError, match=message):
        d.Dataset.from_frames(**with_value(table, row, column, value))


def test_rows_are_counted_from_the_top_whatever_the_index():
    parts = with_value("interactions", 4, "item_id", 99)
    parts["interactions"].index = [7] * 10
    with pytest.raises(InputError, match="interactions row 4,"):
        d.Dataset.from_frames(**parts)
    good = frames()
    good["interactions"].index = [7] * 10
    assert d.Dataset.from_frames(**good).fingerprint == small().fingerprint


@pytest.mark.parametrize("table", ["items", "users", "interactions"])
def test_an_empty_table_or_a_missing_column_is_named(table):
    parts = frames()
    key = "item_id" if table == "items" else "user_id"
    with pytest.raises(InputError, match=f"{table} has no rows; give at least one"):
        d.Dataset.from_frames(**parts | {table: parts[table].head(0)})
    renamed = parts[table].rename(columns={key: "the_id"})
    with pytest.raises(InputError, match=rf"{table} has no column '{key}' \(did you mean the_id\?\); rename"):
        d.Dataset.from_frames(**parts | {table: renamed})
    with pytest.raises(InputError, match=f"{table} is a list; give a DataFrame of pandas .* with {key}"):
        d.Dataset.from_frames(**parts | {table: [1]})


# ------------------------------------------------------------------------------------------ fingerprint and subset


def test_equal_data_has_an_equal_fingerprint_and_any_change_another():
    assert small(name="other").fingerprint == small().fingerprint
    assert small().fingerprint == "f45f7e06f70a6efce2779fdf1fcc06f2058f60c7f15aa81af5060d5c8cd0fe7e"
    changes = [
        ("items", 0, "genres", "Drama"),
        ("items", 0, "title", "Fargo (1997)"),
        ("users", 1, "age", 31),
        ("interactions", 3, "timestamp", 11),
        ("interactions", 3, "value", 5.0),
        ("interactions", 3, "device", "phone"),
    ]
    prints = {d.Dataset.from_frames(**with_value(*change)).fingerprint for change in changes}
    assert len(prints | {small().fingerprint}) == len(changes) + 1


def test_a_subset_keeps_whole_users_and_every_item():
    data = small()
    part = data.subset(2, seed=1)
    assert part.n_users == 2 and part.items.equals(data.items)
    for user in part.users["user_id"]:
        assert raw_history(part, user) == raw_history(data, user)
    assert part.n_events == sum(len(raw_history(data, user)) for user in part.users["user_id"])
    assert part.fingerprint == data.subset(2, seed=1).fingerprint
    assert len({tuple(data.subset(1, seed=s).users["user_id"]) for s in range(20)}) == 3
    assert data.subset(3).fingerprint == data.fingerprint
    with pytest.raises(InputError, match="n_users=4 does not fit frames; use 1 to 3"):
        data.subset(4)


def test_the_repr_says_name_counts_and_period():
    counts = "3 users, 5 items, 10 events (10 % repeats: lists may hold what was seen)"
    assert repr(small()) == f"Dataset frames: {counts}, 1970-01-01 to 1970-01-01"
    markup, raw = "<script>alert(1)</script>", frames()
    raw["interactions"][markup] = 1
    page = d.Dataset.from_frames(**raw, name=markup)._repr_html_()
    assert "<script" not in page and "modalities: text" in page
    for table, rows in (("items", 5), ("users", 3), ("events", 10)):
        assert f"<th>{table}</th>\n      <td>{rows}</td>" in page
