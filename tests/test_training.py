"""Training: seeds, resuming, averaged weights, checkpoints, and that something is learnt at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from fixtures import CONFIG, small_data, small_model

from m6rec import Dataset, InputError, M6Rec, cache, evaluate
from m6rec.data.context import Context
from m6rec.data.cooccurrence import neighbourhood, spectral
from m6rec.evaluate import _replaced
from m6rec.model.tree import build_tree
from m6rec.train import losses


def weights(model) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.network.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_seed_reproduces_a_training_bit_for_bit_and_another_does_not(trained):
    again, other = small_model(), small_model(seed=1)
    for model in (again, other):
        model.pretrain()
        model.fine_tune()
    assert same(weights(trained), weights(again))
    assert not same(weights(trained), weights(other))


def test_gradients_of_a_batch_that_several_threads_share_are_the_same_every_time():
    """Indexing a table sums its gradient in whatever order the threads arrive: at toy size nobody notices."""
    model = small_model(width=64, history=50)
    rng = np.random.default_rng(0)
    shape = (64, 50)
    context = Context(
        item=torch.from_numpy(rng.integers(0, model.data.n_items, shape)),
        value=torch.ones(shape, dtype=torch.long),
        gap=torch.ones(shape, dtype=torch.long),
        profile=torch.ones(64, len(model.fields.profile), dtype=torch.long),
        request=torch.ones(*shape, len(model.fields.request), dtype=torch.long),
        position=torch.arange(50).expand(shape),
    )

    def gradients() -> list[torch.Tensor]:
        model.network.zero_grad()
        torch.manual_seed(0)
        found = losses.predict(model.network, losses.mask_request(context), model.config)
        masses = found.subtrees(model.network.digits.tree)
        path, taught = losses.digits(model.network, found.state, found.target, masses)
        (found.cross_entropy() + path + taught).backward()
        return [p.grad.clone() for p in model.network.parameters() if p.grad is not None]

    vectors = model.item_vectors()
    model.network.digits.init_from_tree(build_tree(vectors.numpy(), model.network.digits.widths), vectors)
    first = gradients()
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, gradients(), strict=True))


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("stage", ["pretrain", "fine_tune"])
def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(trained, tmp_path, stage):
    def stop_after_one(row):
        raise Interrupted

    model = small_model()
    if stage == "fine_tune":
        model.pretrain(folder=tmp_path / "pretrain")
    with pytest.raises(Interrupted):
        getattr(model, stage)(folder=tmp_path / stage, on_epoch=stop_after_one)
    torch.rand(7)  # the generator has moved on since
    resumed = small_model()
    rows = resumed.pretrain(folder=tmp_path / "pretrain", resume=True)
    assert [row.epoch for row in rows] == [1, 2]
    resumed.fine_tune(folder=tmp_path / "fine_tune", resume=True)
    assert same(weights(trained), weights(resumed))


def test_a_checkpoint_of_another_config_or_data_is_refused_and_left_alone(tmp_path):
    small_model().pretrain(folder=tmp_path / "work")
    before = (tmp_path / "work" / "state.safetensors").read_bytes()
    for other, what in ((small_model(width=8), "config"), (small_model(small_data(seed=1)), "data")):
        with pytest.raises(InputError, match=rf"another run \(another {what}\): name another folder"):
            other.pretrain(folder=tmp_path / "work", resume=True)
    assert (tmp_path / "work" / "state.safetensors").read_bytes() == before


def test_training_lowers_every_loss_and_beats_chance():
    model = small_model(pretrain_epochs=20, finetune_epochs=12, validate_every=10, learning_rate=5e-3, dropout=0.0)
    first, *_, last = model.pretrain()
    assert last.losses["next"] < first.losses["next"] - 0.5 and last.losses["infill"] < 0.7 * first.losses["infill"]
    first, *_, last = model.fine_tune()
    assert last.losses["digits"] < first.losses["digits"] and last.losses["teacher"] < first.losses["teacher"]
    for method in ("dense", "generated", "exact"):
        ndcg = evaluate(model.scorer(method), model.data, mask_seen=False).metrics["ndcg@10"]
        assert ndcg > 0.35, method  # the next step of the circle comes in four of five cases; chance is .15


def test_the_softmax_in_parts_is_the_softmax_at_once(monkeypatch):
    """Its value and both gradients, with items that are no answers, and with more positions than one part holds."""
    monkeypatch.setattr(losses, "SOFTMAX_CHUNK", 100)
    torch.manual_seed(0)
    state, items = torch.randn(23, 8, requires_grad=True), torch.randn(30, 8, requires_grad=True)
    target, answers = torch.randint(28, (23,)), torch.arange(30) < 28
    found = losses.FullPrediction(state, items, target, answers).cross_entropy()
    slow = F.cross_entropy((state @ items.T).masked_fill(~answers, float("-inf")), target)
    torch.testing.assert_close(found, slow)
    for mine, true in zip(*(torch.autograd.grad(3 * loss, (state, items)) for loss in (found, slow)), strict=True):
        torch.testing.assert_close(mine, true)
    torch.testing.assert_close(losses.full_softmax(state, items, target), F.cross_entropy(state @ items.T, target))
    near = torch.stack((torch.arange(30), (torch.arange(30) + 7) % 30), 1), torch.rand(30, 2).softmax(1)
    truth = torch.zeros(23, 30).scatter_add_(1, near[0][target], near[1][target])
    found, slow = losses.full_softmax(state, items, target, None, near), F.cross_entropy(state @ items.T, truth)
    for mine, true in zip(*(torch.autograd.grad(loss, (state, items)) for loss in (found, slow)), strict=True):
        torch.testing.assert_close(mine, true)
    state, items = state.detach().double(), items.detach().double()
    exact, slow = (
        losses.full_softmax(state, items, target, None, near),
        F.cross_entropy(state @ items.T, truth.double()),
    )
    torch.testing.assert_close(exact, slow, rtol=1e-7, atol=0)


def test_neighbours_are_those_that_stand_near_in_training_histories():
    """The circle's next and last items are near; the test event moves nothing; shares are whole."""
    data = small_data()
    item, share = neighbourhood(data, data.split(), 0.3)
    assert (item[:, 0] == torch.arange(30)).all() and torch.allclose(share.sum(1), torch.ones(30))
    assert torch.allclose(share[:, 0], torch.tensor(0.7)) and (share >= 0).all()
    first, distance = item[:, 1], (item[:, 1] - torch.arange(30)) % 30
    assert (torch.minimum(distance, 30 - distance) <= 2).float().mean() > 0.9 and (first != torch.arange(30)).all()
    split = data.split()
    other = _replaced(data, ~split.train, ~split.train, seed=1)
    assert torch.equal(neighbourhood(other, split, 0.3)[0], item), "what is not training is not counted"


