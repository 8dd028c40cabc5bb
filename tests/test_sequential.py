"""Baselines that learn what comes next, by counting, by content or with a network: that they learn it, and cleanly."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from fixtures import small_data
from tiger import Tiger, TigerNetwork

import m6rec
from m6rec.baselines import (
    BSARec,
    ContentKNN,
    ESASRec,
    GRU4Rec,
    Layer,
    Markov,
    Popularity,
    SASRec,
    frozen_features,
    tfidf,
)
from m6rec.config import Config, InputError
from m6rec.data.dataset import Dataset
from m6rec.evaluate import evaluate
from m6rec.generate import generate
from m6rec.model.tree import semantic_ids
from m6rec.train.losses import first_class, sampled_logits

NETWORKS = [SASRec, GRU4Rec, ESASRec, BSARec, Tiger]
ITEMS, LENGTH = 20, 12
CONFIG = Config(
    width=16, history=8, pretrain_epochs=16, validate_every=8, batch=16, learning_rate=1e-2, dropout=0.0, average=0.9
)


def circle() -> Dataset:
    """Forty people who walk round one circle of the items, each from a place of their own; words say where it is."""
    order = np.random.default_rng(0).permutation(ITEMS)
    walks = [order[(start + np.arange(LENGTH)) % ITEMS] for start in range(2 * ITEMS)]
    users, times = np.divmod(np.arange(len(walks) * LENGTH), LENGTH)
    events = pd.DataFrame({"user_id": users, "item_id": np.concatenate(walks), "timestamp": times})
    items = pd.DataFrame({"item_id": np.arange(ITEMS), "text": [f"film by{i % 4} of{i % 5}" for i in range(ITEMS)]})
    return Dataset.from_frames(items, None, events, name="circle")


@pytest.fixture(scope="module")
def data() -> Dataset:
    return circle()


@pytest.fixture(scope="module")
def fitted(data) -> dict[type, object]:
    return {kind: kind(CONFIG).fit(data, data.split()) for kind in NETWORKS}


def test_markov_recovers_a_planted_circle(data):
    model, split = Markov(alpha=0.5).fit(data, data.split()), data.split()
    assert evaluate(model, data).metrics["hit@10"] == evaluate(model, data, k=1).metrics["hit@1"] == 1
    scores = model.scores(data.targets(split.test))
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-5)


def test_markov_equals_a_slow_definition_and_falls_back_on_popularity():
    data = small_data()
    split = data.split()
    events, user = data.events["item"].to_numpy(), data.events["user"].to_numpy()
    counts = np.zeros((data.n_items, data.n_items))
    for at in range(1, data.n_events):
        if split.train[at - 1] and split.train[at] and user[at - 1] == user[at]:
            counts[events[at - 1], events[at]] += 1
    share = np.bincount(events[split.train], minlength=data.n_items) / split.train.sum()
    expected = (counts + 3 * share) / (counts.sum(1, keepdims=True) + 3)
    model = Markov(alpha=3).fit(data, split)
    np.testing.assert_allclose(model.scores(data.targets(split.test)), expected[events[split.test - 1]], rtol=1e-4)
    first = data.targets(data.offsets[:3])  # nothing comes before a first event
    np.testing.assert_allclose(model.scores(first), np.tile(share, (3, 1)), rtol=1e-5)


def test_markov_counts_training_events_only(data):
    split = data.split()
    moved = data.events.copy()
    held = np.concatenate((split.valid, split.test))
    moved.loc[held, "item"] = (moved.loc[held, "item"] + 7) % ITEMS
    other = Dataset(data.name, data.timed, data.items, data.users, moved, data.offsets)
    first, second = (Markov().fit(d, d.split()) for d in (data, other))
    assert (first.weights != second.weights).nnz == 0
    np.testing.assert_array_equal(first.bias, second.bias)


def test_content_knn_ranks_a_never_sold_item_with_the_historys_words_above_others():
    texts = ["space war", "space war ship", "love letters", "love dance", "space ship", "dance letters"]
    items = pd.DataFrame({"item_id": np.arange(6), "text": texts})  # 4 and 5 are in no history
    users, sold = [0, 0, 0, 1, 1, 1], [0, 1, 2, 2, 3, 0]
    data = Dataset.from_frames(items, None, pd.DataFrame({"user_id": users, "item_id": sold, "timestamp": range(6)}))
    model = ContentKNN().fit(data, data.split())
    first, second = model.scores(data.targets(data.split().test))  # after 0 1, after 2 3
    assert first[4] == first[2:].max() > first[5] == 0
    assert second[5] == second[[0, 1, 4, 5]].max() > second[4] == 0


def test_content_knn_weighs_the_recent_more_and_knows_its_nearest_only():
    data = small_data()
    targets = data.targets(data.split().test)
    assert (np.diff(ContentKNN(neighbours=3).fit(data, data.split()).weights.tocsc().indptr) < data.n_items - 1).any()
    now = ContentKNN(profile_decay=1e-6).fit(data, data.split())
    np.testing.assert_allclose(now.scores(targets), now.weights.toarray()[targets.history(1)[:, 0]], atol=1e-4)
    assert not np.allclose(now.scores(targets), ContentKNN().fit(data, data.split()).scores(targets), atol=1e-2)


def test_content_knn_compares_given_vectors_instead(data):
    split, targets = data.split(), data.targets(data.split().test)
    mine, own = (ContentKNN(vectors=v).fit(data, split).scores(targets) for v in (tfidf(data).toarray(), None))
    np.testing.assert_allclose(mine, own, rtol=1e-5)


@pytest.mark.parametrize("fuse", ["sum", "concat", "gated"])
def test_frozen_features_are_read_beside_ids_and_stay_as_they_are(data, fuse):
    features = tfidf(data).toarray()
    model = SASRec(CONFIG, features=features, fuse=fuse).fit(data, data.split())
    assert evaluate(model, data, k=1).metrics["hit@1"] > 0.8
    table = model.network.embedding
    np.testing.assert_array_equal(table.features, features)
    with torch.no_grad():
        before = table.weight.clone()
        table.features[3] = table.features[5]  # another content of one item
        assert (table.weight != before).any(1).nonzero().tolist() == [[3]]
    for wrong in ({"features": features[1:]}, {"features": features, "fuse": "product"}):
        with pytest.raises(InputError, match=r"do not fit 20 items|is unknown: take one of sum"):
            SASRec(CONFIG, **wrong).fit(data, data.split())


def test_frozen_features_of_a_modality_are_zero_where_it_is_absent_and_of_one_scale_elsewhere():
    shop = m6rec.load("bazaar")
    content = m6rec.M6Rec(shop, width=16).features
    for number, (name, rows) in enumerate(frozen_features(shop, content, 8).items()):
        there = content.present[:, number]
        assert rows.shape == (shop.n_items, 8) and (rows[~there] == 0).all(), name
        np.testing.assert_allclose((rows[there] ** 2).mean(), 1, rtol=1e-3)


@pytest.mark.parametrize("kind", [ContentKNN, lambda: Tiger(CONFIG)])
def test_items_without_a_word_are_refused(kind):
    data = small_data()
    data = Dataset(data.name, True, data.items.assign(text="..."), data.users, data.events, data.offsets)
    with pytest.raises(InputError, match="no item of circles has a word"):
        kind().fit(data, data.split())


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_learns_a_planted_circle(fitted, data, kind):
    model = fitted[kind]
    popular = evaluate(Popularity().fit(data, data.split()), data, k=1).metrics["hit@1"]
    assert evaluate(model, data, k=1).metrics["hit@1"] > max(0.8, 3 * popular)
    assert model.log[-1].losses["next"] < model.log[0].losses["next"] / 2
    assert model.log[-1].validation > 0.8 and model.log[-1].seconds > model.log[0].seconds > 0
    assert sum(p.numel() for p in model.network.parameters()) > 16 * ITEMS


def test_bsarecs_filter_is_the_fourier_transforms_at_the_end_of_a_padded_history():
    """Shin et al. 2024, eq. 9 and 10: the lowest frequencies of the history, zeros in front."""
    layer = Layer(4, 1, 0.0, filter=(10, 3, 0.7))
    past = torch.randn(1, 6, 4)
    spectrum = torch.fft.rfft(F.pad(past, (0, 0, 4, 0)), dim=1)
    spectrum[:, 3:] = 0
    expected = torch.fft.irfft(spectrum, 10, dim=1)[:, -1]
    torch.testing.assert_close((layer.low[:6, :6] @ past)[:, -1], expected)
    assert (layer.low.triu(1) == 0).all(), "nothing of later events"


@pytest.mark.parametrize("kind", NETWORKS)
def test_padding_and_what_comes_after_change_no_state(fitted, kind):
    network, item = fitted[kind].network, torch.tensor([[3, 1, 4]])
    short = network(item)
    torch.testing.assert_close(network(F.pad(item, (0, 4), value=-1))[:, :3], short)
    torch.testing.assert_close(network(F.pad(item, (0, 4), value=7))[:, :3], short)
    assert not torch.allclose(network(torch.tensor([[3, 2, 4]]))[:, 1:], short[:, 1:])


@pytest.mark.parametrize("kind", NETWORKS)
def test_scores_come_from_the_last_events_as_if_there_were_no_padding(fitted, data, kind):
    network, items = fitted[kind].network, data.events["item"].to_numpy()
    for event in range(1, LENGTH):  # of the first user: one event before it, then more than a window has
        target, before = data.targets([event]), torch.tensor(items[max(0, event - CONFIG.history + 1) : event])
        with torch.no_grad():
            expected = fitted[kind].rank(network, network(before[None])[:, -1], target)
        torch.testing.assert_close(fitted[kind].scores(target), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", NETWORKS)
def test_scores_do_not_depend_on_the_chunk(fitted, data, kind):
    targets = data.targets(np.concatenate((data.split().test, data.offsets[:2], data.offsets[:2] + 1)))
    whole = fitted[kind].scores(targets)
    assert whole.shape == (len(targets), ITEMS)
    parts = [fitted[kind].scores(targets[start : start + 7]) for start in range(0, len(targets), 7)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", NETWORKS)
def test_scores_before_fit_are_refused(data, kind):
    with pytest.raises(InputError, match=rf"{kind.__name__} has no network yet: call fit"):
        kind(CONFIG).scores(data.targets(data.split().test))


def test_the_cache_goes_on_where_it_stands_and_tells_settings_and_splits_apart(data, tmp_path, monkeypatch):
    monkeypatch.setenv("M6REC_HOME", str(tmp_path))
    config = Config(width=8, history=8, pretrain_epochs=2, validate_every=1, batch=16)
    first, again = (ESASRec(config).fit(data, data.split(), keep=True) for _ in range(2))
    assert first.log == again.log  # with the very same seconds: it was read
    targets = data.targets(data.split().test)
    torch.testing.assert_close(first.scores(targets), again.scores(targets), rtol=0, atol=0)
    ESASRec(config, negatives=9).fit(data, data.split(), keep=True)
    ESASRec(config).fit(data, data.split("global_time"), keep=True)
    folders = [folder.name for folder in (tmp_path / "models").iterdir()]
    assert len(folders) == 3 and all(name.startswith("esasrec-") for name in folders)


def test_the_sampled_softmax_of_all_items_is_the_full_one():
    generator = torch.Generator().manual_seed(0)
    states, items = torch.randn(5, 8, generator=generator), torch.randn(30, 8, generator=generator)
    target = torch.tensor([0, 7, 7, 12, 29])
    full = F.cross_entropy(states @ items.T, target)
    # Each item three times: uncorrected, the others would weigh three times too much.
    torch.testing.assert_close(first_class(sampled_logits(states, items, target, torch.arange(30).repeat(3), 30)), full)
    # Items that are all alike stand for each other however few are drawn; a true one that is drawn changes nothing.
    alike = items[:1].repeat(30, 1)
    for negatives in (torch.tensor([3]), torch.tensor([0, 3, 7, 12, 29])):
        torch.testing.assert_close(
            first_class(sampled_logits(states, alike, target, negatives, 30)), torch.tensor(30.0).log()
        )


def test_semantic_ids_are_unique_and_the_same_content_shares_all_but_the_last_digit():
    vectors = np.random.default_rng(0).normal(size=(60, 8)).repeat(2, 0)
    digits = semantic_ids(vectors, codes=6)
    assert digits.shape == (120, 4) and len(np.unique(digits, axis=0)) == 120 and digits[:, :3].max() < 6
    np.testing.assert_array_equal(digits[::2, :3], digits[1::2, :3])
    assert (digits[::2, 3] != digits[1::2, 3]).all()
    alike = semantic_ids(np.ones((5, 3)), codes=6)
    np.testing.assert_array_equal(alike, np.stack([[0, 0, 0, at] for at in range(5)]))


def test_each_level_of_semantic_ids_clusters_what_the_level_before_left_over():
    coarse, fine = np.divmod(np.arange(16), 4)
    vectors = np.concatenate((10 * np.eye(4)[coarse], np.eye(4)[fine]), 1)
    digits = semantic_ids(vectors, codes=4)
    for level, planted in enumerate((coarse, fine)):
        assert len(np.unique(np.stack((digits[:, level], planted)), axis=1).T) == 4  # one code, one planted cluster


@pytest.fixture(scope="module")
def branching() -> TigerNetwork:
    """Ninety items whose IDs branch at every level, and weights large enough for every digit to matter."""
    vectors = np.random.default_rng(0).normal(size=(90, 4))
    torch.manual_seed(0)
    network = TigerNetwork(torch.from_numpy(semantic_ids(vectors, codes=3)), CONFIG).eval()
    for table in network.embedding:
        torch.nn.init.normal_(table.weight)
    return network


def test_a_wide_beam_says_what_teaching_says(branching):
    """As wide as the catalogue, the beam prunes nothing: each item's score is the sum of its taught digits."""
    state, every = torch.randn(3, 16, generator=torch.Generator().manual_seed(0)), torch.arange(90)
    found = generate(branching, state, 90, beam=90).table(90)
    for row in range(3):
        taught = branching.teacher_forced(state[row].expand(90, -1), every)
        true = [t.log_softmax(-1)[every, d] for t, d in zip(taught, branching.digits.unbind(1), strict=True)]
        torch.testing.assert_close(found[row], sum(true), rtol=1e-4, atol=1e-4)


