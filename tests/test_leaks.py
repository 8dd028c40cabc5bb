"""Leak checks: every baseline and an untrained model pass, and models that cheat in each of the ways are found."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from fixtures import small_data, small_model

from m6rec import baselines
from m6rec.config import InputError
from m6rec.data.dataset import Dataset
from m6rec.evaluate import _replaced, leaks
from m6rec.model.tree import build_tree

COUNTS = [
    getattr(baselines, name) for name in ("Popularity", "CoOccurrence", "Markov", "ItemKNN", "EASE", "ContentKNN")
]
SPLITS = ["leave_one_out", "global_time"]


@pytest.fixture(scope="module")
def untrained():
    model = small_model()
    digits, vectors = model.network.digits, model.item_vectors()
    digits.init_from_tree(build_tree(vectors.cpu().numpy(), digits.widths, seed=0), vectors)  # so that it can generate
    return model


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("baseline", COUNTS)
def test_no_count_baseline_leaks(baseline, split, data):
    assert leaks(lambda data, split: baseline().fit(data, split), data, split) == []


@pytest.mark.parametrize("method", ["dense", "exact", "generated"])
def test_an_untrained_model_does_not_leak(untrained, method):
    assert leaks(lambda *_: untrained.scorer(method), untrained.data) == []


def test_what_a_model_fits_before_training_does_not_leak():
    def fit(data, split):
        return small_model(data).scorer("dense")

    assert leaks(fit, small_data()) == []


class Cheat:
    """A model whose scores are a function of one number a target."""

    def __init__(self, number):
        self.number = number

    def scores(self, users):
        number = np.asarray(self.number(users), dtype=float)
        return np.sin(number[:, None] + np.arange(users.data.n_items))


def column(users, name, ahead=0):
    rows = np.minimum(users.events + ahead, users.data.offsets[users.users + 1] - 1)
    return users.data.events[name].to_numpy()[rows]


@pytest.mark.parametrize(
    "number",
    [
        lambda users: users.items,
        lambda users: column(users, "value"),
        lambda users: column(users, "item", ahead=1),
        lambda users: column(users, "timestamp", ahead=1),
    ],
)
def test_a_model_that_sees_the_target_or_beyond_is_found(number, data):
    found = leaks(lambda *_: Cheat(number), data)
    assert len(found) == 1 and "Cheat knows targets" in found[0]


def test_a_model_that_counts_other_peoples_targets_is_found(data):
    def others(users):
        items = users.data.events["item"].to_numpy()[users.data.split().test]
        return items.sum() - users.items  # of all but one's own

    found = leaks(lambda *_: Cheat(others), data)
    assert len(found) == 1 and "Cheat knows targets" in found[0]


def test_the_targets_own_time_and_all_that_precedes_it_are_no_leak(data):
    assert leaks(lambda *_: Cheat(lambda users: column(users, "timestamp") % 1000), data) == []
    assert leaks(lambda *_: Cheat(lambda users: users.history()[:, -1]), data) == []


@pytest.mark.parametrize("split", SPLITS)
def test_a_baseline_that_counts_all_events_is_found(split, data):
    class Greedy(baselines.Popularity):
        name = "Greedy"

        def fit(self, data, split):
            self.weights = np.bincount(data.events["item"], minlength=data.n_items).astype(np.float32)[None]
            return self

    found = leaks(lambda data, split: Greedy().fit(data, split), data, split)
    assert len(found) == 1 and "Greedy is fitted on events outside training" in found[0]


def test_a_model_that_learns_when_people_come_back_from_the_test_is_found(data):
    def fit(data, split):
        mean = data.events["timestamp"].mean() % 1000
        return Cheat(lambda users: np.full(len(users), mean))

    assert len(leaks(fit, data)) == 1


def test_what_somebody_new_did_before_the_target_is_history_and_no_leak():
    events = pd.DataFrame({"user_id": np.repeat([*"abcdefghij"], 6), "item_id": np.tile([1, 2, 3, 4, 5, 6], 10)})
    events["timestamp"] = np.arange(len(events))  # one after the other: i has no training event
    data = Dataset.from_frames(pd.DataFrame({"item_id": [1, 2, 3, 4, 5, 6]}), None, events)
    split = data.split("global_time")
    before = data.targets(split.valid).history()
    assert (before >= 0).any() and not split.train[split.valid - 1].all()
    assert leaks(lambda data, split: baselines.Markov().fit(data, split), data, split) == []
    assert len(leaks(lambda *_: Cheat(lambda users: users.items), data, split)) == 1


@pytest.mark.parametrize("split", SPLITS)
def test_replaced_events_stay_in_order_and_all_get_another_item(split, data):
    outside = ~data.split(split).train
    other = _replaced(data, outside, outside, seed=0)
    changed = (other.events["item"] != data.events["item"]).to_numpy()
    np.testing.assert_array_equal(changed, outside)
    assert other.events["item"].between(0, data.n_items - 1).all()
    pd.testing.assert_frame_equal(other.events[~outside], data.events[~outside])
    assert (other.events.groupby("user")["timestamp"].diff().dropna() >= 0).all()
    assert other.fingerprint != data.fingerprint


def test_untimed_data_can_be_checked_and_data_without_targets_is_refused():
    events = pd.DataFrame({"user_id": np.repeat([1, 2, 3, 4], 4), "item_id": np.tile([1, 2, 3, 4], 4)})
    items = pd.DataFrame({"item_id": [1, 2, 3, 4]})
    data = Dataset.from_frames(items, None, events)
    assert leaks(lambda data, split: baselines.EASE().fit(data, split), data) == []
    assert len(leaks(lambda *_: Cheat(lambda users: users.items), data)) == 1
    with pytest.raises(InputError, match="no targets"):
        leaks(lambda *_: baselines.EASE(), Dataset.from_frames(items, None, events.iloc[:2]))
