"""bazaar: the files are the frozen ones, the simulation is what drew them, and its truth holds event by event."""

from __future__ import annotations

import hashlib
import importlib.util
import socket
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import m6rec
from m6rec.baselines import Popularity
from m6rec.config import InputError
from m6rec.data import bazaar, sources

CLONE = Path(__file__).resolve().parents[1]
FROZEN = {
    "items.parquet": "92776aab89cfc8dc0c754e42d9981a559dfc1fb2ecad1c4fbbfce423b930107f",
    "users.parquet": "2e3746d465f183188be041ebec556c1ab80e99a4b6f6958b643a8d73e7ef1b25",
    "interactions.parquet": "24fffaa7506c8b7371ba2b48c4982104b7bcbf54592d3af9a57701cdc788a5d6",
    "truth.parquet": "b41c5aa1d0748040a24bfbcc4eb3d565d0bf2bf25fd10dce0c13666fa4af9578",
    "media.zip": "3732634ea5eecef8a7c2a5adc23357e48c594c6ffcc4e56a904d7d5a8b005da8",
    "latent.npz": "6d9a5cd0fb9e413142c200aa497fe20488d43c53e5c7c4c9c350f016d40a6e37",
}


@pytest.fixture(scope="module")
def data() -> m6rec.Dataset:
    return m6rec.load("bazaar")


@pytest.fixture(scope="module")
def truth() -> bazaar.Truth:
    return bazaar.truth()


