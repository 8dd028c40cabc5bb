"""What lists are like: each figure against its value by hand and at its limits; sampled ranks; shuffled histories."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from fixtures import small_data

from m6rec.baselines import CoOccurrence, Popularity
from m6rec.data.dataset import Dataset, training_matrix
from m6rec.errors import InputError
from m6rec.evaluate import evaluate, sampled, shuffled
from m6rec.evaluate import ranking as lists


class Random:
    """A model that knows nothing."""

    def scores(self, users):
        return np.stack([np.random.default_rng(int(user)).random(users.data.n_items) for user in users])


def test_gini_is_nought_when_all_are_shown_alike_and_highest_when_one_is():
    assert lists.gini(np.array([[0, 1], [2, 3]]), 4) == pytest.approx(0)
    assert lists.gini(np.array([[2], [2], [-1]]), 4) == pytest.approx(1 - 1 / 4)
    counts = np.array([4, 1, 1, 0])  # half the mean absolute difference of all pairs, over the mean
    shown = np.repeat(np.arange(4), counts)[:, None]
    expected = np.abs(counts[:, None] - counts).mean() / 2 / counts.mean()
    assert lists.gini(shown, 4) == pytest.approx(expected)
    assert np.isnan(lists.gini(np.full((2, 3), -1), 4))


def test_coverage_counts_each_item_once_and_no_empty_place():
    assert lists.coverage(np.array([[0, 1], [1, -1]]), 4) == 2 / 4


def test_miscalibration_is_the_divergence_of_the_lists_categories_from_the_historys():
    shares = sp.csr_array(np.array([[1, 0], [0, 1], [0.5, 0.5], [0, 0]]))
    history = sp.csr_array(np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1], [1, 0, 1, 0], [1, 0, 0, 0]]))
    shown = np.array([[0, 1], [1, 2], [0, 1], [3, 0], [-1, -1]])
    found = lists.miscalibration(shown, history, shares)
    assert found[0] == 0  # half and half, as in the history
    assert found[1] == pytest.approx(np.log(1 / (0.99 * 0.25 + 0.01)))
    assert np.isnan(found[2]) and np.isnan(found[4])  # a history without categories, an empty list
    expected = 0.75 * np.log(0.75 / (0.99 * 1 + 0.01 * 0.75)) + 0.25 * np.log(0.25 / (0.01 * 0.25))
    assert found[3] == pytest.approx(expected)  # an item without categories says nothing


def test_categories_are_the_genres_or_else_the_words():
    items = pd.DataFrame(
        {"item_id": [1, 2, 3], "text": ["Red red car", "car", ""], "genres": ["Sci-Fi War", "War", ""]}
    )
    events = pd.DataFrame({"user_id": [1], "item_id": [1]})
    genres = lists.categories(Dataset.from_frames(items, None, events)).toarray()
    np.testing.assert_array_equal(genres, [[0.5, 0.5], [0, 1], [0, 0]])
    words = lists.categories(Dataset.from_frames(items.drop(columns="genres"), None, events)).toarray()
    np.testing.assert_array_equal(words[:2, :2], [[0.5, 0.5], [0, 1]])


def test_debiased_figures_weigh_a_hit_by_how_rare_its_target_is():
    data = small_data()
    split = data.split()
    found = evaluate(Popularity().fit(data, split), data, k=5)
    training = training_matrix(data, split)
    users = np.asarray(training.sum(axis=0))
    items = data.targets(split.test).items
    weights = 1 / (users[items] + 1)
    assert found.metrics["hit_debiased@5"] == pytest.approx((found.per_user["hit"] * weights).sum() / weights.sum())
    assert 0 < found.metrics["hit_debiased@5"] < found.metrics["hit@5"]  # popularity finds what is popular
    assert found.metrics["gini@5"] > 0.5 and found.metrics["miscalibration@5"] > 0


def test_sampled_ranks_are_whole_ranks_when_all_items_are_drawn():
    data = small_data()
    model = CoOccurrence().fit(data, data.split())
    found = sampled(model, data, negatives=data.n_items, chunk=7)
    whole = evaluate(model, data).per_user
    # Drawn are the unseen ones without the target; `evaluate` counts the same.
    pd.testing.assert_frame_equal(found, whole[found.columns])


def test_uniform_samples_flatter_as_chance_says_and_follow_the_seed():
    data = small_data()
    found = pd.concat([sampled(Random(), data, negatives=4, k=1, seed=seed) for seed in range(50)])
    whole = evaluate(Random(), data, k=1).per_user
    left = (
        data.n_items - 1 - np.asarray(data.targets(data.split().test).seen().sum(1)).ravel()
    )  # unseen, not the target
    expected = 1 + 4 * (whole["rank"] - 1) / left
    assert found["rank"].mean() == pytest.approx(expected.mean(), rel=0.02)
    assert found["hit"].mean() > 2 * whole["hit"].mean()
    pd.testing.assert_frame_equal(sampled(Random(), data, seed=3), sampled(Random(), data, seed=3))


def test_popular_negatives_are_drawn_by_their_training_events():
    items = pd.DataFrame({"item_id": range(6), "text": "x"})
    rows = [(user, item, t) for user in range(20) for t, item in enumerate([0, 1, 1, 4])]
    rows += [(user, item, t) for user in range(20, 40) for t, item in enumerate([2, 2, 3, 4])]
    data = Dataset.from_frames(items, None, pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]))

    class Cold:  # item 5 has no event: by popularity it is never drawn, so nothing stands above the target
        def scores(self, users):
            return np.tile(np.array([0, 0, 0, 0, 1, 2.0]), (len(users), 1))

    assert (sampled(Cold(), data, negatives=1000, by="popularity")["rank"] == 1).all()
    assert (sampled(Cold(), data, negatives=1000, by="uniform")["rank"] == 2).all()


@pytest.mark.parametrize(("options", "message"), [({"by": "luck"}, "by='luck'"), ({"negatives": 0}, "negatives=0")])
def test_what_cannot_be_sampled_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        sampled(Random(), small_data(), **options)


def test_shuffling_keeps_each_target_and_the_bag_before_it_and_moves_the_rest():
    data = small_data()
    found = shuffled(data, seed=1)
    old, new = data.targets(data.split().test), found.targets(found.split().test)
    np.testing.assert_array_equal(old.items, new.items)
    np.testing.assert_array_equal(np.sort(old.history(), axis=1), np.sort(new.history(), axis=1))
    assert (old.history() != new.history()).any(axis=1).mean() > 0.9
    pairs = [set(zip(d.events["user"], d.events["item"], d.events["value"], strict=True)) for d in (data, found)]
    assert pairs[0] == pairs[1]  # a rating goes with its item
    np.testing.assert_array_equal(data.events["timestamp"], found.events["timestamp"])
    assert shuffled(data, 1).fingerprint == found.fingerprint != shuffled(data, 2).fingerprint


def test_order_is_worth_much_to_a_sequential_model_where_people_walk_in_circles():
    data = small_data()
    split = data.split()
    model = CoOccurrence(backward=0.0, profile_decay=0.1).fit(data, split)
    assert evaluate(model, data).metrics["ndcg@10"] > 1.5 * evaluate(model, shuffled(data)).metrics["ndcg@10"]
    assert evaluate(Popularity().fit(data, split), data).metrics["ndcg@10"] == pytest.approx(
        evaluate(Popularity().fit(data, split), shuffled(data)).metrics["ndcg@10"]
    )
