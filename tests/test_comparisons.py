"""Comparisons: paired figures equal their definitions, Holm's order decides, slices hold whom they say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from fixtures import small_data
from scipy import stats
from sklearn.metrics import roc_auc_score

from m6rec.baselines import Popularity
from m6rec.config import InputError
from m6rec.data.dataset import Dataset
from m6rec.evaluate import auc_by_user, by_slice, compare, difference_interval, evaluate, mean_interval, slices


def models() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Ours, and peers that are just below, far below, the same, and above."""
    rng = np.random.default_rng(0)
    ours = rng.normal(1, 0.5, 400)
    shifts = {"close": 0.055, "far": 0.5, "same": 0.0, "above": -0.3}
    return ours, {name: ours - shift + rng.normal(0, 0.5, 400) for name, shift in shifts.items()}


def test_each_row_has_the_paired_figures_of_its_peer():
    ours, peers = models()
    found = compare(ours, peers)
    assert list(found.index) == list(peers)
    for name, peer in peers.items():
        row, one = found.loc[name], difference_interval(ours, peer)
        assert row["difference"] == pytest.approx(one.value)
        assert row["mean"] - row["peer_mean"] == pytest.approx(row["difference"])
        assert row["p"] == pytest.approx(stats.ttest_rel(ours, peer).pvalue)
        assert row["effect"] == pytest.approx((ours - peer).mean() / (ours - peer).std(ddof=1))


def test_holm_corrects_p_and_widens_the_interval_most_where_p_is_smallest():
    ours, peers = models()
    found = compare(ours, peers).sort_values("p")
    p = found["p"].to_numpy()
    assert found["p_holm"].to_numpy() == pytest.approx(np.minimum(np.maximum.accumulate(p * [4, 3, 2, 1]), 1))
    for (name, row), n in zip(found.iterrows(), (4, 3, 2, 1), strict=True):
        one = difference_interval(ours, peers[name], level=1 - 0.05 / n)
        assert (row["holm_low"], row["holm_high"]) == pytest.approx((one.low, one.high))
    assert set(found.index[found["decided"]]) == {"close", "far", "above"}  # worse is decided too


def test_a_lead_that_one_test_would_grant_is_not_decided_among_many():
    ours, peers = models()
    assert compare(ours, {"close": peers["close"]})["decided"].all()
    rest = {f"same {i}": ours + np.random.default_rng(100 + i).normal(0, 0.5, 400) for i in range(20)}
    found = compare(ours, {"close": peers["close"], **rest})
    assert difference_interval(ours, peers["close"]).low > 0 > found.loc["close", "holm_low"]
    assert not found["decided"].any()


def test_after_the_first_undecided_peer_none_is_decided():
    noise = np.random.default_rng(0).normal(size=400)
    lead = (noise - noise.mean()) / noise.std(ddof=1) + 2.1 / 20  # t = 2.1: p = .036, enough alone, not for two
    found = compare(lead, {"one": np.zeros(400), "like it": np.zeros(400)})
    assert found["p"].to_numpy() == pytest.approx(0.036, abs=5e-4)
    assert found["p_holm"].to_numpy() == pytest.approx([2 * found["p"].iloc[0]] * 2)
    assert list(found["holm_low"] > 0) == [False, True] and not found["decided"].any()


def test_the_smallest_detectable_difference_is_found_four_times_in_five():
    rng = np.random.default_rng(0)
    detectable = compare(rng.normal(0, 1, 300), {"peer": np.zeros(300)})["detectable"].iloc[0]
    found = [stats.ttest_1samp(rng.normal(detectable, 1, 300), 0).pvalue < 0.05 for _ in range(1000)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.08)


def test_the_spread_of_seeds_makes_a_lead_less_sure_and_equal_models_are_equal():
    ours, peers = models()
    same, runs = compare(np.stack([ours, ours]), peers), np.stack([ours - 0.1, ours + 0.1])
    pd.testing.assert_frame_equal(same, compare(ours, peers))
    unsure = compare(runs, peers)
    assert unsure["difference"].to_numpy() == pytest.approx(same["difference"].to_numpy())
    assert (unsure["p"] >= same["p"]).all() and unsure.loc["far", "holm_low"] < same.loc["far", "holm_low"] - 0.05
    assert unsure.loc["close", "p"] > 0.5 and (unsure["detectable"] > same["detectable"]).all()
    same = compare(ours, {"itself": ours}).iloc[0]
    assert (same["p"], same["effect"], same["difference"], same["decided"]) == (1, 0, 0, False)
    ahead = compare(np.ones(9), {"nothing": np.zeros(9)}).iloc[0]
    assert (ahead["p"], ahead["effect"], ahead["holm_low"], ahead["decided"]) == (0, np.inf, 1, True)