def test_items_start_where_their_company_stands():
    """Items that follow each other on the circle have like vectors; the test events move nothing."""
    data, split = small_data(), small_data().split()
    vectors = spectral(data, split, 16)
    assert vectors.shape == (30, 16) and vectors.std() == pytest.approx(1, abs=1e-5)
    sides = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    like = sides @ sides.T
    at = np.arange(30)
    assert like[at, (at + 1) % 30].mean() > like[at, (at + 8) % 30].mean() + 0.3
    other = _replaced(data, ~split.train, ~split.train, seed=1)
    np.testing.assert_array_equal(spectral(other, split, 16), vectors)
    assert spectral(data, split, 40).shape == (30, 40), "more channels than items"


def test_the_start_is_the_same_each_time_where_all_company_is_alike():
    pairs = [(user, item, item) for user in range(10) for item in (2 * user, 2 * user + 1) * 3]
    events = pd.DataFrame(pairs, columns=["user_id", "item_id", "value"]).assign(timestamp=range(60))
    items = pd.DataFrame({"item_id": range(20), "title": [f"Film {i}" for i in range(20)]})
    data = Dataset.from_frames(items, pd.DataFrame({"user_id": range(10)}), events, name="pairs")
    first, *others = (spectral(data, data.split(), 16) for _ in range(3))
    assert all(np.array_equal(first, other) for other in others)


def test_an_untrained_network_ranks_as_its_start_does():
    """By the products of the items' start vectors with the mean of the history, recent events first."""
    data = small_data()
    still = {"profile": False, "request": False, "recency": 0.5, "spectral": 10.0}  # nothing is larger than the start
    model, events = small_model(data, **still), data.targets(small_data().split().test)
    vectors = model.network.items.identity.weight.detach()
    np.testing.assert_allclose(vectors, 10 * spectral(data, model.split, 16), rtol=1e-5)
    history = torch.from_numpy(events.history(model.config.history))  # (B, T), the most recent last
    share = 0.5 ** torch.arange(history.shape[1] - 1, -1, -1) * (history >= 0)
    mean = (share[..., None] * vectors[history.clamp(min=0)]).sum(1)
    cosine = torch.nn.functional.cosine_similarity
    assert (cosine(model.fuse(model.target_context(events)).state[:, -1], mean) > 0.999).all()
    last = small_model(data, **{**still, "recency": 0.0}).fuse(model.target_context(events)).state[:, -1]
    assert (cosine(last, vectors[history[:, -1]]) > 0.999).all()
    early = small_model(data, spectral=0.0, recency=0.0).network
    assert all(block.out.weight.any() for block in early.fusion.joint), "without a start the layers are random"


