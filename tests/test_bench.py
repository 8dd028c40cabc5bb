"""The bench: every model on the same targets, and a blend never loses to its model on validation."""

from __future__ import annotations

import copy
import shutil
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from fixtures import CONFIG, small_data

import m6rec
from m6rec import baselines
from m6rec.config import InputError
from m6rec.data.dataset import Dataset, Targets
from m6rec.evaluate import Interpolation, Precomputed, compare, leaks
from m6rec.generate import generate
from m6rec.model.tree import build_tree
from m6rec.record import recorded, tabled
from m6rec.runs import bench as table
from m6rec.runs.bench import SETTINGS
from m6rec.tasks.heldout import ColdStart

QUICK = {**CONFIG, "pretrain_epochs": 1}


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setenv("M6REC_HOME", str(tmp_path))
    monkeypatch.setitem(SETTINGS, "grid", {name: steps[1::3] for name, steps in SETTINGS["grid"].items()})  # faster
    return table.Bench(small_data(), "small", **QUICK)


def test_every_entry_gets_a_row_on_the_same_targets_and_says_what_it_reads(bench):
    names = ["popularity", "markov", "ids", "content", "history", "history_time", "dense", "generated"]
    names += ["sasrec_ids", "gru4rec_history_time", "sasrec_content_prior"]
    assert set(names) < set(bench.entries)
    found = table.bench({name: bench.entries[name] for name in names}, bench.data)
    assert list(found.rows.index) == names and found.rows["seeds"].eq(1).all()
    assert {values["ndcg"].shape for values in found.per_user.values()} == {(1, len(bench.split.test))}
    inputs = ["ids", "ids", "ids", "content", "history", "history_time", "history", "history"]
    rows = found.rows
    assert list(rows["inputs"]) == [*inputs, "ids", "history_time", "content_prior"]
    dense = m6rec.evaluate(bench.model("history", 0).scorer("dense"), bench.data)
    assert rows.loc["history", "ndcg@10"] != found.rows.loc["dense", "ndcg@10"] == dense.metrics["ndcg@10"]
    assert (found.rows["low"] <= found.rows["ndcg@10"]).all() and (found.rows["ndcg@10"] <= found.rows["high"]).all()


def test_a_table_records_its_rows_with_what_they_read_and_a_search_what_it_took(bench, monkeypatch, tmp_path):
    monkeypatch.setenv("M6REC_RECORD", str(file := tmp_path / "figures.json"))
    found = table.bench({name: bench.entries[name] for name in ("popularity", "markov")}, bench.data)
    shown = found.record("bench.toy.ndcg10")
    assert shown["markov"].label == "ids" and shown["markov"].value == found.rows.loc["markov", "ndcg@10"]
    trials = pd.DataFrame({"settings": [{"width": 8}, {"width": 4}], "validation": [0.2, 0.1], "seconds": [3.0, 4.0]})
    took = table.record_search("bench.toy.search.m6rec", trials)
    assert took.value == 7 and took.label == "s, 2 trials; best 0.2000 on validation: width 8"
    against = compare(found.per_user["markov"]["ndcg"], {"popularity": found.per_user["popularity"]["ndcg"]})
    table.record_differences("bench.toy.over", against)
    at, rows = recorded(file), tabled(recorded(file), "bench.toy.ndcg10.", "bench.toy.over.")
    assert at["bench.toy.over.popularity"].value == against.loc["popularity", "difference"]
    assert f"Holm {against['holm_low'].iloc[0]:.4f} to" in rows.loc["over.popularity", "what"]
    assert {"ndcg10.markov", "ndcg10.popularity", "over.popularity"} == {*rows.index}
    assert rows["value"].is_monotonic_decreasing and tabled(recorded(file), "none.").empty


def test_a_model_of_ones_own_and_a_data_set_without_times_are_added_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setenv("M6REC_HOME", str(tmp_path))
    data = small_data()
    seeds = []
    own = {
        "fixed": baselines.Popularity().fit(data, data.split()),
        "mine": table.Entry(
            lambda seed: seeds.append(seed) or baselines.Popularity().fit(data, data.split()), "content"
        ),
    }
    found = table.bench(own, data, seeds=(3, 4))
    assert seeds == [3, 4] and list(found.rows["seeds"]) == [1, 2] and list(found.rows["inputs"]) == ["–", "content"]
    assert found.rows.loc["fixed", "ndcg@10"] == found.rows.loc["mine", "ndcg@10"]
    untimed = Dataset(data.name, False, data.items, data.users, data.events, data.offsets)
    assert table.Bench(untimed).inputs == ["ids", "content"] and "history" not in table.Bench(untimed).entries


