"""Items and people that training never saw: their content, their profile and their request are all there is."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from fixtures import CONFIG, small_data
from PIL import Image

import m6rec
from m6rec import InputError


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (28, 28), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG")
    return out.getvalue()


def recording(seed: int) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, np.random.default_rng(seed).uniform(-0.5, 0.5, 4000), 8000, format="WAV")
    return out.getvalue()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A trained model of items with photographs and recordings, of which two have no event in training."""
    folder = tmp_path_factory.mktemp("media")
    plain = small_data()
    items = plain.items.assign(
        image=[f"{i}.png" if i % 2 else None for i in range(plain.n_items)],
        sound=[f"{i}.wav" if i % 3 == 0 else None for i in range(plain.n_items)],
    )
    for i in range(plain.n_items):
        (folder / f"{i}.png").write_bytes(picture(i))
        (folder / f"{i}.wav").write_bytes(recording(i))
    events = plain.events.assign(
        user_id=plain.users["user_id"].to_numpy()[plain.events["user"]],
        item_id=plain.items["item_id"].to_numpy()[plain.events["item"]],
    ).drop(columns=["user", "item"])
    data = m6rec.Dataset.from_frames(items, plain.users, events, media=folder, name="circles")
    trained = m6rec.M6Rec(data.without(np.array([3, 4])), "small", **{**CONFIG, "item_epochs": 1})
    trained.pretrain()
    trained.fine_tune()
    trained.all = data
    return trained


NEW = {"title": "Film new", "image": picture(100), "sound": recording(100)}


def test_a_history_may_hold_items_that_are_only_seen_heard_or_read(model):
    known = model.recommend(history=[501, 502], k=5, method="dense")
    for part in ({"title": "Film new"}, {"image": NEW["image"]}, {"sound": NEW["sound"]}, NEW):
        table = model.recommend(history=[501, part], k=5, method="dense")
        assert len(table) == 5 and table["score"].tolist() != known["score"].tolist(), part
    assert len(model.recommend(history=[NEW, NEW], k=5)) == 5  # generated, and nothing but new items


def test_an_item_of_the_catalogue_given_as_content_alone_is_that_item_without_identity(model):
    content = {"text": model.data.items["text"].iloc[7], "image": picture(7)}
    vectors = model.item_vectors([content])
    with torch.no_grad():
        bare = model.network.items(model.network.content.take(torch.tensor([7]))).vectors
    torch.testing.assert_close(vectors[-1:], bare)


def test_new_items_take_free_leaves_and_are_recommended(model):
    frame = pd.DataFrame({"item_id": [900, 901], "title": ["Film 900", "Film 901"], "image": [picture(5), None]})
    grown = model.with_items(frame)
    assert grown.data.n_items == model.data.n_items + 2 and model.data.n_items == 30
    leaves = grown.network.digits.tree.leaf
    assert len(leaves.unique()) == 32 and (model.network.digits.tree.item[leaves[30:]] < 0).all()
    torch.testing.assert_close(grown.item_vectors()[:30], model.item_vectors())
    for method in ("dense", "generated", "exact"):
        table = grown.recommend(history=[501], k=31, method=method)
        assert {900, 901} <= set(table["item_id"]) and np.isfinite(table["score"]).all(), method
    before = model.recommend(history=[501], k=3, method="generated")
    assert before["item_id"].isin(model.data.items["item_id"]).all()


def test_more_items_than_free_leaves_are_refused(model):
    many = pd.DataFrame({"item_id": range(1000, 1100)})
    with pytest.raises(InputError, match="free leaves, too few for 100 new items"):
        model.with_items(many)
    with pytest.raises(InputError, match="item '501' is in circles already"):
        model.with_items(pd.DataFrame({"item_id": [501]}))


def test_a_person_without_history_is_their_profile_and_request(model):
    lists = {
        age: model.recommend(history=[], profile={"age": age}, context={"hour": 9}, k=5)["score"].tolist()
        for age in (20, 65)
    }
    assert lists[20] != lists[65]
    with pytest.raises(InputError, match="the profile's field 'height' is unknown to this model: it knows age, gender"):
        model.recommend(history=[], profile={"height": 180})


def test_muting_a_modality_moves_the_scores_and_is_said_in_the_name(model):
    whole = model.recommend(105, k=5, method="dense")["score"].tolist()
    assert all(
        model.recommend(105, k=5, method="dense", drop=[m])["score"].tolist() != whole for m in model.data.modalities
    )
    name = model.scorer("dense", drop=["image", "sound"]).name
    assert name == "m6rec dense without image and sound"


def test_held_out_items_are_ranked_within_their_pool_and_by_data_that_hold_them(model):
    split = model.all.split()
    pool = np.array([3, 4])
    events = model.all.events["item"].to_numpy()
    cold = split._replace(
        test=np.flatnonzero(
            np.isin(events, pool) & (np.arange(len(events)) > model.all.offsets[model.all.events["user"]])
        )
    )
    found = m6rec.evaluate(model, model.all, split=cold, pool=pool)
    assert set(found.per_user["item_id"]) <= {503, 504} and found.per_user["rank"].le(2).all()
    assert set(np.unique(found.lists)) <= {-1, 3, 4}


@pytest.mark.parametrize(
    "item, says",
    [
        ({"image": b"not a picture"}, "'<bytes>' is no image"),
        ({"sound": b"RIFF"}, "'<bytes>' is no sound"),
        ({"image": "nowhere.png"}, "nowhere.png"),
        ({"colour": "red"}, "give a title, text, image or sound"),
    ],
)
def test_a_new_item_that_cannot_be_used_is_refused_in_a_sentence(model, item, says):
    with pytest.raises(InputError, match=says):
        model.recommend(history=[item], k=3)


