"""Bootstrap intervals: as wide as theory says, as often right as they claim, paired where users are the same."""

from __future__ import annotations

import numpy as np
import pytest

from m6rec.config import InputError
from m6rec.evaluate import difference_interval, mean_interval, ratio_interval


def values(n: int = 400, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(1.0, 0.5, n)


def test_the_interval_of_a_mean_is_as_wide_as_theory_says():
    sample = values()
    found = mean_interval(sample)
    half = 1.96 * sample.std() / np.sqrt(len(sample))
    assert found.value == pytest.approx(sample.mean()) and (found.n, found.seeds) == (400, 1)
    assert found.high - found.value == pytest.approx(half, rel=0.06)
    assert found.value - found.low == pytest.approx(half, rel=0.06)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    inside = [
        found.low < 1 < found.high for found in (mean_interval(values(100, s), resamples=1000) for s in range(300))
    ]
    assert 0.91 < np.mean(inside) < 0.98
    narrow = [mean_interval(values(100, s), resamples=1000, level=0.5) for s in range(300)]
    assert 0.41 < np.mean([found.low < 1 < found.high for found in narrow]) < 0.59


def test_the_seed_decides_the_resamples():
    assert mean_interval(values(), seed=1) == mean_interval(values(), seed=1)
    assert mean_interval(values(), seed=1) != mean_interval(values(), seed=2)


def test_drawing_in_portions_changes_nothing(monkeypatch):
    whole = mean_interval(values(), resamples=999)
    monkeypatch.setitem(mean_interval.__globals__, "_AT_ONCE", 4_321)
    assert mean_interval(values(), resamples=999) == whole


def test_users_and_seeds_are_both_drawn():
    rng = np.random.default_rng(0)
    users, seeds = rng.normal(1, 0.5, 400), rng.normal(0, 0.1, (5, 1))
    found = mean_interval(users + seeds)
    assert found.value == pytest.approx((users + seeds).mean()) and (found.n, found.seeds) == (400, 5)
    spread = (users.var() / 400 + seeds.var() / 5) ** 0.5
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.1)
    assert spread > 1.5 * users.std() / 20, "one seed's interval is too narrow"
    same = mean_interval(np.stack([users] * 3))
    assert same[:3] == pytest.approx(mean_interval(users)[:3]) and same.seeds == 3


def test_a_difference_is_paired_by_seed_where_both_have_as_many():
    rng = np.random.default_rng(0)
    users, seeds = rng.normal(1, 0.5, 400), rng.normal(0, 0.1, (5, 1))
    ours = users + seeds
    paired, apart = (difference_interval(ours, ours[:n] - 0.1) for n in (5, 4))
    assert paired.high - paired.low < 1e-9 < 0.05 < apart.high - apart.low


def test_a_difference_is_paired_by_user():
    users = values()
    better = users + 0.1 + 0.01 * values(seed=1)
    found = difference_interval(better, users)
    assert found.value == pytest.approx((better - users).mean())
    assert found[:3] == pytest.approx(mean_interval(better - users)[:3])
    apart = mean_interval(users)
    assert found.high - found.low < 0.1 * (apart.high - apart.low)
    assert difference_interval(np.stack([better, better]), users).seeds == 2


def test_a_ratio_is_paired_by_user():
    users = values()
    assert ratio_interval(2 * users, users)[:3] == (2, 2, 2)
    other = values(seed=1)
    found = ratio_interval(users, other)
    assert found.value == pytest.approx(users.mean() / other.mean())
    # The delta method: the variance of a ratio of means.
    spread = (users - found.value * other).std() / other.mean() / np.sqrt(len(users))
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.06)


def test_a_ratio_over_rare_hits_is_reported_as_unbounded_above():
    rare = np.zeros(20)
    rare[:2] = 1
    found = ratio_interval(np.ones(20), rare)
    assert found.value == pytest.approx(10) and np.isfinite(found.low) and found.high == np.inf
    assert ratio_interval(rare, rare)[:3] == (1, 1, 1)  # resamples without any hit say nothing


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([]), "not empty"),
        (lambda: mean_interval(np.zeros((2, 2, 2))), r"shape \(2, 2, 2\)"),
        (lambda: mean_interval([1.0, np.nan]), "1 of the per-user values are NaN"),
        (lambda: difference_interval([1.0, 2.0], [1.0]), "2 and 1"),
        (lambda: ratio_interval([1.0, 2.0], [1.0]), "2 and 1"),
        (lambda: ratio_interval([1.0, 2.0], [0.0, 0.0]), "mean 0"),
    ],
)
def test_what_has_no_interval_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