@pytest.mark.parametrize("wrong", ["NaN", "columns", "catalogue"])
def test_a_peer_that_cannot_be_ranked_is_named_in_a_sentence(wrong):
    data = small_data()
    scores = np.full((len(data.split().test), data.n_items - (wrong == "columns")), np.nan if wrong == "NaN" else 0.0)
    renamed = data.items.assign(item_id=data.items["item_id"] + 1)
    other = Dataset(data.name, True, renamed, data.users, data.events, data.offsets)
    peer = SimpleNamespace(name="peer", scores=lambda users: scores, fitted_on=(other, None))
    if wrong != "catalogue":
        del peer.fitted_on
    message = {"NaN": "gave NaN, first for user", "columns": "a column for each item", "catalogue": "on other items"}
    with pytest.raises(InputError, match=f"^peer.*{message[wrong]}"):
        table.bench({"peer": peer}, data, chunk=1000)


BEFORE = {"refit": "history_prior"}
HIDDEN = {
    "ids": ("text", "value", "past gap", "profile", "target's time"),
    "content": ("value", "past gap", "profile", "target's time"),
    "history": ("target's time",),
    "history_time": (),
}


@pytest.mark.parametrize(
    ("network", "name"),
    [*(("m6rec", name) for name in HIDDEN), ("sasrec", "ids"), ("sasrec", "history"), ("gru4rec", "history_time")],
)
def test_a_model_does_not_depend_on_what_its_inputs_leave_out(bench, network, name):
    """And it does depend on everything else."""
    data, users, hidden = bench.data, bench.data.targets(bench.split.test), HIDDEN[name]
    model = bench.trained(network, name, 0)
    assert leaks(lambda *_: model, data) == []
    first = torch.as_tensor(model.scores(users))
    last, late = users.events, data.events.copy()
    late.loc[last, "timestamp"] += 5 * 86400 + 3 * 3600  # another hour, weekday and gap; the last event of a user
    past = data.events.copy()
    shifted = past.index.isin(last - 2)  # a past event is earlier: one gap shorter, the next one longer
    first_of_user = past.index.isin(data.offsets[:-1])
    past.loc[shifted & ~first_of_user, "timestamp"] = past["timestamp"].shift(1)
    changed = {
        "value": replace(data, events=data.events.assign(value=6 - data.events["value"])),
        "past gap": replace(data, events=past),
        "profile": replace(data, users=data.users.assign(age=88 - data.users["age"])),
        "target's time": replace(data, events=late),
    }
    for what, other in changed.items():
        moved = not torch.allclose(torch.as_tensor(model.scores(other.targets(last))), first, atol=1e-5)
        assert moved == (what not in hidden), what
    words = replace(data, items=data.items.assign(text=data.items["text"].to_numpy()[::-1]))
    again = table.Bench(words, "small", **QUICK).trained(network, name, 0)
    assert torch.allclose(torch.as_tensor(again.scores(users)), first, atol=1e-5) == ("text" in hidden)


def test_a_search_halves_its_trials_goes_on_where_it_was_and_says_when_the_start_is_best(bench, monkeypatch, capsys):
    calls, fit = [], m6rec.train.fit._fit

    def counted(network, stage, *of, **options):
        calls.append(stage.epochs)
        return fit(network, stage, *of, **options)

    monkeypatch.setattr("m6rec.train.fit._fit", counted)
    bench.changes = {"width": 8, "heads": 1, "history": 8, "pretrain_epochs": 3, "validate_every": 1}
    options = {"n": 5, "epochs": (1, 2, 3)}
    found = bench.search("sasrec", **options)
    assert calls[:5] == [1] * 5 and calls.count(2) in (2, 3) and calls.count(3) in (1, 2)
    assert sorted(found["trial"]) == [*range(5)] and found["epochs"].is_monotonic_decreasing
    assert found.set_index("trial")["epochs"][0] == 3, "its own settings are trained to the end"
    assert found.query("epochs == 1")["validation"].is_monotonic_decreasing
    assert bench.settings["sasrec"] == found["settings"].iloc[0]
    alone = bench._fit("sasrec", "ids", found["settings"].iloc[0])
    assert max(row.validation for row in alone.log) == pytest.approx(found["validation"].iloc[0])
    calls.clear()
    assert bench.search("sasrec", **options).equals(found) and not calls, "it is kept"
    known = bench.carried_over("sasrec"), *bench.published["sasrec"]
    assert (found["settings"].iloc[0] in known) == ("no trial is better than its start" in capsys.readouterr().out)
    shutil.rmtree(next((m6rec.data.sources.home() / "models").glob("sasrec-*")))
    again = bench.search("sasrec", **options)
    assert len(calls) == 1 and (again.drop(columns="seconds")).equals(found.drop(columns="seconds"))


