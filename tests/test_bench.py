"""The bench: every model on the same targets, and a blend never loses to its model on validation."""

from __future__ import annotations

import copy
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from fixtures import CONFIG, small_data

import m6rec
from m6rec import baselines
from m6rec.config import InputError
from m6rec.data.dataset import Targets
from m6rec.evaluate import Interpolation, Precomputed
from m6rec.generate import generate
from m6rec.model.tree import build_tree
from m6rec.runs import bench as table
from m6rec.tasks.heldout import ColdStart


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setenv("M6REC_HOME", str(tmp_path))
    return table.Bench(small_data(), "small", **CONFIG)


def test_every_model_of_the_bench_gets_a_row_on_the_same_targets(bench, monkeypatch):
    monkeypatch.setattr(table, "PEERS_TRAIN", {"pretrain_epochs": 1})
    rows = bench.rows(bench.models)
    assert rows.keys() == bench.models.keys()
    assert {len(found) for each in rows.values() for found in each} == {len(bench.split.test)}
    again = m6rec.evaluate(bench.model(0).scorer("dense"), bench.data)
    assert rows["m6rec_no_prior"][0]["ndcg"].mean() == pytest.approx(again.metrics["ndcg@10"])
    against = table.versus(rows)
    assert not {"m6rec", "hybrid", "m6rec_no_request_time"} & set(against.index), "our own rows are no peers"
    assert {"popularity", "sasrec"} <= set(against.index)
    assert against["peer_mean"].iloc[0] == against["peer_mean"].max(), "the best peer is the first"


def test_peers_may_have_other_seeds_than_the_model_and_a_count_has_one(tmp_path, monkeypatch):
    monkeypatch.setenv("M6REC_HOME", str(tmp_path))
    monkeypatch.setattr(table, "PEERS_TRAIN", {"pretrain_epochs": 1})
    bench, seeds = table.Bench(small_data(), "small", (0, 1), **CONFIG), []
    bench.models["mine"] = lambda seed: seeds.append(seed) or baselines.Popularity().fit(bench.data, bench.split)
    rows = bench.rows(["popularity", "mine", "m6rec_no_prior"]) | bench.rows(["sasrec"], [1])
    assert {name: len(each) for name, each in rows.items()} == {
        "popularity": 1, "mine": 2, "m6rec_no_prior": 2, "sasrec": 1
    } and seeds == [0, 1]  # fmt: skip
    assert rows["mine"][1].equals(rows["popularity"][0]) and rows["mine"][1].attrs["mask_seen"]


def test_a_summary_is_the_mean_over_seeds():
    ndcg = np.array([[1, 0, 0], [0.5, 1, 0]])
    rows = {"one": [pd.DataFrame({"ndcg": n, "hit": n > 0}) for n in ndcg]}
    line = table.summary({**rows, "other": rows["one"][:1]}).loc["one"]
    assert line["NDCG@10"] == pytest.approx(2.5 / 6) and line["HR@10"] == 0.5 and line["seeds"] == 2
    np.testing.assert_array_equal(table.per_user(rows)["one"], ndcg)


def test_the_blend_takes_what_validation_likes_best(bench):
    popular = baselines.Popularity().fit(bench.data, bench.split)
    (blend,) = bench.blend([popular])

    def valid(model: object) -> float:
        return m6rec.evaluate(model, bench.data, split=bench.split, part="valid").metrics["ndcg@10"]

    start = Interpolation(popular, baselines.CoOccurrence(**table.START).fit(bench.data, bench.split), 1.0)
    assert blend.weight > 0 and blend.model is popular and valid(blend) >= valid(start) > valid(popular)
    assert valid(Interpolation(popular, blend.prior, 0.0)) == pytest.approx(valid(popular))
    assert valid(bench.prior()) >= valid(bench.cooccurrence()) >= valid(start.prior)
    both = bench.blend([popular, baselines.Markov().fit(bench.data, bench.split)])
    assert both[0].weight == both[1].weight and both[0].model is popular, "one choice for all"


def test_coordinate_ascent_ends_where_no_step_of_one_setting_is_better():
    tried = []

    def score(at: dict[str, float]) -> float:
        tried.append(tuple(at.values()))
        return -((at["x"] - 3) ** 2) - (at["x"] - at["y"]) ** 2 / 2

    assert table.coordinate_ascent(score, {"x": 0, "y": 0}, {"x": range(6), "y": range(6)}) == {"x": 3, "y": 3}
    assert len(tried) == len(set(tried)) < 30
    odd = table.coordinate_ascent(lambda at: float("nan") if at["x"] else 1.0, {"x": 0}, {"x": range(3)})
    assert odd == {"x": 0}, "NaN is not better"


