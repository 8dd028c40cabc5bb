"""Lists for many users at once are those of one by one; candidates; what comes after the test."""

from __future__ import annotations

import uuid
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch
from fixtures import small_model

from m6rec import Dataset, InputError, M6Rec, evaluate
from m6rec.baselines import Popularity
from m6rec.evaluate import Interpolation


def one_by_one(model, asked: list[dict], **options) -> pd.DataFrame:
    return pd.concat([model.recommend(**one, **options) for one in asked], ignore_index=True)


def assert_same_lists(many: pd.DataFrame, single: pd.DataFrame) -> None:
    assert many.columns.tolist() == ["user_id", "rank", "item_id", "title", "score"]
    pd.testing.assert_frame_equal(many.drop(columns="user_id"), single, rtol=1e-4)


@pytest.mark.parametrize("method", ["generated", "dense", "hybrid"])
def test_lists_for_many_are_those_of_one_by_one(trained, method):
    users = [105, 139, 100, 110, 101]
    many = trained.recommend_many(users, 5, context={"hour": 21}, method=method, chunk=2)
    assert_same_lists(many, one_by_one(trained, [{"user": u} for u in users], k=5, context={"hour": 21}, method=method))
    assert many["user_id"].tolist() == np.repeat(users, 5).tolist()


def test_each_row_may_have_a_request_of_its_own(trained):
    moment = trained.data.events["timestamp"].max() + 60
    frame = pd.DataFrame({"user_id": [105, 110, 105, 111], "hour": [3, None, 21, 3]}).astype({"hour": "Int64"})
    asked = [
        {"user": 105, "context": {"hour": 3, "timestamp": moment}},
        {"user": 110, "context": {"timestamp": moment}},
    ]
    asked += [{"user": u, "context": {"hour": h, "timestamp": moment}} for u, h in ((105, 21), (111, 3))]
    many = trained.recommend_many(frame, 4, context={"timestamp": moment})
    assert_same_lists(many, one_by_one(trained, asked, k=4))
    assert many["user_id"].tolist() == np.repeat(frame["user_id"].to_numpy(), 4).tolist()


def test_a_frame_of_histories_is_for_anybody(trained):
    frame = pd.DataFrame(
        {
            "user_id": ["ann", 105, "ann"],
            "item_id": [503, 501, "Film 9"],
            "timestamp": [9e8, 9e8, 8e8],
            "value": [5, 1, 2],
        }
    )
    asked = [{"history": frame[frame["user_id"] == "ann"]}, {"user": 105, "history": frame.iloc[1:2]}]
    assert_same_lists(trained.recommend_many(frame, 3), one_by_one(trained, asked, k=3))


def test_lists_go_on_where_they_were_kept_and_refuse_the_folder_of_others(trained, tmp_path, monkeypatch):
    folder, users = tmp_path / "lists", [105, 139, 100, 110, 101]
    whole = trained.recommend_many(users, 3, chunk=2)
    assert trained.recommend_many(users, 3, chunk=2, folder=folder).equals(whole)
    first, second, third = sorted(folder.iterdir())
    first.write_bytes(first.read_bytes().replace(b"Film", b"film", 1))  # a flipped bit
    second.write_bytes(second.read_bytes()[:-9])
    third.unlink()  # as after an interruption
    made, best = [], type(trained)._best
    monkeypatch.setattr(type(trained), "_best", lambda *given: made.append(len(given[1].item)) or best(*given))
    assert trained.recommend_many(users, 3, chunk=2, folder=folder).equals(whole)
    assert made == [2, 2, 1]
    for other in ({"k": 4}, {"users": users[:4]}, {"context": {"hour": 3}}, {"seen": True}):
        with pytest.raises(InputError, match="holds lists of another request"):
            trained.recommend_many(**{"users": users, "k": 3, "chunk": 2, "folder": folder, **other})
    assert len([*folder.iterdir()]) == 3 and first.exists()


