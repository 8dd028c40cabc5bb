"""The bench: rows are kept, a blend never loses to its model on validation, and a file of sequences is enough."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fixtures import CONFIG, small_data

import m6rec
from m6rec import baselines, cli
from m6rec.errors import InputError
from m6rec.evaluate import Averaged, Blended, climb
from m6rec.explain.trial import Trial
from m6rec.model.tree import build_tree
from m6rec.runs.bench import digits, outside, table
from m6rec.runs.bench.heads import heads


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setenv("M6REC_HOME", str(tmp_path))
    return table.Bench(small_data(), "small", say=lambda line: None, **CONFIG)


def test_every_model_of_the_bench_gets_a_row_on_the_same_targets(bench, monkeypatch):
    monkeypatch.setattr(table, "PEERS_TRAIN", {"pretrain_epochs": 1})
    rows = list(bench.rows(bench.names))
    assert {row.name for row in rows} == set(bench.names)
    assert {len(row.ranks) for row in rows} == {len(bench.split.test)}
    dense = next(row for row in rows if row.name == "m6rec_no_prior")
    again = m6rec.evaluate(bench.model(0).scorer("dense"), bench.data)
    assert dense.ndcg().mean() == pytest.approx(again.metrics["ndcg@10"])
    assert dense.ndcg(mask_seen=False).mean() != dense.ndcg().mean()
    against = table.versus(rows)
    assert not {"m6rec", "hybrid", "m6rec_no_request_time"} & set(against.index), "our own rows are no peers"
    assert {"popularity", "sasrec", "tiger"} <= set(against.index)
    best = against["peer_mean"].idxmax()
    assert table.lead(against) == against["holm_low"][best] <= against["difference"][best]


def test_trained_peers_may_have_fewer_seeds_than_the_model(tmp_path, monkeypatch):
    monkeypatch.setenv("M6REC_HOME", str(tmp_path))
    monkeypatch.setattr(table, "PEERS_TRAIN", {"pretrain_epochs": 1})
    bench = table.Bench(small_data(), "small", (0, 1), lambda line: None, peer_seeds=[1], **CONFIG)
    rows = bench.rows(["popularity", "sasrec", "m6rec_no_prior"])
    assert [(row.name, row.seed) for row in rows] == [
        ("popularity", 0), ("sasrec", 1), ("m6rec_no_prior", 0), ("m6rec_no_prior", 1)
    ]  # fmt: skip


def test_a_row_that_was_measured_is_not_measured_again(bench, monkeypatch):
    (first,) = bench.rows(["cooccurrence"])
    monkeypatch.setattr(bench, "_fit", lambda name, seed: pytest.fail("measured twice"))
    (kept,) = bench.rows(["cooccurrence"])
    assert kept.ranks.equals(first.ranks) and kept._replace(ranks=None) == first._replace(ranks=None)
    with pytest.raises(pytest.fail.Exception):
        list(bench.rows(["popularity"]))


def test_a_row_of_outside_code_is_kept_whoever_listens(bench, monkeypatch):
    count, ran = baselines.CoOccurrence().fit(bench.data, bench.split), []

    def run(name, data, split, **options):  # scores as a peer would send them back
        ran.append(name)
        scores = [np.asarray(count.scores(data.targets(events)), np.float32) for events in (split.test, split.valid)]
        return outside.Outcome(name, "done", *scores, 3.0, [(1.0, 0.2), (2.0, 0.3)], 10, 1000, "two epochs")

    monkeypatch.setattr(outside, "run", run)
    (first,) = bench.rows(["recbole_ease"], cap=5)
    bench.say = lambda line: ran  # another listener, which is no other measurement
    (kept,) = bench.rows(["recbole_ease"], cap=5)
    assert ran == ["recbole_ease"] and kept.curve == first.curve == ((1.0, 0.2), (2.0, 0.3))
    assert kept.ranks.equals(first.ranks)
    list(bench.rows(["recbole_ease"], cap=6))
    assert len(ran) == 2, "another cap is another measurement"


def test_what_was_not_measured_is_no_zero(bench):
    line = table.summary(list(bench.rows(["popularity"]))).loc["popularity"]
    assert np.isnan(line["peak MB"]) and line["lists/s"] > 0


def test_a_row_that_failed_stands_in_no_mean_and_is_written_down(bench, tmp_path):
    rows = [*bench.rows(["popularity", "cooccurrence", "m6rec"]), table.Row("peer", 0, None, 0, 0, 0, "failed: no pip")]
    assert "peer" not in table.summary(rows).index
    written = {path.name: path.read_text() for path in table.write(rows, tmp_path / "out")}
    assert written["failed.txt"] == "peer: failed: no pip\n" and "popularity" in written["versus.csv"]


def test_the_blend_takes_what_validation_likes_best(bench):
    popular = baselines.Popularity().fit(bench.data, bench.split)
    (blend,) = bench.blend([popular])

    def valid(model: object) -> float:
        return m6rec.evaluate(model, bench.data, split=bench.split, part="valid").metrics["ndcg@10"]

    start = Blended(popular, baselines.CoOccurrence(**table.START).fit(bench.data, bench.split), 1.0)
    assert blend.weight > 0 and blend.model is popular and valid(blend) >= valid(start) > valid(popular)
    assert valid(Blended(popular, blend.prior, 0.0)) == pytest.approx(valid(popular))
    assert valid(bench.prior()) >= valid(bench.cooccurrence()) >= valid(start.prior)
    both = bench.blend([popular, baselines.Markov().fit(bench.data, bench.split)])
    assert both[0].weight == both[1].weight and both[0].model is popular, "one choice for all"


def test_a_climb_ends_where_no_step_of_one_setting_is_better():
    tried = []

    def score(at: dict[str, float]) -> float:
        tried.append(tuple(at.values()))
        return -((at["x"] - 3) ** 2) - (at["x"] - at["y"]) ** 2 / 2

    assert climb(score, {"x": 0, "y": 0}, {"x": range(6), "y": range(6)}) == {"x": 3, "y": 3}
    assert len(tried) == len(set(tried)) < 30


def test_a_blend_adds_logarithms_and_no_item_is_impossible():
    data = small_data()
    users = data.targets(data.split().test)
    count = baselines.CoOccurrence().fit(data, data.split())
    scores = Blended(baselines.Popularity().fit(data, data.split()), count, 1.0).scores(users)
    assert scores.isfinite().all()
    gained = scores - Blended(baselines.Popularity().fit(data, data.split()), count, 0.0).scores(users)
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
    bench = table.Bench(data, say=lambda line: None)
    assert [type(part) for part, _ in bench.prior().parts] == [baselines.CoOccurrence]


def test_an_ensemble_is_the_mean_of_its_models_and_has_one_row(tmp_path, monkeypatch):
    monkeypatch.setenv("M6REC_HOME", str(tmp_path))
    bench = table.Bench(small_data(), "small", (0, 1), say=lambda line: None, **CONFIG)
    users = bench.data.targets(bench.split.test)
    one, other = (bench.model(seed).scorer("dense") for seed in (0, 1))
    both = Averaged([one, other]).scores(users)
    torch.testing.assert_close(both, (one.scores(users).double() + other.scores(users).double()) / 2)
    (row,) = bench.rows([table.ENSEMBLE])
    assert row.name in bench.names and row.name not in table.versus([row, *bench.rows(["m6rec", "popularity"])]).index


def test_the_lift_of_new_items_is_the_best_exchange_of_known_and_new():
    """On validation no other lift has a better product of the two figures; a lift helps the new ones alone."""
    films = Trial(small_data(), np.arange(0, 30, 4))
    model = m6rec.M6Rec(films.train, "small", **{**CONFIG, "identity": False})
    model.pretrain()

    def ndcg(kind: str, lift: float) -> float:
        split = films.split._replace(test=films.events[kind])
        return m6rec.evaluate(model.scorer("hybrid", lift=lift), films.data, split=split).metrics["ndcg@10"]

    known, new = (np.array([ndcg(kind, lift) for lift in table.LIFTS]) for kind in ("valid", "valid_cold"))
    assert known[0] > known[-1] and new[0] < new[-1], "what one gains the other loses"
    assert (known * new)[table.LIFTS.index(table.balanced_lift(model, films))] == max(known * new)


def test_generated_lists_hold_nothing_that_may_not_be_there(bench):
    model = bench.model(0)
    assert table.invalid(model, table.BATCH, k=3) == 0
    model.network.digits.item[model.network.digits.leaf[:15]] = 1  # a tree that names one item many times
    assert table.invalid(model, table.BATCH, k=3) > 0


@pytest.fixture
def trunk(bench):
    """A model that is pretrained alone."""
    model = m6rec.M6Rec(bench.data, "small", **CONFIG)
    model.pretrain()
    return model


def test_every_digit_head_learns_over_a_trunk_that_stays_as_it_was(trunk):
    before = {name: value.clone() for name, value in trunk.network.state_dict().items()}
    lines = []
    found = digits.said(trunk, epochs=2, say=lines.append)
    assert len(lines) == len(found) == 11 and {len(of) for each in found.values() for of in each} == {40}
    assert all((each.untaught != each.taught).any() for each in found.values())
    assert all(torch.equal(value, before[name]) for name, value in trunk.network.state_dict().items())


def test_a_digit_head_is_scored_as_it_is_taught(trunk):
    """Log-likelihoods by steps are those of teaching, whatever events stand before, and sum to one over all items."""
    users = trunk.data.targets(trunk.split.test)
    read = digits._read(trunk, trunk.target_context(users), torch.from_numpy(users.items)[:, None])
    for name, make in heads(trunk).items():
        head = make()
        with torch.no_grad():
            scores, path = head.scores(head.module.eval(), read), head.losses(head.module, read)["digits"]
        if name == "parallel_by_item":
            scores = scores.log_softmax(1)
        torch.testing.assert_close(-scores.gather(1, read.target[:, None]).mean(), path, msg=name)
        if name != "parallel":  # whose codes fit no item, or several
            torch.testing.assert_close(scores.exp().sum(1), torch.ones(len(users)), msg=name)


def test_a_shared_vocabulary_is_one_vector_for_a_code_whatever_stands_before(trunk):
    decoder = heads(trunk)["shared"]().module
    for level, nodes in enumerate(decoder.nodes):
        codes = nodes.unflatten(0, (-1, decoder.widths[level]))
        assert torch.equal(codes, codes[:1].expand_as(codes)), "the same below every node"
    assert sum(p.numel() for p in decoder.nodes.parameters()) == sum(decoder.widths) * trunk.config.width


def test_a_whole_prefix_says_more_than_its_last_state(trunk):
    """The same state after other events: a head that sees the state alone cannot tell, the one of the prefix must."""
    users = trunk.data.targets(trunk.split.test)
    read = digits._read(trunk, trunk.target_context(users), torch.from_numpy(users.items)[:, None])
    other, found = read._replace(events=read.events.flip(0)), heads(trunk)
    for name, tells in {"nodes": False, "nodes_whole_prefix": True}.items():
        head = found[name]()
        torch.nn.init.normal_(head.module.project.weight)  # untaught, no decoder adds anything
        with torch.no_grad():
            same = torch.equal(head.scores(head.module.eval(), read), head.scores(head.module, other))
        assert same is not tells


def test_a_planted_tree_says_every_item_and_leaves_the_model_its_own(trunk):
    """A copied decoder once took the leaves of the tree before for its own, and said item -1."""
    users = trunk.data.targets(trunk.split.test)
    before = trunk.scorer("generated").scores(users)
    other = copy.deepcopy(trunk.network)
    vectors = trunk.item_vectors()
    other.digits.init_from_tree(
        build_tree(np.random.default_rng(1).normal(size=vectors.shape), other.digits.widths), vectors
    )
    scores = trunk.scorer("generated", network=other, mask_seen=False).scores(users)
    assert torch.isfinite(scores).all(), "a beam that is wider than the catalogue misses no item"
    torch.testing.assert_close(trunk.scorer("generated").scores(users), before)


def test_a_file_of_sequences_and_attributes_is_a_data_set(tmp_path):
    (tmp_path / "Shop.txt").write_text("7 1 2 3\n9 2 3 1\n")
    (tmp_path / "a.json").write_text('{"1": [4, 5], "2": []}')
    data = m6rec.Dataset.from_sequences(tmp_path / "Shop.txt", tmp_path / "a.json")
    assert (data.name, data.n_users, data.n_items, data.timed) == ("shop", 2, 3, False)
    assert data.events["item"].tolist() == [0, 1, 2, 1, 2, 0]
    assert data.items["text"].iloc[0] == "attribute4 attribute5"
    for path, words in ((tmp_path / "none.txt", "cannot be read"), (tmp_path, "cannot be read")):
        with pytest.raises(InputError, match=words):
            m6rec.Dataset.from_sequences(path)
    with pytest.raises(InputError, match="cannot be read"):
        m6rec.Dataset.from_sequences(tmp_path / "Shop.txt", tmp_path / "none.json")


def test_the_command_ranks_a_file_of_sequences(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("M6REC_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(table, "PEERS_TRAIN", {"pretrain_epochs": 1})
    rng = np.random.default_rng(0)
    lines = [f"{user} " + " ".join(map(str, rng.permutation(12)[:6])) for user in range(30)]
    (tmp_path / "toy.txt").write_text("\n".join(lines))
    monkeypatch.setattr(cli.sys, "argv", ["m6rec", "bench", str(tmp_path / "toy.txt"), "--preset", "tiny",
                                          "--out", str(tmp_path / "runs")])  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0 and "cooccurrence" in capsys.readouterr().out
    assert (tmp_path / "runs" / "bench" / "toy" / "table.csv").exists()