def test_a_blend_adds_logarithms_and_no_item_is_impossible():
    data = small_data()
    users = data.targets(data.split().test)
    count = baselines.CoOccurrence().fit(data, data.split())
    scores = Interpolation(baselines.Popularity().fit(data, data.split()), count, 1.0).scores(users)
    assert scores.isfinite().all()
    gained = scores - Interpolation(baselines.Popularity().fit(data, data.split()), count, 0.0).scores(users)
    assert (gained.argmax(1).numpy() == np.asarray(count.scores(users)).argmax(1)).all()


def test_a_mixture_is_a_chance_and_where_one_kind_is_silent_the_other_speaks():
    data = small_data()
    users = data.targets(data.split().test)
    count = baselines.Popularity().fit(data, data.split())
    silent = SimpleNamespace(scores=lambda users: np.zeros((len(users), data.n_items)))
    both = baselines.Mixture([(count, 0.75), (baselines.CoOccurrence().fit(data, data.split()), 0.25)])
    np.testing.assert_allclose(both.scores(users).sum(1), 1)
    alone, half = np.asarray(count.scores(users)), baselines.Mixture([(count, 0.5), (silent, 0.5)]).scores(users)
    np.testing.assert_allclose(half, alone / alone.sum(1, keepdims=True) / 2)


def test_without_words_the_count_alone_is_the_prior():
    data = small_data()
    data.items["text"] = "…"
    bench = table.Bench(data)
    assert [type(part) for part, _ in bench.prior().parts] == [baselines.CoOccurrence]


def test_what_a_boost_gives_to_cold_items_it_takes_from_known_ones():
    films = ColdStart(small_data(), np.arange(0, 30, 4))
    model = m6rec.M6Rec(films.train, "small", **{**CONFIG, "identity": False})
    model.pretrain()

    def ndcg(kind: str, boost: float) -> float:
        split = films.split._replace(test=films.cases[kind][0])
        return m6rec.evaluate(model.scorer("hybrid", cold_boost=boost), films.data, split=split).metrics["ndcg@10"]

    assert ndcg("valid", 0.0) > ndcg("valid", 3.0) and ndcg("valid_cold", 0.0) < ndcg("valid_cold", 3.0)


@pytest.fixture
def trunk(bench):
    """A model that is pretrained alone."""
    model = m6rec.M6Rec(bench.data, "small", **CONFIG)
    model.pretrain()
    return model


def test_a_planted_tree_says_every_item_and_leaves_the_model_its_own(trunk):
    """A copied decoder once took the leaves of the tree before for its own, and said item -1."""
    users = trunk.data.targets(trunk.split.test)
    before = trunk.scorer("generated").scores(users)
    other = copy.deepcopy(trunk.network)
    vectors = trunk.item_vectors()
    other.digits.init_from_tree(
        build_tree(np.random.default_rng(1).normal(size=vectors.shape), other.digits.widths), vectors
    )
    scores = trunk.scorer("generated", network=other).scores(Targets(users.data, users.events, None, False))
    assert torch.isfinite(scores).all(), "a beam that is wider than the catalogue misses no item"
    torch.testing.assert_close(trunk.scorer("generated").scores(users), before)


def test_precomputed_scores_are_found_for_users_in_any_order():
    data = small_data()
    events = data.split().test
    model = Precomputed("peer", events, np.tile(events[:, None], (1, data.n_items)).astype(np.float32))
    shuffled = np.random.default_rng(0).permutation(events)
    assert np.array_equal(model.scores(data.targets(shuffled))[:, 0], shuffled)
    assert m6rec.evaluate(model, data).per_user["rank"].notna().all()
    with pytest.raises(InputError, match="no scores for the target event"):
        model.scores(data.targets(events[:1] - 2))


def test_a_synthetic_catalogue_is_a_whole_balanced_tree_of_the_models_own_widths():
    decoder, vectors = table.synthetic_decoder(500, width=8)
    assert vectors.shape == (500, 8) and decoder.widths == (9, 9, 9)
    assert sorted(decoder.item[decoder.item >= 0].tolist()) == list(range(500))
    counts = torch.bincount(decoder.tree.digits(torch.arange(500))[:, 0])
    assert len(counts) == 9 and counts.max() - counts.min() <= 1
    found = generate(decoder, torch.randn(3, 8), 10, beam=20)
    assert (found.items.sort(1).values.diff(dim=1) > 0).all()


def test_a_call_is_timed_in_milliseconds():
    assert 2 <= table.milliseconds(lambda: time.sleep(0.002), 0.02).min() < 50