def test_who_has_seen_everything_gets_an_empty_list_and_others_theirs(trained):
    frame = pd.DataFrame(
        {"user_id": ["all"] * 30 + ["most"] * 28 + ["few"], "item_id": [*range(500, 530), *range(500, 528), 500]}
    )
    for method in ("generated", "dense", "hybrid"):
        many = trained.recommend_many(frame, 5, method=method)
        assert many.groupby("user_id").size().to_dict() == {"most": 2, "few": 5}
    assert trained.recommend_many([], 5).empty
    assert trained.recommend(history=[*range(500, 530)], k=5).empty


def test_generated_lists_of_a_few_candidates_are_exact(trained):
    """Closed in the tree: the order of the exact scores among the candidates, with a beam that would miss them."""
    only, without = [503, "Film 9 (1959)", 517, 522, 525, 529], [517, "Film 25"]
    left = {503, 509, 522, 529}
    exact = trained.recommend(history=[501], k=29, method="exact")
    wanted = exact[exact["item_id"].isin(left)]["item_id"].tolist()
    for method in ("generated", "exact"):
        found = trained.recommend(history=[501], k=4, method=method, only=only, without=without)
        assert found["item_id"].tolist() == wanted
    frame, news = pd.DataFrame({"user_id": "ann", "item_id": [501]}), pd.DataFrame({"user_id": ["a"], "item_id": [{}]})
    assert trained.recommend_many(frame, 4, only=only, without=without)["item_id"].tolist() == wanted
    with pytest.raises(InputError, match="k=5 does not fit: only 4"):
        trained.recommend(history=[501], k=5, only=only, without=without)
    assert trained.recommend(history=[501], k=5, only=[501], explain=True).empty
    for call in (lambda: trained.recommend(105, only=[{"title": "new"}]), lambda: trained.recommend_many(news, 3)):
        with pytest.raises(InputError, match=r"dicts of new items are for one history|title '\{\}' is not in"):
            call()


def test_a_pool_is_closed_in_the_tree_when_generated_lists_are_evaluated(trained):
    data, pool = trained.data, np.arange(0, 30, 3)
    narrow, exact = (evaluate(trained.scorer(m, beam=10), data, pool=pool, k=10) for m in ("generated", "exact"))
    assert narrow.per_user["rank"].equals(exact.per_user["rank"])
    assert set(narrow.lists.ravel()) <= {-1, *pool}


def test_similar_items_are_the_nearest_by_cosine_without_the_item_itself(trained):
    vectors = torch.nn.functional.normalize(trained.item_vectors(), dim=1)
    cosine = (vectors @ vectors[4]).tolist()
    found = trained.similar(504, k=29)
    assert found["item_id"].tolist() == sorted({*range(500, 530)} - {504}, key=lambda i: -cosine[i - 500])
    assert found["score"].tolist() == pytest.approx(sorted(cosine, reverse=True)[1:])
    assert trained.similar("Film 4", k=29).equals(found) and len(trained.similar({"title": "film number 4"}, k=5)) == 5


def again(data: Dataset, order: np.ndarray | None = None, times: int = 1) -> Dataset:
    """The same data with the catalogue in another order, and every event so many times."""
    events = data.events.loc[np.repeat(data.events.index, times)].assign(
        user_id=lambda e: data.users["user_id"].to_numpy()[e["user"]],
        item_id=lambda e: data.items["item_id"].to_numpy()[e["item"]],
    )
    items = data.items if order is None else data.items.iloc[order]
    return Dataset.from_frames(items, data.users, events[["user_id", "item_id", "timestamp", "value"]])


