"""What is held out is never trained on and ranked on its own terms; what is hidden is judged where it was hidden."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures import small_data

from m6rec.config import MODALITIES, InputError
from m6rec.explain.explainers import Reconstruction, captioned, captions, reconstruct
from m6rec.recommender import M6Rec
from m6rec.tasks.heldout import Bazaar, ColdStart, mean_logits, swapped, weights_by_dropping


class Known:
    """Scores the item that comes next above the other cold ones, and every known item above that."""

    name = "known"

    def __init__(self, cold: np.ndarray):
        self.cold = cold

    def scores(self, users):
        items = np.arange(users.data.n_items)
        return (items == users.items[:, None]) + 9.0 * ~np.isin(items, self.cold)


class Guess:
    """Knows nothing."""

    name, rng = "guess", np.random.default_rng(0)

    def scores(self, users):
        return self.rng.random((len(users), users.data.n_items))


@pytest.fixture(scope="module")
def shop() -> Bazaar:
    return Bazaar(30)


@pytest.fixture(scope="module")
def model(shop: Bazaar) -> M6Rec:
    """Untrained: what it draws and writes is noise, but of the right shape and in the right place."""
    made = M6Rec(shop.train, "tiny", width=16, identity=False, infill_weight=0.2, pretrain_epochs=0)
    made.pretrain()  # the tree alone
    return made


def test_nothing_that_is_held_out_is_trained_on_and_each_target_has_one_kind(shop):
    events, train = shop.data.events, shop.train.events
    assert not np.isin(train["item"], shop.items).any()
    assert not np.isin(train["user"], np.flatnonzero(shop.truth.cold_users)).any()
    kinds = {kind: shop.cases[kind][0] for kind in ("warm", "cold")}
    assert np.isin(events["item"].iloc[kinds["cold"]], shop.items).all()
    assert not np.isin(events["item"].iloc[kinds["warm"]], shop.items).any()
    known = shop.split.test[~shop.truth.cold_users[events["user"].iloc[shop.split.test]]]
    assert sorted(np.concatenate(list(kinds.values()))) == sorted(known)
    first, last = (shop.data.targets(shop.cases[case][0]) for case in ("cold_users", "cold_last"))
    for people, history in ((first, False), (last, True)):
        assert shop.truth.cold_users[people.users].all() and ((people.history(1) >= 0) == history).all()
        assert not np.isin(people.items, shop.items).any()
    left = shop.split.train & np.isin(events["item"], shop.items) & ~shop.truth.cold_users[events["user"]]
    assert shop.shots.tolist() == np.flatnonzero(left).tolist() and len(shop.shots)


def test_cold_goods_are_ranked_among_themselves_and_guessing_scores_the_chance():
    trial = ColdStart.drawn(small_data(), share=0.4, seed=1)
    assert len(trial.items) == 12 and (trial.ndcg([Known(trial.items)], "cold") == 1).all()
    guessed = np.mean([trial.ndcg([Guess()], "cold").mean() for _ in range(60)])
    assert abs(guessed - trial.chance) < 0.1  # people have seen some of the pool, so guessing does a little better
    with pytest.raises(InputError, match="lukewarm"):
        trial.ndcg([Guess()], "lukewarm")


def test_likes_are_the_mean_over_a_persons_last_requests(shop, model):
    got = mean_logits(model, shop)
    people = shop.data.targets(shop.cases["valid"][0])
    vectors = model.item_vectors()
    back = [model.fuse(model.target_context(shop.data.targets(people.events - b))).state[:, 0] for b in range(10)]
    whole = people.events - shop.data.offsets[people.users] <= model.config.history  # others' windows begin later
    assert whole.sum() > 10
    np.testing.assert_allclose(got[whole], (sum(back) / 10 @ vectors.T)[whole], rtol=1e-3, atol=1e-4)


def test_a_modality_that_the_model_does_not_read_has_no_share(shop, model):
    deaf = M6Rec(shop.train, "tiny", width=16, identity=False, modalities=("text", "image"))
    shares = weights_by_dropping(deaf, shop)
    assert shares.shape == shop.modality_weights.shape and (shares[:, MODALITIES.index("sound")] < 1e-6).all()
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-4)
    assert (weights_by_dropping(model, shop) > 0).all()


def test_true_shares_stand_in_the_order_of_the_modalities(shop):
    people = shop.data.targets(shop.cases["valid"][0]).users
    image, sound, text = shop.truth.shares[people[0]]
    np.testing.assert_array_equal(shop.modality_weights[0], [text, image, sound])
    assert shop.agreement([shop.modality_weights**2, 1 - shop.modality_weights]) == pytest.approx([1, -1])


def test_only_hidden_patches_count_as_errors():
    true = np.zeros((1, 4, 2))
    drawn = np.array([[[1, 1], [3, 3], [9, 9], [9, 9]]], dtype=float)
    piece = Reconstruction(true, drawn, np.array([[True, True, False, False]]))
    assert piece.errors().tolist() == [5] and piece.errors(np.full((4, 2), 2.0)).tolist() == [4]


def test_what_is_hidden_cannot_be_seen(shop, model):
    codes = np.flatnonzero(shop.data.items["image"].notna())[:6]
    before = reconstruct(model, "image", codes)
    assert (before.masked.sum(1) == 8).all()
    held = model.features
    changed = held.image.copy()
    changed[codes] = np.where(before.masked[..., None], 0.5, changed[codes])
    model.features = held._replace(image=changed)
    after, told = reconstruct(model, "image", codes), captions(model, codes)
    words = held.text.copy()
    words[codes] = 7
    model.features = held._replace(text=words, image=changed)
    told_again = captions(model, codes)
    model.features = held
    np.testing.assert_allclose(after.predicted, before.predicted, rtol=1e-5, atol=1e-6)
    assert told == told_again and len(told) == 6  # a caption knows the photograph, not the text


def test_each_word_of_a_caption_attends_to_the_patches_that_are_there_and_to_nothing_else(shop, model):
    codes = shop.data.items.groupby("kind").head(1).index
    whole = [captioned(model, code) for code in codes]
    for code, (words, seen) in zip(codes, whole, strict=True):
        for name, mass in seen.items():
            assert mass.shape == (len(words), getattr(model.features, name).shape[1])
            there = model.features.present[code, MODALITIES.index(name)]
            assert (mass > 0).all() if there else (mass == 0).all()
        assert (sum(mass.sum(1) for mass in seen.values()) < 1).all()
    assert any(words for words, _ in whole)


def test_other_contents_are_those_that_are_ranked_by_and_the_model_keeps_its_own(shop, model):
    turned = np.roll(np.arange(shop.data.n_items), 1)
    other, before = model.with_contents(model.features.take(turned)), model.item_vectors()
    np.testing.assert_allclose(other.item_vectors(), before[turned], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(model.item_vectors(), before)
    users = shop.data.targets(shop.cases["warm"][0][:3])
    assert not np.allclose(other.scores(users), model.scores(users), atol=1e-6)
    with pytest.raises(InputError, match="one row"):
        model.with_contents(model.features.take(turned[:-1]))


@pytest.mark.parametrize("within", [True, False])
def test_a_swapped_photograph_is_another_of_the_same_class_or_of_another_class(shop, model, within):
    there = model.features.present[:, MODALITIES.index("image")]
    groups = shop.data.items["category"].where(there)
    marked = np.broadcast_to(np.arange(len(there), dtype=np.float32)[:, None, None], model.features.image.shape).copy()
    numbered = model.with_contents(model.features._replace(image=marked))
    donors = swapped(numbered, "image", groups, within).features.image[:, 0, 0].astype(int)
    assert (donors[~there] == np.flatnonzero(~there)).all() and (donors[there] != np.flatnonzero(there)).all()
    assert ((groups[donors[there]].to_numpy() == groups[there].to_numpy()) == within).all()


def test_no_target_of_a_trial_is_trained_on_however_short_histories_become():
    for seed in range(5):
        trial = ColdStart.drawn(small_data(), share=0.6, seed=seed)
        events, left = trial.data.events, trial.train.events[trial.train.split().train]
        trained = set(map(tuple, left[["user", "item", "timestamp"]].to_numpy()))
        for kind in ("warm", "valid"):
            targets = events.iloc[trial.cases[kind][0]]
            assert not trained & set(map(tuple, targets[["user", "item", "timestamp"]].to_numpy())), (seed, kind)