def test_the_digits_learn_from_the_dense_heads_mass_below_each_node(trained):
    """The teacher's distribution at a level is the softmax over items summed below each child, here the slow way."""
    network, tree = trained.network, trained.network.digits.tree
    state, target = torch.randn(3, 16), torch.tensor([2, 9, 21])
    logits = network.score(state, trained.item_vectors())
    found = losses.FullPrediction(state, trained.item_vectors(), target, network.codes >= 0)
    _, taught = losses.digits(network, state, target, found.subtrees(tree))
    probability, digits, expected = logits.softmax(-1), tree.digits(torch.arange(len(tree.leaf))), 0.0
    student = network.digits.teacher_forced(state, target)
    for row in range(3):
        for level in range(3):
            own = tree.digits(target[row])
            under = (digits[:, :level] == own[:level]).all(1)
            mass = torch.stack(
                [probability[row, under & (digits[:, level] == d)].sum() for d in range(tree.widths[level])]
            )
            said = student[level][row].log_softmax(-1)
            valid_nodes = mass > 0
            expected += -(mass[valid_nodes] / mass.sum() * said[valid_nodes]).sum() / 3
    torch.testing.assert_close(taught, expected, rtol=1e-4, atol=1e-4)


def test_what_was_seen_is_no_class_of_the_softmax_and_no_teacher(trained):
    """Its loss and gradient, the slow way; an item that comes again stays a class."""
    network, tree = trained.network, trained.network.digits.tree
    item = torch.tensor([[3, 5, 7, 5, 9], [8, 8, 2, 4, -1]])
    profile, request = torch.ones(2, len(network.fusion.profile)), torch.ones(2, 5, len(network.fusion.request))
    zeros, position = torch.zeros_like(item), torch.arange(5).expand(2, 5)
    batch = Context(item, zeros, zeros, profile.long(), request.long(), position)
    found = losses.predict(network, batch, trained.config, once=True)
    seen = [[], [3], [3, 5], [3, 7], [3, 5, 7], [], [], [8], [8, 2]]
    slow = found.state @ found.items.T
    for row, codes in enumerate(seen):
        shut = torch.zeros_like(slow, dtype=torch.bool)
        shut[row, codes] = True
        slow = slow.masked_fill(shut, -torch.inf)
    wanted = F.cross_entropy(slow, found.target)
    torch.testing.assert_close(found.cross_entropy(), wanted)
    own = network.items.identity.weight
    ways = (torch.autograd.grad(loss, own, retain_graph=True)[0] for loss in (found.cross_entropy(), wanted))
    torch.testing.assert_close(*ways, rtol=1e-4, atol=1e-6)
    first = next(iter(found.subtrees(tree)))
    below = F.one_hot(tree.digits(torch.arange(len(tree.leaf)))[:, 0], tree.widths[0]).float()
    torch.testing.assert_close(first, slow.detach().softmax(1) @ below)


def test_a_weight_changes_the_gradient_and_not_the_logged_loss():
    def infill(weight: float) -> list[float]:
        model = small_model(infill_weight=weight, pretrain_epochs=8, learning_rate=3e-3, patience=8)
        assert len(model.tokenizer) > 100
        return [row.losses["infill"] for row in model.pretrain()]

    ignored, heeded = infill(1e-6), infill(1.0)
    assert ignored[0] > 0.8 * np.log(100)  # nats over more than a hundred tokens, however small the weight
    assert heeded[-1] < ignored[-1] - 0.3


def test_corruption_keeps_every_token_once():
    texts = np.array([[5, 6, 7, 8, 9, 10], [11, 12, 13, 0, 0, 0], [14, 0, 0, 0, 0, 0]])
    rng = np.random.default_rng(0)
    for _ in range(50):
        source, target = losses.corrupt(texts, rng)
        for row, tokens in enumerate(texts):
            gap = int(np.flatnonzero(source[row] == 2)[0])
            span = [t for t in target[row] if t > 4]
            kept = source[row][source[row] > 0].tolist()
            assert kept[:gap] + span + kept[gap + 1 :] == tokens[tokens > 0].tolist()
            assert target[row, 0] == 3 and target[row, 1 + len(span)] == 4 and len(span) >= 1