def test_a_model_is_not_ranked_on_another_catalogue_or_on_what_it_was_fitted_on(trained):
    other, count = again(trained.data, np.arange(30)[::-1]), Popularity().fit(trained.data, trained.split)
    everything = trained.split._replace(train=np.ones(trained.data.n_events, bool))
    for model in (trained, trained.scorer("generated"), count, Interpolation(count, count, 1.0)):
        with pytest.raises(InputError, match="was fitted on other items than those of frames"):
            evaluate(model, other)
    assert evaluate(count, again(trained.data)).metrics == evaluate(count, trained.data).metrics
    with pytest.raises(InputError, match="was fitted on events that it should predict"):
        evaluate(Popularity().fit(trained.data, everything), trained.data)
    with pytest.raises(InputError, match=r"call pretrain\(\) first"):
        evaluate(small_model(), trained.data)


def test_whether_lists_repeat_follows_from_the_data_and_is_said(trained):
    assert trained.data.repeats < 0.1 and "repeats" not in repr(trained.data)
    twice = again(trained.data, times=2)
    assert twice.repeats > 0.5 and "repeats: lists may hold what was seen" in repr(twice)
    masked = [evaluate(Popularity().fit(d, d.split()), d).per_user.attrs["mask_seen"] for d in (twice, trained.data)]
    assert masked == [False, True]
    model = small_model(twice, pretrain_epochs=1, finetune_epochs=0)
    model.pretrain()
    user, seen = 105, set(twice.items["item_id"].iloc[twice.events["item"][twice.events["user"] == 5]])
    assert seen <= set(model.recommend(user, k=30)["item_id"]) and len(model.recommend_many([user], 30)) == 30
    assert not seen & set(model.recommend(user, k=3, seen=False)["item_id"])
    lists = [evaluate(model.scorer(m, beam=30), twice, k=30).lists for m in ("generated", "exact")]
    assert (lists[0] == lists[1]).all()


def test_new_items_are_generated_where_the_dense_head_ranks_them():
    """A new leaf is not on the scale of its trained siblings: new items once came first for two users in three."""
    model = small_model(pretrain_epochs=12, finetune_epochs=8, learning_rate=3e-3, patience=20)
    model.pretrain()
    model.fine_tune()
    new = pd.DataFrame({"item_id": [900, 901, 902], "title": ["Turquoise mug", "Film 12", "Scarf"]})
    grown = model.with_items(new)
    place = {}
    for method in ("exact", "dense"):
        lists = grown.recommend_many(None, 33, method=method, seen=True)
        place[method] = lists[lists["item_id"].isin(new["item_id"])].groupby("item_id")["rank"].agg(["median", "min"])
    assert (abs(place["exact"]["median"] - place["dense"]["median"]) <= 6).all(), place


def test_a_catalogue_that_has_grown_is_saved_and_loaded(trained, tmp_path):
    new = pd.DataFrame({"item_id": [900, 901], "title": ["Film 900", "Film 901"]})
    grown = trained.with_items(new.iloc[:1]).with_items(new.iloc[1:])
    folder = grown.save_pretrained(tmp_path / "grown")
    for data in (trained.data, grown.data):
        loaded = M6Rec.from_pretrained(folder, data)
        assert loaded.data.fingerprint == grown.data.fingerprint
        for method in ("generated", "dense"):
            wanted = grown.recommend(105, k=31, method=method, seen=True)
            pd.testing.assert_frame_equal(loaded.recommend(105, k=31, method=method, seen=True), wanted)
    with pytest.raises(InputError, match=r"was trained on other data than .*: pass data="):
        M6Rec.from_pretrained(folder, trained.data.with_items(new.assign(title="other")))


def test_cells_of_any_type_are_saved_with_a_catalogue_that_has_grown(trained, tmp_path):
    more = {
        "item_id": [uuid.uuid4(), uuid.uuid4()],
        "price": [1 / 3, None],
        "when": pd.to_datetime(["2024-02-01", None]),
    }
    grown = trained.with_items({**more, "own": [np.arange(2), Decimal("1.10")], "gone": [None, None]})
    folder = grown.save_pretrained(tmp_path / "grown")
    loaded = M6Rec.from_pretrained(folder, trained.data)
    assert loaded.data.fingerprint == grown.data.fingerprint and "NaN" not in (folder / "config.json").read_text()
    one, other = map(str, more["item_id"])
    assert other in loaded.similar(one, 31)["item_id"].tolist()