@pytest.mark.parametrize(
    ("users", "items", "each", "history", "batch", "sparse"),
    [
        (943, 1_682, 106, 200, 64, False),  # as MovieLens-100K
        (1_090, 3_646, 48, 50, 64, True),  # Last.fm
        (22_363, 12_101, 9, 50, 128, True),  # Amazon Beauty
        (200, 900, 150, 200, 16, False),
        (6_040, 100, 12, 50, 64, False),
    ],
)
def test_settings_follow_from_the_size_and_the_lengths_of_the_data(users, items, each, history, batch, sparse):
    user = np.repeat(np.arange(users), each)
    data = SimpleNamespace(events=pd.DataFrame({"user": user}), n_items=items)
    last = np.arange(1, users + 1) * each - 1
    split = SimpleNamespace(train=~np.isin(np.arange(len(user)), [*last, *(last - 1)]))
    own = table.Bench(small_data(), "small")
    own.data, own.split = data, split
    found, chosen = own.carried_over("m6rec"), own.published["m6rec"][-sparse]
    assert found == {**chosen, "batch": batch}
    assert own.carried_over("sasrec")["history"] == history


def test_a_last_fit_has_the_validation_targets_and_nothing_of_the_rest(bench):
    data, targets = bench.data, bench.data.targets(bench.split.test)
    events = data.events.copy()
    events.loc[bench.split.test, "item"] = (events.loc[bench.split.test, "item"] + 7) % data.n_items
    other = table.Bench(replace(data, events=events), "small", **QUICK)
    for name in ("markov_refit", "cooccurrence_content_refit", "sasrec_ids_refit", "refit"):
        model = bench.entries[name].make(0)
        first = torch.as_tensor(model.scores(targets))
        assert not torch.allclose(
            first, torch.as_tensor(bench.entries[BEFORE.get(name, name[:-6])].make(0).scores(targets))
        )
        torch.testing.assert_close(torch.as_tensor(other.entries[name].make(0).scores(targets)), first)
    assert len(bench._rest.events) == data.n_events - len(bench.split.test)
    ours = bench.refit(bench.trained("m6rec", "history", 0))
    assert len(ours.stages["pretrain"]) == bench.trained("m6rec", "history", 0).settled.pretrain_epochs


def test_the_blend_takes_what_validation_likes_best(bench):
    popular = baselines.Popularity().fit(bench.data, bench.split)
    (blend,) = bench.blend([popular])

    def valid(model: object) -> float:
        return m6rec.evaluate(model, bench.data, split=bench.split, part="valid").metrics["ndcg@10"]

    start = {name: value for name, value in SETTINGS["count"][0].items() if name not in ("content", "neighbours")}
    start = Interpolation(popular, baselines.CoOccurrence(**start).fit(bench.data, bench.split), 1.0)
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
    hilly = table.coordinate_ascent(lambda at: [1.0, 0.5, 2.0][at["x"]], {"x": 0}, {"x": range(3)})
    assert hilly == {"x": 2}, "a worse step does not hide a better one behind it"
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
    with pytest.raises(InputError, match=r"^peer has scores of other targets"):
        model.scores(data.targets(events[:1] - 2))
    for wrong in (model._replace(table=model.table[1:]), model._replace(catalogue="another's")):
        with pytest.raises(InputError, match=r"^peer has scores of other targets or items"):
            m6rec.evaluate(wrong, data)
    assert m6rec.evaluate(model._replace(catalogue=data.catalogue), data).metrics


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