def test_saving_and_loading_changes_nothing(trained, tmp_path):
    folder = trained.save_pretrained(tmp_path / "model")
    loaded = M6Rec.from_pretrained(folder, trained.data)
    assert same(weights(trained), weights(loaded)) and loaded.config == trained.config
    assert loaded.fields == trained.fields and loaded.stages == trained.stages
    pair = [m.recommend(user=103, context={"hour": 21}, k=5) for m in (trained, loaded)]
    assert pair[0].equals(pair[1])
    assert not [f for f in folder.iterdir() if f.suffix not in (".json", ".safetensors", ".md")]  # no pickle


def test_a_half_written_checkpoint_is_never_left_behind(trained, tmp_path, monkeypatch):
    folder = trained.save_pretrained(tmp_path / "model")
    before = {f.name: f.read_bytes() for f in folder.iterdir()}

    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(cache, "save", full_disk)
    with pytest.raises(InputError, match=r"model cannot be written \(no space"):
        trained.save_pretrained(folder)
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == before
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("name", ["notes.txt", "config.json", "model.safetensors", "folder"])
def test_a_folder_that_holds_something_else_is_refused_and_left_as_it_is(trained, tmp_path, name):
    folder = tmp_path / "docs"
    folder.mkdir()
    if name == "folder":
        (folder / name).mkdir()
    else:
        (folder / name).write_text('{"model_type": "of somebody else"}')
    for write in (trained.save_pretrained, lambda folder: small_model().pretrain(folder=folder)):
        with pytest.raises(InputError, match=r"holds other files .* name a new or an empty folder") as error:
            write(folder)
        assert "\n" not in str(error.value) and os.listdir(folder) == [name] and os.listdir(tmp_path) == ["docs"]
    if name != "folder":
        with pytest.raises(InputError, match="is a file: name a folder"):
            trained.save_pretrained(folder / name)
        assert (folder / name).is_file()


def test_a_model_is_saved_over_an_older_one_and_nothing_beside_it_goes(trained, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    folder.mkdir()  # an empty one may be there
    small_model().save_pretrained(folder)
    (folder / "README.md").write_text("mine")
    monkeypatch.chdir(folder)
    trained.save_pretrained(".")
    names = ["README.md", "config.json", "model.safetensors", "tokenizer.json"]
    assert sorted(os.listdir(folder)) == names and (folder / "README.md").read_text() == "mine"
    assert same(weights(trained), weights(M6Rec.from_pretrained(folder, trained.data)))
    (tmp_path / "plain").mkdir()
    mode = trained.save_pretrained(tmp_path / "new" / "model").stat().st_mode
    assert mode == (tmp_path / "plain").stat().st_mode  # a colleague can read it
    (tmp_path / "plain" / "file").touch()
    modes = {file.stat().st_mode for file in (tmp_path / "new" / "model").iterdir()}
    assert modes == {(tmp_path / "plain" / "file").stat().st_mode}


def test_the_items_own_training_is_kept_under_the_name_that_was_given(tmp_path):
    (tmp_path / "items").mkdir()
    (tmp_path / "items" / "photo.png").write_text("x")
    shown = []
    small_model(item_epochs=1, pretrain_epochs=1).pretrain(folder=tmp_path / "run", on_epoch=shown.append)
    assert sorted(os.listdir(tmp_path)) == ["items", "run", "run-items"] and len(shown) == 2
    assert os.listdir(tmp_path / "items") == ["photo.png"]


def test_whatever_moment_a_save_is_cut_off_at_the_old_or_the_new_model_is_there(trained, tmp_path, monkeypatch):
    old, folder, replace = small_model(), tmp_path / "model", os.replace

    class Cut(Exception):
        pass

    for moment in range(4):
        shutil.rmtree(folder, ignore_errors=True)
        old.save_pretrained(folder)
        moves = iter(range(moment))

        def cut(*paths, moves=moves):
            if next(moves, None) is None:
                raise Cut
            replace(*paths)

        monkeypatch.setattr(os, "replace", cut)
        with contextlib.suppress(Cut):
            trained.save_pretrained(folder)
        monkeypatch.setattr(os, "replace", replace)
        found = weights(M6Rec.from_pretrained(folder, trained.data))
        assert same(found, weights(old if moment == 0 else trained))
        trained.save_pretrained(folder)  # and it can be saved again
        assert same(weights(trained), weights(M6Rec.from_pretrained(folder, trained.data)))


def test_a_checkpoint_of_another_version_or_device_says_so_or_just_works(trained, tmp_path):
    folder = trained.save_pretrained(tmp_path / "model")
    values = json.loads((folder / "config.json").read_text())
    del values["config_sha256"]  # edited by hand
    for change in ({"format": 0}, {"format": 2}, {"config": {**values["config"], "forgotten": 1}}):
        (folder / "config.json").write_text(json.dumps({**values, "m6rec": "0.0.7", **change}))
        with pytest.raises(InputError, match=r"written by m6rec 0\.0\.7.* train it again, or load it with"):
            M6Rec.from_pretrained(folder, trained.data)
    (folder / "config.json").write_text(json.dumps({**values, "config": {**values["config"], "device": "cuda"}}))
    loaded = M6Rec.from_pretrained(folder, trained.data)
    assert same(weights(trained), weights(loaded)) and len(loaded.recommend(105, k=3)) == 3


def test_what_a_model_older_than_a_setting_was_trained_with_is_not_guessed(trained, tmp_path):
    folder = trained.save_pretrained(tmp_path / "model")
    values = json.loads((folder / "config.json").read_text())
    del values["config_sha256"]  # edited by hand
    del values["config"]["recency"]
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"written by m6rec .* train it again"):
        M6Rec.from_pretrained(folder, trained.data)