def test_a_model_of_everything_trains_the_epochs_that_validated_best_and_every_event(trained):
    config = trained.settled
    best = [max(rows, key=lambda row: row.validation).epoch for rows in trained.stages.values()]
    assert [config.pretrain_epochs, config.finetune_epochs] == best
    model = M6Rec(trained.data, config=replace(config, pretrain_epochs=1), split="all")
    assert model.split.train.all() and [row.validation for row in model.pretrain()] == [None]
    with pytest.raises(InputError, match="was fitted on events that it should predict"):
        evaluate(model, trained.data)
    with pytest.raises(InputError, match="take one of leave_one_out, global_time, latest, all"):
        M6Rec(trained.data, split="everything")


def test_new_events_are_history_at_once_and_teach_unless_the_last_events_are_predicted_worse(trained, tmp_path):
    grown, last = trained.with_items(pd.DataFrame({"item_id": [900], "title": ["Film 900"]})), 9e8
    new = pd.DataFrame({"user_id": [105, 105, "ann", "ann", "ann"], "item_id": [900, 505, 900, 501, 502]})
    new["timestamp"] = last + np.arange(5)
    updated = grown.update(new)
    data, rows = updated.data, updated.stages["update"]
    assert data.n_events == trained.data.n_events + 5 and data.n_users == 41 and not len(updated.split.test)
    ids = data.items["item_id"].to_numpy()[data.events["item"]]
    assert ids[-3:].tolist() == [900, 501, 502] and "505" in str(ids[data.offsets[6] - 1])
    assert not {900, 501, 502} & set(updated.recommend("ann", k=10)["item_id"])
    assert [row.epoch for row in rows] == [0, 1] and rows[0].validation is not None
    kept = rows[1].validation >= rows[0].validation
    assert kept == (not torch.equal(updated.network.digits.nodes[0], grown.network.digits.nodes[0]))
    assert (updated.network.codes[30] == 30) == kept  # what was bought has an embedding of its own
    assert grown.network.codes[30] == -1 and grown.data.n_events == trained.data.n_events
    loaded = M6Rec.from_pretrained(updated.save_pretrained(tmp_path / "updated"), data)
    assert loaded.recommend("ann", k=5).equals(updated.recommend("ann", k=5))
    with pytest.raises(InputError, match=r"call pretrain\(\) first"):
        small_model().update(new)
    with pytest.raises(InputError, match="must both have a timestamp, or none"):
        grown.update(new.drop(columns="timestamp"))
    with pytest.raises(InputError, match="row 1, column 'item_id': '999' is not in items"):
        grown.update(new.assign(item_id=[501, 999, 501, 501, 501]))
    grown.config = replace(grown.config, validate_every=5)
    rows = grown.update(new, epochs=2).stages["update"]
    assert [row.validation is None for row in rows] == [False, True, False]


def test_an_update_that_makes_predictions_worse_leaves_the_weights_and_says_so(trained, monkeypatch):
    monkeypatch.setattr("m6rec.recommender.UPDATE_RATE", 100.0)
    new = pd.DataFrame(
        {"user_id": np.repeat(np.arange(100, 140), 3), "item_id": 500, "timestamp": 9e8 + np.arange(120)}
    )
    last = pd.DataFrame({"user_id": np.arange(100, 140), "item_id": np.arange(40) % 30 + 500, "timestamp": 9.1e8})
    with pytest.warns(UserWarning, match=r"weights are not updated: NDCG@10 of the last events would fall from"):
        updated = trained.update(pd.concat([new, last]))
    assert updated.network is trained.network and updated.data.n_events == trained.data.n_events + 160
