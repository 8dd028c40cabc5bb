"""Count-based baselines: only training events are counted, and each equals a slow definition of itself."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from m6rec.baselines import EASE, CoOccurrence, ItemKNN, Popularity, RP3Beta
from m6rec.config import InputError
from m6rec.data.dataset import Dataset

LOG = dict(window=4, decay=0.7, backward=0.2, row=0, col=1, profile_decay=0.9, alpha=20, popularity=1.2)
BASELINES = [Popularity, CoOccurrence, ItemKNN, EASE, RP3Beta, partial(CoOccurrence, **LOG)]
N_ITEMS, N_USERS, LENGTH = 25, 30, 9  # the last item is in no history


def histories() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([rng.permutation(N_ITEMS - 1)[:LENGTH] for _ in range(N_USERS)])


def dataset(events: np.ndarray) -> Dataset:
    items = pd.DataFrame({"item_id": np.arange(N_ITEMS), "text": "a film"})
    users, times = np.divmod(np.arange(events.size), events.shape[1])
    frame = pd.DataFrame({"user_id": users, "item_id": events.ravel(), "timestamp": times})
    return Dataset.from_frames(items, None, frame)


def fitted(baseline) -> list[bytes]:
    """Everything an instance holds after `fit`, as bytes."""
    values = [value for name, value in vars(baseline).items() if name != "fitted_on"]
    dense = [value.toarray() if sp.issparse(value) else np.asarray(value) for value in values]
    return [array.tobytes() for array in dense]


def train_matrix(data: Dataset) -> np.ndarray:
    matrix = np.zeros((N_USERS, N_ITEMS))
    events = data.events[data.split().train]
    matrix[events["user"], events["item"]] = 1
    return matrix


@pytest.mark.parametrize("baseline", BASELINES)
def test_poisoned_validation_and_test_events_change_nothing_fitted(baseline):
    clean, poisoned, other = histories(), histories(), histories()
    poisoned[:, -2:] = (poisoned[:, -2:] + 7) % N_ITEMS
    other[0, 0] = N_ITEMS - 1
    weights = [fitted(baseline().fit(data, data.split())) for data in map(dataset, (clean, poisoned, other))]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]  # so the comparison sees a change where there is one


@pytest.mark.parametrize("baseline", [CoOccurrence, ItemKNN, EASE])
def test_the_validation_event_counts_in_the_history_of_the_test_target(baseline):
    clean, moved = histories(), histories()
    moved[:, -2] = (moved[:, -2] + 7) % (N_ITEMS - 1)
    scores = []
    for data in map(dataset, (clean, moved)):
        model, split = baseline().fit(data, data.split()), data.split()
        scores.append([model.scores(data.targets(events)) for events in (split.valid, split.test)])
    np.testing.assert_array_equal(scores[0][0], scores[1][0])
    assert (scores[0][1] != scores[1][1]).any(axis=1).all()


@pytest.mark.parametrize("baseline", BASELINES)
def test_scores_are_finite_and_the_same_bits_in_chunks_of_any_size(baseline):
    data = dataset(histories())
    model, targets = baseline().fit(data, data.split()), data.targets(data.split().test)
    whole = model.scores(targets)
    assert whole.shape == (N_USERS, N_ITEMS) and whole.dtype == np.float32 and np.isfinite(whole).all()
    for size in (1, 7):
        parts = [model.scores(targets[start : start + size]) for start in range(0, N_USERS, size)]
        assert np.concatenate(parts).tobytes() == whole.tobytes()


@pytest.mark.parametrize("baseline", BASELINES)
def test_scores_before_fit_are_refused(baseline):
    data = dataset(histories())
    with pytest.raises(InputError, match=rf"{type(baseline()).__name__} has no .* call fit"):
        baseline().scores(data.targets(data.split().test))


def test_popularity_counts_users_and_a_repeated_event_once():
    data = dataset(np.array([[0, 0, 1, 2, 3], [0, 1, 1, 4, 5], [6, 0, 7, 8, 9]]))
    scores = Popularity().fit(data, data.split()).scores(data.targets(data.split().test))
    expected = np.zeros(N_ITEMS)
    expected[[0, 1, 6, 7]] = 3, 2, 1, 1
    np.testing.assert_array_equal(scores, np.tile(expected, (3, 1)))


def test_cooccurrence_equals_a_slow_definition():
    data = dataset(histories())
    options = {"window": 4, "decay": 0.7, "backward": 0.2, "row": 0.6, "col": 0.3, "profile_decay": 0.9}
    counts = np.zeros((N_ITEMS, N_ITEMS))
    for history in histories()[:, :-2]:
        for place, item in enumerate(history):
            for distance, later in enumerate(history[place + 1 : place + 5], start=1):
                counts[item, later] += 0.7 ** (distance - 1)
                counts[later, item] += 0.2 * 0.7 ** (distance - 1)
    rows, columns = counts.sum(1, keepdims=True), counts.sum(0, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.nan_to_num(counts / rows**0.6 / columns**0.3)
    expected = [sum(0.9**ago * weights[item] for ago, item in enumerate(h[-2::-1])) for h in histories()]
    scores = CoOccurrence(**options).fit(data, data.split()).scores(data.targets(data.split().test))
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    share = np.bincount(histories()[:, :-2].ravel(), minlength=N_ITEMS) / histories()[:, :-2].size
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.nan_to_num(np.log(1 + counts / (20 * share)))  # Petrov et al. 2026
    sums = np.array([sum(0.9**ago * weights[item] for ago, item in enumerate(h[-2::-1])) for h in histories()])
    expected = np.exp(sums) * np.maximum(share, 1e-9) ** 1.2
    scores = CoOccurrence(**LOG).fit(data, data.split()).scores(data.targets(data.split().test))
    np.testing.assert_allclose(scores, expected / expected.sum(1, keepdims=True), rtol=1e-4)
    last = CoOccurrence(**{**LOG, "profile_decay": 0}).fit(data, data.split())
    now = np.exp([weights[h[-2]] for h in histories()]) * np.maximum(share, 1e-9) ** 1.2
    found = last.scores(data.targets(data.split().test))
    np.testing.assert_allclose(found, now / now.sum(1, keepdims=True), rtol=1e-4)


def test_two_hops_are_a_random_walk_over_users():
    data, matrix = dataset(histories()), train_matrix(dataset(histories()))
    to_users, to_items = (m / np.maximum(m.sum(1, keepdims=True), 1) for m in (matrix.T, matrix))
    weights = RP3Beta(beta=0.5).fit(data, data.split()).weights.toarray()
    np.testing.assert_allclose(weights, to_users @ to_items / np.maximum(matrix.sum(0), 1) ** 0.5, rtol=1e-5)


def test_cooccurrence_knows_which_item_comes_next():
    data = dataset(np.array([[0, 1, 2, 10, 11], [0, 1, 2, 12, 13], [5, 6, 7, 0, 1]]))
    model = CoOccurrence().fit(data, data.split())
    assert model.weights[1, 2] > model.weights[2, 1] > 0
    last = model.scores(data.targets(data.split().test))[2]  # history 5 6 7 0
    assert last[1] > last[2] > last[10] == 0


def test_itemknn_equals_a_slow_definition():
    data, matrix = dataset(histories()), train_matrix(dataset(histories()))
    near = np.zeros((N_ITEMS, N_ITEMS))
    for scored in range(N_ITEMS):
        for item in set(range(N_ITEMS)) - {scored}:
            both = (matrix[:, scored] * matrix[:, item]).sum()
            near[item, scored] = both / (np.sqrt(matrix[:, scored].sum() * matrix[:, item].sum()) + 2)
    weights = np.where(near >= np.sort(near, axis=0)[-5], near, 0)
    model = ItemKNN(neighbours=5, shrink=2).fit(data, data.split())
    assert 0 < (weights > 0).sum() < (near > 0).sum()  # the limit bites
    np.testing.assert_allclose(model.weights.toarray(), weights, rtol=1e-5)
    profile = data.targets(data.split().test).seen().toarray()
    np.testing.assert_allclose(model.scores(data.targets(data.split().test)), profile @ weights, rtol=1e-4, atol=1e-7)


def test_ease_is_the_constrained_least_squares_solution():
    data, matrix = dataset(histories()), train_matrix(dataset(histories()))
    weights = EASE(l2=3).fit(data, data.split()).weights
    assert (np.diag(weights) == 0).all()
    # Off the diagonal the gradient of |X - XB|^2 + l2 |B|^2 is zero.
    gradient = matrix.T @ (matrix @ weights - matrix) + 3 * weights
    scale = np.abs(matrix.T @ matrix).max()
    assert np.abs(gradient[~np.eye(N_ITEMS, dtype=bool)]).max() < 1e-5 * scale
    assert np.abs(weights).max() > 0.01