@pytest.mark.parametrize(
    ("ours", "peers", "message"),
    [
        ([1.0, 2.0], {}, "no model to compare with"),
        ([1.0, 2.0], {"a": [1.0]}, "2 and 1"),
        ([1.0], {"a": [1.0]}, "one user"),
        ([1.0, np.nan], {"a": [1.0, 2.0]}, "NaN"),
    ],
)
def test_what_cannot_be_compared_is_refused(ours, peers, message):
    with pytest.raises(InputError, match=message):
        compare(ours, peers)


def people() -> Dataset:
    """Five people, six items; item "f" is only ever a target, "a" is in every history."""
    histories = {"ann": "abcf", "bob": "abacd", "cat": "acf", "dan": "aabbca", "eve": "abce"}
    rows = [(user, item, time) for user, history in histories.items() for time, item in enumerate(history)]
    users = pd.DataFrame(
        {
            "user_id": list(histories),
            "age": [10, 20, 30, 40, 50],
            "gender": ["F", "M", "F", None, "F"],
            "zip": [1.0, 2.0, np.nan, 1.0, 2.0],
        }
    )
    items = pd.DataFrame({"item_id": list("abcdef")})
    return Dataset.from_frames(items, users, pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]))


def test_slices_hold_the_targets_that_they_name():
    data = people()
    found = slices(data)
    assert (found.dtypes == "bool").all() and len(found) == 5
    inside = {name: "".join(user[0] for user, yes in zip(data.users["user_id"], found[name], strict=True) if yes)
              for name in found}  # fmt: skip
    # In training: ann ab, bob aba, cat a, dan aabb, eve ab. Events: a 7, b 5: "a" alone is the head.
    assert (inside["item known"], inside["item cold"]) == ("d", "abce")
    assert (inside["item head"], inside["item tail"]) == ("d", "abce")
    assert (inside["history short"], inside["history long"]) == ("ace", "bd")
    assert (inside["age ≤ 20"], inside["age 20 – 40"], inside["age > 40"]) == ("ab", "cd", "e")
    assert (inside["gender F"], inside["gender M"]) == ("ace", "b")  # dan's is missing: in neither
    assert (inside["zip 1.0"], inside["zip 2.0"]) == ("ad", "be")


def test_the_head_is_the_fewest_items_with_a_fifth_of_the_events():
    data = small_data()
    count = np.bincount(data.events["item"][data.split().train], minlength=data.n_items)
    head, events = set(), 0
    for item in sorted(range(data.n_items), key=lambda item: -count[item]):
        if events < 0.2 * count.sum():
            head.add(item)
            events += count[item]
    found, items = slices(data), data.targets(data.split().test).items
    assert list(found["item head"]) == [item in head for item in items]
    assert list(found["item tail"]) == [item not in head for item in items]


def test_slices_without_profiles_have_no_such_columns():
    events = pd.DataFrame({"user_id": [1, 1, 1, 2, 2, 2], "item_id": [1, 2, 3, 1, 3, 2]})
    found = slices(Dataset.from_frames(pd.DataFrame({"item_id": [1, 2, 3]}), None, events), part="valid")
    assert {name.split()[0] for name in found} == {"item", "history"}


def test_a_slices_row_is_the_interval_of_its_targets():
    data = small_data()
    ndcg = evaluate(Popularity().fit(data, data.split()), data).per_user["ndcg"].to_numpy()
    parts = slices(data).assign(nobody=False)
    found = by_slice(np.stack([ndcg, ndcg]), parts, seed=2)
    assert list(found.index) == list(parts)
    for name, row in found[found["n"] > 0].iterrows():
        inside = parts[name].to_numpy()
        assert tuple(row[1:]) == pytest.approx(mean_interval(ndcg[inside], seed=2)[:3]) and row["n"] == inside.sum()
    assert found.loc["nobody", "n"] == 0 and found.loc["nobody"].isna().sum() == 3
    with pytest.raises(InputError, match="take one split"):
        by_slice(ndcg[1:], parts)


def test_auc_by_user_has_the_mean_of_all_pairs_and_the_spread_of_resampled_users():
    rng = np.random.default_rng(0)
    positive, user = rng.random(2000) < 0.4, rng.integers(0, 60, 2000)
    scores = np.round(rng.random(2000) + 0.3 * positive + 0.02 * (user % 10), 2)  # with ties
    found = auc_by_user(scores, positive, user)
    assert found.shape == (60,)
    np.testing.assert_allclose(found.mean(), roc_auc_score(positive, scores))
    drawn = [np.bincount(rng.integers(0, 60, 60), minlength=60)[user] for _ in range(300)]
    spread = np.std([roc_auc_score(positive, scores, sample_weight=weight) for weight in drawn])
    np.testing.assert_allclose(found.std() / 60**0.5, spread, rtol=0.2)
