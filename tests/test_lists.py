"""What lists are like: each figure against its value by hand and at its limits."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from m6rec.data.dataset import Dataset
from m6rec.evaluate import _contents, miscalibration


def test_miscalibration_is_the_divergence_of_the_lists_categories_from_the_historys():
    shares = sp.csr_array(np.array([[1, 0], [0, 1], [0.5, 0.5], [0, 0]]))
    history = sp.csr_array(np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1], [1, 0, 1, 0], [1, 0, 0, 0]]))
    shown = np.array([[0, 1], [1, 2], [0, 1], [3, 0], [-1, -1]])
    found = miscalibration(shown, history, shares)
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
    genres = _contents(Dataset.from_frames(items, None, events))[1].toarray()
    np.testing.assert_array_equal(genres, [[0.5, 0.5], [0, 1], [0, 0]])
    words = _contents(Dataset.from_frames(items.drop(columns="genres"), None, events))[1].toarray()
    np.testing.assert_array_equal(words[:2, :2], [[0.5, 0.5], [0, 1]])