def test_what_training_does_not_know_is_no_wrong_answer(model):
    """As negatives, held-out items would be learnt by heart as never bought."""
    from m6rec.data.context import training_batches
    from m6rec.train import losses

    rng = np.random.default_rng(0)
    batch = next(training_batches(model.data, model.split, model.codes, length=8, batch=16, rng=rng))
    found = losses.predict(model.network, batch, model.config)
    assert (~found.candidates).nonzero().flatten().tolist() == [3, 4]
    state, target, gradient = found.state, found.target, torch.autograd.grad(found.cross_entropy(), found.items)[0]
    assert (gradient[3:5] == 0).all() and (gradient[:3] != 0).any(1).all()
    tree, known = model.network.digits.tree, model.network.codes >= 0
    leaves = model.network.digits.teacher_forced(state, target, known)[-1]
    parents = tree.prefixes(target)[:, -2]
    for code in (3, 4):
        last, parent = tree.digits(torch.tensor(code))[-1], tree.prefixes(torch.tensor(code))[-2]
        assert torch.isinf(leaves[parents == parent, last]).all()


def test_a_history_is_left_out_whole_however_little_of_it_is_read(model):
    long = model.data.items["item_id"].tolist()[:20]
    assert not set(long) & set(model.recommend(history=long, k=10)["item_id"])


def test_a_grown_catalogue_is_saved_with_the_pictures_of_its_new_items(model, tmp_path):
    grown = model.with_items(pd.DataFrame({"item_id": [900], "image": [picture(5)]}))
    loaded = m6rec.M6Rec.from_pretrained(grown.save_pretrained(tmp_path / "grown"), model.data)
    torch.testing.assert_close(loaded.item_vectors(), grown.item_vectors(), rtol=0, atol=0)


def test_a_model_of_three_senses_is_loaded_as_it_was(model, tmp_path):
    loaded = m6rec.M6Rec.from_pretrained(model.save_pretrained(tmp_path / "m"), model.data)
    torch.testing.assert_close(loaded.item_vectors(), model.item_vectors(), rtol=0, atol=0)


def test_photographs_and_recordings_are_read_in_the_size_of_the_config(model, tmp_path):
    sizes = {"image_size": 14, "colour": True, "sound_seconds": 2.0}
    sized = m6rec.M6Rec(model.all, "small", **{**CONFIG, **sizes, "item_epochs": 1, "pretrain_epochs": 0})
    sized.pretrain()
    assert sized.features.image.shape[1:] == (4, 147) and sized.features.sound.shape[1:] == (16, 128)
    loaded = m6rec.M6Rec.from_pretrained(sized.save_pretrained(tmp_path / "m"), model.all)
    torch.testing.assert_close(loaded.item_vectors([NEW]), sized.item_vectors([NEW]), rtol=0, atol=0)
    with pytest.raises(InputError, match="image_size=30 cannot be split into patches of 7 × 7 pixels: take a multiple"):
        m6rec.Config(image_size=30)


def test_a_modality_that_is_not_read_is_not_there(model):
    deaf = m6rec.M6Rec(model.data, "small", **{**CONFIG, "modalities": ("text", "image")})
    assert not deaf.features.present[:, 2].any() and deaf.features.present[:, 1].any()
    with pytest.raises(InputError, match="item_epochs needs something to teach"):
        m6rec.M6Rec(model.data, "small", **{**CONFIG, "item_epochs": 1, "modalities": ()}).pretrain()
    with pytest.raises(InputError, match="item_epochs needs something to teach"):
        m6rec.M6Rec(
            small_data(), "small", **{**CONFIG, "item_epochs": 1, "infill_weight": 0.0}
        ).pretrain()  # texts alone


def test_without_ids_contents_learn_to_predict_where_items_would_start(model):
    changes = {"identity": False, "spectral": 0.1, "infill_weight": 0.0, "item_epochs": 40, "pretrain_epochs": 0}
    made = m6rec.M6Rec(
        model.data, "small", **{**CONFIG, **changes, "learning_rate": 1e-2, "dropout": 0.0, "modality_dropout": 0.0}
    )
    assert not any(block.out.weight.any() for block in made.network.fusion.joint), "a history counts by its items alone"
    made.pretrain()
    start = made._spectral()[made.network.codes >= 0]
    error = ((made.item_vectors()[made.network.codes >= 0] - start) ** 2).mean() / start.var()
    logged = [epoch.losses["spectral"] for epoch in made.stages["items"]]
    assert logged[-1] < 0.7 * logged[0] and error < 0.8, "1 is what predicting nothing leaves"


def test_items_may_be_learnt_alone(model, tmp_path, monkeypatch):
    """Without a single event the content's losses fall, a tree is grown, and the cache keeps it."""
    monkeypatch.setenv("M6REC_HOME", str(tmp_path))
    alone = {**CONFIG, "item_epochs": 3, "pretrain_epochs": 0, "finetune_epochs": 0}
    reader = m6rec.M6Rec.cached(model.data, "small", **alone)
    rows = reader.stages["items"]
    assert rows[-1].losses["infill"] < rows[0].losses["infill"] and reader.stages["pretrain"] == []
    assert len(reader.recommend(history=[501], k=5)) == 5
    again = m6rec.M6Rec.cached(model.data, "small", **alone)
    torch.testing.assert_close(again.item_vectors(), reader.item_vectors(), rtol=0, atol=0)
