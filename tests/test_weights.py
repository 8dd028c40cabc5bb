"""The model that comes with m6rec: small, with its card, and better than the charts."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from fixtures import small_model

import m6rec
from m6rec.baselines import Popularity
from m6rec.data.features import Media
from m6rec.data.prompts import domain
from m6rec.data.sources import shipped
from m6rec.explain.explainers import captioned, captions, reconstruct
from m6rec.generate import write
from m6rec.tasks.heldout import Bazaar
from m6rec.tasks.text import DotProduct


@pytest.fixture(scope="module")
def model():
    return m6rec.M6Rec.from_pretrained("bazaar")


@pytest.fixture(scope="module")
def shop():
    return Bazaar()


def test_it_is_small_and_its_card_says_what_it_was_trained_on_and_on_what_terms():
    folder = shipped("weights") / "bazaar"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 4e6
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert all(words in card for words in ("simulated users", "Terms.", "NDCG@10", "make weights"))


def test_it_is_as_good_as_its_card_says(model, shop):
    """Weights that were loaded into the wrong places would rank like chance."""
    card = (shipped("weights") / "bazaar" / "README.md").read_text(encoding="utf-8")
    for method in ("dense", "generated"):
        found = shop.ndcg([model.scorer(method)]).mean()
        written = re.search(rf"(0\.\d+)\s{method}", card)[1]  # of one processor: near ties may fall otherwise here
        assert abs(float(written) - found) < 0.003, (method, found)
    assert found > 5 * shop.ndcg([Popularity().fit(shop.train, shop.train.split())]).mean()
    cold = float(re.search(r"ranked among themselves: (0\.\d+) dense", " ".join(card.split()))[1])
    assert abs(shop.ndcg([model.scorer()], "cold").mean() - cold) < 0.005


def test_its_card_lists_what_the_truth_holds_out(model, shop):
    card = (shipped("weights") / "bazaar" / "README.md").read_text(encoding="utf-8")
    listed = {line.split(" held out: ")[0]: line.split()[3:] for line in card.splitlines() if " held out: " in line}
    assert listed["Items"] == list(shop.data.items["item_id"].iloc[shop.items])
    assert listed["Users"] == list(shop.data.users["user_id"][np.flatnonzero(shop.truth.cold_users)])
    never = np.bincount(shop.train.events["item"][shop.train.split().train], minlength=shop.data.n_items) == 0
    assert never[shop.items].all() and np.array_equal(model.network.codes.cpu().numpy() < 0, never)


def test_the_same_weights_rank_by_words_write_and_caption(model, shop):
    """A photograph of a coat is called a coat, more often than always the commonest class would be."""
    unseen = shop.items[shop.data.items["image"].notna().to_numpy()[shop.items]]
    category = shop.data.items["category"].iloc[unseen]
    right = [kind in text for kind, text in zip(category, captions(model, unseen), strict=True)]
    assert np.mean(right) > 3 * category.value_counts(normalize=True).max()
    words = domain(shop.data)
    assert shop.ndcg([DotProduct(model.text, words)], "cold").mean() > 5 * shop.chance
    said = write(model.text, words.prompts(shop.cases["cold"][0][:20]))
    assert all(parts and all(parts) for parts in said)


def test_a_name_that_nothing_has_is_refused_and_a_model_of_that_name_goes_first(model, tmp_path, monkeypatch):
    with pytest.raises(m6rec.InputError, match="there is no checkpoint at bazar"):
        m6rec.M6Rec.from_pretrained("bazar")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bazaar").mkdir()  # of something else
    assert m6rec.M6Rec.from_pretrained("bazaar").data.name == "bazaar"
    (tmp_path / "bazaar" / "config.json").write_text("{")
    with pytest.raises(m6rec.InputError, match="missing or damaged"):
        m6rec.M6Rec.from_pretrained("bazaar")


def test_it_recommends_goods_that_it_has_never_seen_beside_those_that_it_has(model):
    new = {"title": "Bold silk coat"}
    listed = model.recommend(history=[new, model.data.items["item_id"].iloc[3]], context={"hour": 9}, k=5)
    assert listed["item_id"].nunique() == 5 and np.isfinite(listed["score"]).all()


@pytest.fixture(scope="module")
def reader():
    """It reads texts, as its catalogue has nothing else, and was taught nothing but the next event."""
    model = small_model(infill_weight=0.0, patch_weight=0.0)
    model.pretrain()
    return model


PNG = Media(shipped("bazaar") / "media.zip").read("G0001.png")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: m.recommend(history=[{"image": PNG}], k=3), "nothing that this model reads: give it text"),
        (lambda m: m.recommend(history=[{"title": "Film", "image": PNG[:60]}], k=3), "damaged image|no image"),
        (lambda m: m.recommend(history=[{"image": "none.png"}], k=3), "none.png. is no file"),
        (lambda m: captions(m, np.arange(2)), "cannot write captions: train one with infill_weight"),
        (lambda m: captioned(m, 0), "cannot write captions"),
        (lambda m: reconstruct(m, "image", np.arange(2)), "cannot restore image: train one with patch"),
    ],
)
def test_what_a_checkpoint_never_learnt_is_refused_in_one_sentence(reader, tmp_path, call, says):
    again = m6rec.M6Rec.from_pretrained(reader.save_pretrained(tmp_path / "kept"), reader.data)
    with pytest.raises(m6rec.InputError, match=says) as error:
        call(again)
    assert "\n" not in str(error.value)


def test_what_else_a_new_item_has_is_ignored_by_a_model_that_does_not_read_it(reader):
    plain, more = ({"text": "film number 3 | drama"}, {"text": "film number 3 | drama", "image": PNG})
    assert torch.equal(*(reader.item_vectors([item])[-1] for item in (plain, more)))


@pytest.mark.parametrize("change", [{"format": 0}, {"config": {"width": 16}}, {"fields": {}}])
def test_a_checkpoint_of_an_older_m6rec_is_refused_with_what_can_be_done(reader, tmp_path, change):
    folder = reader.save_pretrained(tmp_path / "old")
    path = folder / "config.json"
    values = json.loads(path.read_text()) | change | {"m6rec": "0.0.9"}
    del values["config_sha256"]  # edited by hand
    path.write_text(json.dumps(values))
    with pytest.raises(m6rec.InputError, match=r"was written by m6rec 0\.0\.9, .* train it again"):
        m6rec.M6Rec.from_pretrained(folder, reader.data)