@pytest.fixture(scope="module")
def shoppers():
    """The simulation of data/shoppers.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("shoppers", CLONE / "data" / "shoppers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_files_are_the_frozen_ones_and_small():
    folder = sources.shipped("bazaar")
    assert {path.name for path in folder.iterdir()} == FROZEN.keys()
    assert {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FROZEN} == FROZEN
    assert sum((folder / name).stat().st_size for name in FROZEN) < 7_000_000


def test_it_loads_at_once_without_a_network_and_without_a_home(monkeypatch, tmp_path):
    def refused(*_):
        raise AssertionError("bazaar asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setenv("M6REC_HOME", str(tmp_path / "none"))
    started = time.process_time()
    data = m6rec.load("bazaar")
    assert time.process_time() - started < 2
    assert (data.name, data.n_items, data.n_users) == ("bazaar", 2700, 3000)
    assert 80_000 < data.n_events < 110_000
    assert not (tmp_path / "none").exists()


def test_a_missing_folder_is_told_with_the_way_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "__file__", str(tmp_path / "m6rec" / "data" / "sources.py"))
    with pytest.raises(InputError, match=r"bazaar's files are not in .*git checkout data"):
        sources.shipped("bazaar")


def test_every_medium_that_an_item_names_is_in_the_archive_once(data):
    with zipfile.ZipFile(sources.shipped("bazaar") / "media.zip") as archive:
        names = archive.namelist()
        starts = {name: archive.open(name).read(4) for name in ("G0001.png", "S0001.flac")}
    named = pd.concat([data.items["image"].dropna(), data.items["sound"].dropna()])
    assert named.is_unique and set(named) == set(names)
    assert starts == {"G0001.png": b"\x89PNG", "S0001.flac": b"fLaC"}
    there = data.items[["image", "sound"]].notna()
    has = {kind: tuple(rows.iloc[0]) for kind, rows in there.groupby(data.items["kind"])}
    assert has == {
        "garment": (True, False),
        "sound": (False, True),
        "jingled garment": (True, True),
        "text": (False, False),
    }
    assert data.modalities == ("text", "image", "sound")


def test_the_first_shoppers_simulated_anew_do_what_the_files_say(data, truth, shoppers):
    first = 25
    people = shoppers.people(first)
    pd.testing.assert_frame_equal(people.users, data.users[:first].reset_index(drop=True), check_dtype=False)
    np.testing.assert_array_equal(people.tastes, truth.shoppers[:first])
    for field, pulls in shoppers.request_pulls().items():
        np.testing.assert_array_equal(pulls, truth.requests[field])
    events, causes = shoppers.simulate(people.tastes, truth.items, truth.requests)
    assert len(events) == data.offsets[first]
    columns = list(events.columns)
    stored = data.events[columns][: len(events)]
    pd.testing.assert_frame_equal(events, stored, check_dtype=False)
    pd.testing.assert_frame_equal(causes, truth.events[: len(causes)], check_dtype=False)


def test_nobody_buys_a_thing_twice_and_time_only_goes_on(data):
    assert not data.events.duplicated(["user", "item"]).any()
    same = data.events["user"].diff() == 0
    assert (data.events["timestamp"].diff()[same] > 0).all()
    assert set(pd.to_datetime(data.events["timestamp"], unit="s").dt.year) == {2025}


def test_a_cause_among_events_is_one_of_the_three_before_of_the_same_shopper(data, truth):
    assert len(truth.events) == data.n_events
    caused = truth.events["cause"] == "event"
    assert ((truth.events["cause_event"] >= 0) == caused).all()
    rows = np.flatnonzero(caused)
    earlier = truth.events["cause_event"].to_numpy()[rows]
    assert set(rows - earlier) == {1, 2, 3}
    user = data.events["user"].to_numpy()
    np.testing.assert_array_equal(user[rows], user[earlier])


def test_a_cause_in_the_request_pulls_towards_what_the_event_s_own_fields_say(data, truth):
    assert ((truth.events["cause_field"] != "") == (truth.events["cause"] == "request")).all()
    time = pd.to_datetime(data.events["timestamp"], unit="s")
    values = bazaar.levels(data.events["timestamp"].to_numpy(), data.events["device"].to_numpy())
    named = {field: np.array(bazaar.LEVELS[field])[values[:, i]] for i, field in enumerate(bazaar.LEVELS)}
    np.testing.assert_array_equal(named["season"], data.events["season"])
    np.testing.assert_array_equal(named["device"], data.events["device"])
    np.testing.assert_array_equal(named["weekday"] == "weekend", time.dt.day_of_week >= 5)
    np.testing.assert_array_equal(values[:, 0], time.dt.hour // 6)
    for field, column in named.items():
        rows = truth.events["cause_field"] == field
        for number, value in enumerate(bazaar.LEVELS[field]):
            towards = truth.items[data.events["item"]] @ truth.requests[field][number]
            assert towards[rows & (column == value)].mean() > towards[column != value].mean() + 0.1, (field, value)


def test_causes_are_as_frequent_as_planned_and_each_names_a_modality_that_the_item_has(data, truth):
    shares = truth.events["cause"].value_counts(normalize=True)
    assert abs(shares - pd.Series({"taste": 0.3, "event": 0.3, "request": 0.3, "chance": 0.1})).max() < 0.02
    assert ((truth.events["modality"] == "") == (truth.events["cause"] == "chance")).all()
    item = data.items.iloc[data.events["item"]]
    for modality in ("image", "sound"):
        assert item[modality].notna().to_numpy()[truth.events["modality"] == modality].all()


def test_places_and_tastes_have_unit_length_and_shares_add_up_to_one(data, truth):
    np.testing.assert_allclose(np.linalg.norm(truth.items, axis=1), 1, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(truth.shoppers, axis=1), 1, atol=1e-3)
    np.testing.assert_allclose(truth.shares.sum(axis=1), 1, atol=1e-9)
    assert truth.shares.min() >= 0
    for modality, (name, block) in enumerate(bazaar.BLOCKS.items()):
        squares = (truth.shoppers[:, block] ** 2).sum(axis=1)
        np.testing.assert_allclose(squares, truth.shares[:, modality], atol=1e-3)
        if name != "text":
            np.testing.assert_array_equal(truth.items[:, block].any(axis=1), data.items[name].notna())


def test_what_is_held_out_shares_no_recording_photograph_or_noun_with_the_rest(data, truth):
    assert not set(truth.origins[truth.held_out]) & set(truth.origins[~truth.held_out])
    clips = data.items["sound"].notna().to_numpy()
    recordings, takes = np.unique(truth.origins[clips], return_counts=True)
    assert 100 < len(recordings) <= 164 and takes.max() <= 16 and takes.mean() > 4
    for kind, rows in data.items.groupby("kind").indices.items():
        assert 0.1 < truth.held_out[rows].mean() < 0.2, kind
    assert 0.08 < truth.cold_users.mean() < 0.12


def test_the_bayes_optimal_ranking_lies_where_it_should_and_popularity_far_below(data, truth):
    split = data.split()
    best = m6rec.evaluate(bazaar.BayesOptimal(truth), data, split=split).metrics["ndcg@10"]
    popular = m6rec.evaluate(Popularity().fit(data, split), data, split=split).metrics["ndcg@10"]
    assert 0.25 < best < 0.5
    assert popular < best / 4


def test_the_bayes_optimal_chances_add_up_to_one_and_leave_out_what_was_bought(data, truth):
    targets = data.targets(data.split().test[:20])
    chances = np.exp(bazaar.BayesOptimal(truth).scores(targets))
    np.testing.assert_allclose(chances.sum(axis=1), 1)
    assert chances[targets.seen().nonzero()].max() == 0


def test_the_bayes_optimal_ranking_knows_neither_the_cause_nor_the_item_nor_what_comes_later(data, truth):
    rows = data.split().test[:20] - 2
    before = bazaar.BayesOptimal(truth).scores(data.targets(rows))
    events = data.events.copy()
    events.loc[rows, "item"] = 0
    later = np.concatenate([rows + 1, rows + 2])
    events.loc[later, ["item", "timestamp", "device"]] = [0, 0, "phone"]
    changed = m6rec.Dataset(data.name, data.timed, data.items, data.users, events, data.offsets, data.media)
    hidden = truth._replace(events=None)
    np.testing.assert_array_equal(bazaar.BayesOptimal(hidden).scores(changed.targets(rows)), before)


def test_the_bayes_optimal_ranking_knows_shoppers_by_their_ids_so_that_a_subset_scores_the_same(data, truth):
    few = data.subset(30)
    part = bazaar.BayesOptimal(truth).scores(few.targets(few.split().test))
    whole = data.targets(data.split().test)[data.user_codes(few.users["user_id"])]
    np.testing.assert_allclose(part, bazaar.BayesOptimal(truth).scores(whole))


def test_the_likeliest_cause_is_far_more_often_right_than_the_commonest(data, truth):
    rows = data.split().test
    likely = bazaar.BayesOptimal(truth).causes(data.targets(rows))
    np.testing.assert_allclose(likely.sum(axis=1), 1)
    kinds = pd.Index([cause.kind for cause in bazaar.CAUSES])
    by_kind = pd.DataFrame(likely).T.groupby(kinds).sum()
    right = by_kind.idxmax().to_numpy() == truth.events["cause"].to_numpy()[rows]
    assert right.mean() > 0.5  # the commonest kind of cause has a share of .3
