"""The model that comes with m6rec: small, with its card, and better than the charts."""

from __future__ import annotations

import numpy as np
import pytest

import m6rec
from m6rec.baselines import Popularity
from m6rec.data.sources import shipped


@pytest.fixture(scope="module")
def model():
    return m6rec.M6Rec.from_pretrained("bazaar")


def test_it_is_small_and_its_card_says_what_it_was_trained_on_and_on_what_terms():
    folder = shipped("weights") / "bazaar"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 4e6
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert all(words in card for words in ("simulated shoppers", "Terms.", "NDCG@10", "make weights"))


def test_it_is_as_good_as_its_card_says(model):
    """Weights that were loaded into the wrong places would rank like chance."""
    card = (shipped("weights") / "bazaar" / "README.md").read_text(encoding="utf-8")
    for method in ("dense", "generated"):
        found = m6rec.evaluate(model.scorer(method), model.data).metrics["ndcg@10"]
        assert f"{found:.2f}" in card, (method, found)
    popular = Popularity().fit(model.data, model.split)
    assert found > 5 * m6rec.evaluate(popular, model.data).metrics["ndcg@10"]


def test_a_name_that_nothing_has_is_refused_and_a_folder_of_that_name_goes_first(model, tmp_path, monkeypatch):
    with pytest.raises(m6rec.InputError, match="there is no checkpoint at bazar"):
        m6rec.M6Rec.from_pretrained("bazar")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bazaar").mkdir()
    with pytest.raises(m6rec.InputError, match="missing or damaged"):
        m6rec.M6Rec.from_pretrained("bazaar")


def test_it_recommends_goods_that_it_has_never_seen_beside_those_that_it_has(model):
    new = {"title": "Bold silk coat"}
    listed = model.recommend(history=[new, model.data.items["item_id"].iloc[3]], context={"hour": 9}, k=5)
    assert listed["item_id"].nunique() == 5 and np.isfinite(listed["score"]).all()
