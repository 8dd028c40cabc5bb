"""Nothing is lost: kills at every file operation, full disks, flipped bits, several processes and threads."""

from __future__ import annotations

import copy
import errno
import io
import os
import pickle
import random
import shutil
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from faults import at_operation, damaged, die, fail, forked, kill_at_each
from fixtures import small_model
from PIL import Image
from torch import nn

import m6rec
from m6rec import Config, InputError, cache
from m6rec.data.features import MEDIA_LIMIT, Media
from m6rec.data.sources import home, shipped
from m6rec.data.text import Tokenizer
from m6rec.evaluate import Interval
from m6rec.record import recorded, write_json
from m6rec.train.fit import Stage, fit, load_model, save_model
from m6rec.view import figures

unix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def toy(*parts: object, meanwhile=lambda: None, **options: object) -> tuple[list, torch.Tensor]:
    """A training of milliseconds -> its log and weights."""
    torch.manual_seed(0)
    network = nn.Linear(3, 1)

    def losses(network: nn.Module, batch: torch.Tensor, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        meanwhile()
        return {"mean": (network(batch) - 1).square().mean()}

    stage = Stage("toy", 2, lambda rng: [torch.from_numpy(rng.normal(size=(4, 3))).float()], losses)
    return fit(network, stage, Config(device="cpu"), *parts, **options), network.weight.detach().clone()


@unix
def test_a_save_killed_at_any_file_operation_leaves_the_old_or_the_new_model(tmp_path):
    folder, old, new = tmp_path / "model", nn.Linear(2, 2), nn.Linear(2, 2)
    tokenizer = Tokenizer.fit(["one two"], 300)
    save_model(folder, old, tokenizer, {"config": 1})
    for _ in kill_at_each(folder, lambda: save_model(folder, new, tokenizer, {"config": 2})):
        weights, _, values = load_model(folder)
        assert torch.equal(weights["weight"], (old, new)[values["config"] - 1].weight)
        save_model(folder, old, tokenizer, {"config": 1})
    left = [part for part in folder.iterdir() if part.name.startswith(cache.PART)]
    assert left  # of the killed; a day later they go
    for part in left:
        os.utime(part, (0, 0))
    save_model(folder, old, tokenizer, {"config": 1})
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors", "tokenizer.json"]


@unix
def test_a_training_killed_at_any_file_operation_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setenv("M6REC_HOME", str(tmp_path / "home"))
    due = toy("data")[1]
    for number in kill_at_each(tmp_path / "home", lambda: toy("data", keep=True), step=9):
        assert torch.equal(toy("data", keep=True)[1], due)
        (tmp_path / "home").rename(tmp_path / f"before {number}")
    assert number > 20


@unix
def test_figures_are_there_whole_wherever_a_write_is_killed(tmp_path):
    path = tmp_path / "figures.json"
    write_json(path, {"a": {"value": 1.0, "low": None, "high": None, "n": 0, "seeds": 1, "label": "é"}})
    for _ in kill_at_each(tmp_path, lambda: write_json(path, {})):
        assert set(recorded(path)) <= {"a"}
    for raw in damaged(path.read_bytes() + b'{"a": 3', 20):
        path.write_bytes(raw)
        try:
            recorded(path)
        except InputError as error:
            assert "delete it and run again" in str(error)


def test_a_full_disk_or_a_read_only_one_ends_in_a_sentence_whenever_it_is_met(tmp_path, monkeypatch):
    monkeypatch.setenv("M6REC_HOME", str(tmp_path / "home"))
    due, met, number = toy("data")[1], True, 0
    while met:
        with at_operation(number, tmp_path / "home", partial(fail, (errno.ENOSPC, errno.EROFS)[number % 2])) as fails:
            try:
                assert torch.equal(toy("data", keep=True)[1], due)
            except InputError as error:
                assert "cannot be written" in str(error) or "missing or damaged" in str(error), error
                assert "\n" not in str(error)
        met, number = fails(), number + 1
        assert torch.equal(toy("data", keep=True)[1], due)
        (tmp_path / "home").rename(tmp_path / f"before {number}")
    assert number > 20


def test_what_is_kept_is_read_where_nothing_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("M6REC_HOME", str(tmp_path))
    due = toy("data", keep=True)[1]
    monkeypatch.setattr(cache, "FileLock", lambda *_, **__: fail(errno.EROFS))
    assert torch.equal(toy("data", keep=True)[1], due)
    with pytest.raises(InputError, match="Read-only"):
        toy("others", keep=True)


def test_a_home_that_vanishes_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("M6REC_HOME", str(tmp_path / "home"))
    due = toy("data", keep=True, meanwhile=lambda: shutil.rmtree(tmp_path / "home", ignore_errors=True))[1]
    assert torch.equal(toy("data", keep=True, meanwhile=fail)[1], due)  # it is kept


def test_a_home_that_nobody_can_find_is_a_sentence(monkeypatch):
    monkeypatch.setenv("M6REC_HOME", "~nobody-of-this-name/x")
    with pytest.raises(InputError, match="set M6REC_HOME to an absolute path"):
        home()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_flipped_bit_or_a_truncated_file_of_a_model_is_noticed(tmp_path, name):
    save_model(tmp_path / "m", nn.Linear(4, 4), Tokenizer.fit(["one two three"], 300), {"config": {"width": 64}})
    weights, _, values = load_model(tmp_path / "m")
    for raw in damaged((tmp_path / "m" / name).read_bytes(), 40):
        (tmp_path / "m" / name).write_bytes(raw)
        try:
            found, _, again = load_model(tmp_path / "m")
            assert again["config"] == values["config"] and torch.equal(found["weight"], weights["weight"])
        except InputError as error:
            assert "\n" not in str(error)


def test_a_flipped_bit_or_a_truncated_training_state_is_noticed(tmp_path):
    due = toy("data", folder=tmp_path / "run")[1]
    state = tmp_path / "run" / "state.safetensors"
    for raw in damaged(state.read_bytes(), 60):
        state.write_bytes(raw)
        try:
            assert torch.equal(toy("data", folder=tmp_path / "run", resume=True)[1], due)
        except InputError as error:
            assert str(tmp_path / "run") in str(error)


def test_a_damaged_cache_of_media_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("M6REC_HOME", str(tmp_path))
    model, media = small_model(), Media(shipped("bazaar") / "media.zip")
    items = pd.DataFrame({"text": ["a", "b"], "image": ["G0001.png", None]})
    due = model.preprocess(items, media)
    (kept,) = (tmp_path / "features").iterdir()
    for raw in damaged(kept.read_bytes(), 30):
        kept.write_bytes(raw)
        assert np.array_equal(model.preprocess(items, media).image, due.image) and due.present[0, 1]


@unix
def test_of_many_processes_one_trains_and_a_killed_one_is_succeeded(tmp_path):
    def get(i: int) -> None:
        def make() -> str:
            with (tmp_path / "log").open("a") as log:
                log.write(f"{i}\n")
            time.sleep(0.2)
            if i == 0:
                die()
            return "kept"

        made = cache.cached(tmp_path / "one", make, lambda text, new: new.write_text(text), Path.read_text)
        (tmp_path / f"got {i}").write_text(made)

    def all_at_once() -> None:
        first = os.fork() or os._exit(forked(lambda: get(0)))
        time.sleep(0.1)
        others = [os.fork() or os._exit(forked(lambda i=i: get(i)) != 0) for i in range(1, 8)]
        assert [os.waitpid(child, 0)[1] for child in others] == [0] * 7
        os.waitpid(first, 0)

    assert forked(all_at_once) == 0
    assert len((tmp_path / "log").read_text().split()) == 2 and (tmp_path / "one").read_text() == "kept"
    assert [(tmp_path / f"got {i}").exists() for i in range(8)] == [False] + [True] * 7


def test_one_of_several_processes_does_not_train(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="training needs one process, and this is one of 2"):
        toy()


def test_training_leaves_the_callers_random_numbers_as_they_were():
    def drawn() -> list:
        return [random.random(), np.random.rand(), float(torch.rand(1))]

    def seed() -> None:
        random.seed(1), np.random.seed(1), torch.manual_seed(1)

    seed()
    due = drawn()
    seed()
    small_model(pretrain_epochs=1).pretrain()
    assert drawn() == due


def test_a_data_set_with_media_and_a_model_can_be_pickled_copied_and_asked_from_threads(trained):
    bazaar = m6rec.load("bazaar")
    for again in (pickle.loads(pickle.dumps(bazaar)), copy.deepcopy(bazaar)):
        assert again.fingerprint == bazaar.fingerprint
    due = [trained.recommend(user, k=3) for user in trained.data.users["user_id"][:8]]
    again = pickle.loads(pickle.dumps(trained))
    again._items = None
    with ThreadPoolExecutor(8) as threads:
        found = [*threads.map(lambda user: again.recommend(user, k=3), trained.data.users["user_id"][:8])]
    assert all(one.equals(other) for one, other in zip(due, found, strict=True))


def test_a_member_of_a_zip_that_lies_about_its_size_is_not_unpacked_whole(tmp_path):
    import tracemalloc
    import zipfile

    with zipfile.ZipFile(tmp_path / "m.zip", "w", zipfile.ZIP_DEFLATED) as bundle, bundle.open("a.png", "w") as file:
        for _ in range(4 * MEDIA_LIMIT // 2**20):
            file.write(bytes(2**20))
    raw = bytearray((tmp_path / "m.zip").read_bytes())
    place = raw.index(b"PK\1\2")
    raw[place + 24 : place + 28] = (100).to_bytes(4, "little")
    (tmp_path / "m.zip").write_bytes(raw)
    tracemalloc.start()
    with pytest.raises(InputError, match=r"a.png. cannot be read"):
        Media(tmp_path / "m.zip").read("a.png")
    assert tracemalloc.get_traced_memory()[1] < 3 * MEDIA_LIMIT
    tracemalloc.stop()


def test_long_texts_and_endless_words_cost_what_is_read_of_them():
    draw = random.Random(0)
    endless = ["".join(draw.choices("ACGT", k=10**5)) * 10 for _ in range(3)]
    begun = time.process_time()
    tokenizer = Tokenizer.fit([*endless, "long words of ten letters " * 40_000], 400)
    ids = tokenizer.tokens(endless, 24)
    assert time.process_time() - begun < 5 and (ids > 0).all()  # it was quadratic
    text = " ".join("".join(draw.choices("ab", k=draw.randrange(1, 90))) for _ in range(200))
    assert tokenizer.tokens([text], 24)[0].tolist() == tokenizer.bpe.encode(text).ids[:24]


def test_a_picture_of_a_large_mask_or_of_many_rows_is_bounded():
    many = {f"method {i}": Interval(i, i - 1, i + 1, 9, 1) for i in range(300)}
    picture = figures.comparison(many, "")
    assert picture.data.index[0] == picture.figure.axes[0].get_yticklabels()[-1].get_text() == "method 299"
    assert len(picture.figure.axes[0].get_yticks()) == figures.MAX_NAMES and len(picture.data) == 300
    assert max(figures.mask_map({"mask": np.eye(300, dtype=bool)}, range(300), "").figure.get_size_inches()) <= 40


@pytest.mark.parametrize("name", ["$$", "x" * 10_000, r"\frac{$a_b^", "\x1b[31m\u202e\n" * 500])
def test_names_of_any_kind_and_length_are_drawn_on_a_bounded_picture(name):
    mask = figures.mask_map({name: np.eye(30, dtype=bool)}, [name] * 30, name)
    rows = figures.image_rows({name: ("image", [np.zeros((28, 28))])}, name, below=[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a layout has no space left
        for picture in (mask, rows, figures.comparison({name: Interval(1.0, 0.5, 1.5, 9, 1)}, name)):
            width, height = Image.open(io.BytesIO(picture.png())).size
            assert width * height < 30e6