def test_damaged_foreign_and_missing_checkpoints_are_refused_in_a_sentence(trained, tmp_path):
    with pytest.raises(InputError, match="no checkpoint at"):
        M6Rec.from_pretrained(tmp_path / "nowhere", trained.data)
    folder = trained.save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="other data"):
        M6Rec.from_pretrained(folder, small_data(seed=5))
    values = json.loads((folder / "config.json").read_text())
    del values["config_sha256"]  # edited by hand
    (folder / "config.json").write_text(json.dumps({**values, "config": {**values["config"], "width": 32}}))
    with pytest.raises(InputError, match="do not fit its config"):
        M6Rec.from_pretrained(folder, trained.data)
    (folder / "config.json").write_text(json.dumps(values))
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged"):
        M6Rec.from_pretrained(folder, trained.data)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        M6Rec.from_pretrained(folder, trained.data)


def test_a_trained_model_is_kept_by_config_and_data(tmp_path, monkeypatch):
    monkeypatch.setenv("M6REC_HOME", str(tmp_path))
    settings = {**CONFIG, "pretrain_epochs": 1, "finetune_epochs": 1}
    first, again = (M6Rec.cached(small_data(), "small", **settings) for _ in range(2))
    assert same(weights(first), weights(again)) and first.stages == again.stages  # the seconds, too
    assert len(list((tmp_path / "models").iterdir())) == 2  # both stages, once
    M6Rec.cached(small_data(seed=1), "small", **settings)
    M6Rec.cached(small_data(), "small", **{**settings, "width": 8})
    assert len(list((tmp_path / "models").iterdir())) == 6


def test_what_is_kept_takes_no_folder_of_the_callers(tmp_path, monkeypatch):
    monkeypatch.setenv("M6REC_HOME", str(tmp_path / "home"))
    with pytest.raises(InputError, match="leave folder, resume out"):
        small_model().pretrain(keep=True, folder=tmp_path / "own", resume=True)
    assert not (tmp_path / "home" / "models").exists()


def test_the_last_bits_of_a_tree_train_nothing_anew(tmp_path, monkeypatch):
    """They follow the number of threads that encode the items."""
    monkeypatch.setenv("M6REC_HOME", str(tmp_path))
    settings = {**CONFIG, "pretrain_epochs": 1, "finetune_epochs": 1}
    M6Rec.cached(small_data(), "small", **settings)
    kept, encode = sorted((tmp_path / "models").iterdir()), M6Rec.item_vectors
    monkeypatch.setattr(M6Rec, "item_vectors", lambda *of, **more: encode(*of, **more) * (1 + 1e-6))
    M6Rec.cached(small_data(), "small", **settings)
    assert len(kept) == 2 and sorted((tmp_path / "models").iterdir()) == kept