def test_a_beam_finds_as_many_allowed_items_as_it_is_wide_and_no_other(branching):
    rng = np.random.default_rng(0)
    allowed = torch.from_numpy(rng.random((60, 90)).argsort(1) < rng.integers(1, 30, (60, 1)))
    for beam in (10, 50):
        found = generate(branching, torch.randn(60, 16), beam, beam=beam, allowed=allowed, short=True)
        found = found.table(90) > -torch.inf
        assert not (found & ~allowed).any()
        assert (found.sum(1) == allowed.sum(1).clamp(max=beam)).all() and found.sum(1).min() < beam


def test_a_trie_has_a_node_for_every_prefix(branching):
    tree, digits = branching.built_tree, branching.digits.numpy()
    assert len(tree.token) == 1 + sum(len(np.unique(digits[:, : level + 1], axis=0)) for level in range(4))
    node = torch.zeros(90, dtype=torch.long)
    for level, path in enumerate(tree.paths):
        children = tree.successors(level, node)
        assert (tree.token[path].numpy() == digits[:, level]).all()
        node = children.gather(1, branching.digits[:, [level]])[:, 0]
        assert torch.equal(node, path)
    assert (children < 0).any() and torch.equal(tree.item[node], torch.arange(90)) and torch.equal(node, tree.leaf)
    allowed = torch.zeros(1, 90, dtype=torch.bool)
    allowed[0, 7] = True
    assert tree.valid_nodes(allowed)[0][0].nonzero()[:, 0].tolist() == tree.paths[:, 7].tolist()


def test_tiger_closes_what_was_seen_unless_mask_seen_is_off(fitted, data):
    targets = data.targets(data.split().test)
    rows, columns = targets.seen().nonzero()
    other = copy.copy(fitted[Tiger])
    other.mask_seen = False
    masked, free = fitted[Tiger].scores(targets), other.scores(targets)
    assert torch.isinf(masked[rows, columns]).all() and torch.isfinite(free).all()
    seen = torch.from_numpy(targets.seen().toarray())
    torch.testing.assert_close(masked[~seen], free[~seen], rtol=1e-4, atol=1e-4)
    lists = evaluate(fitted[Tiger], data, k=5).lists
    assert (lists >= 0).all() and all(len(set(row)) == 5 for row in lists.tolist())
