"""Every public verb and setting: an odd argument is answered, or refused in one sentence, never a raw error."""

from __future__ import annotations

import inspect
import math
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import fields
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import FunctionType

import numpy as np
import pandas as pd
import pytest
import torch
from fixtures import small_model
from fuzz import fuzz

import m6rec
from m6rec import Config, Dataset, InputError, M6Rec
from m6rec.config import conform

ODD = (
    None, True, np.bool_(True), -1, 0, 1, 2, 3.0, 2.5, 10**30, 10**400, -(10**30), math.nan, math.inf, 1e300,
    np.int64(3), np.int8(-1), np.float32(0.5), Fraction(1, 2), Decimal("0.1"), 1 + 2j, "", "x", "3", "\ud800", b"x",
    [], [1], ["x"], [None], (), (1, 2), {}, {"a": 1}, {1: 2}, {None}, [[1, 2], [3]], np.array(3), np.array([1, 2]),
    np.array(["x"]), np.zeros((0, 2)), pd.Series([1.5]), pd.DataFrame(), pd.NaT, pd.NA, torch.tensor(3), torch.zeros(2),
    object(), lambda *_: None, iter([1]), range(3),
)  # fmt: skip


def verbs(model: M6Rec) -> Iterator[tuple[str, Callable, dict]]:
    """Name, verb and arguments that it answers, of all that m6rec names and of their public methods."""
    data, person = model.data, model.person(100)
    targets, fused = data.targets(data.split().test[:3]), model.fuse(person.context)
    films = pd.DataFrame({"item_id": [1], "title": ["new"]})
    raw = {"user_id": [1, 1, 1], "item_id": [1, 1, 1]}
    good = {
        "data": data, "preset": "tiny", "user": 100, "history": None, "profile": {"age": 30}, "context": {"hour": 21},
        "request": {"hour": 21}, "k": 3, "method": "dense", "drop": ("text",), "person": person, "media": None,
        "new": [{"title": "new"}], "fused": fused, "users": targets, "features": model.features, "folder": None,
        "model": model, "split": "leave_one_out", "part": "valid", "pool": None, "chunk": 7, "name": "bazaar",
        "seed": 1, "raw_ids": [], "titles": ["Film 3"], "events": [5], "kind": "leave_one_out", "n_users": 3,
        "interactions": pd.DataFrame(raw), "per_user": None, "value": 1.0, "over": None,
        "config": None, "fitted": None, "epochs": 1, "loss": print, "judged_by": "dense", "item": 501, "without": (),
    }  # fmt: skip
    own = {
        "fuse": {"context": person.context}, "with_items": {"items": films}, "preprocess": {"items": ["x"]},
        "from_frames": {"items": films, "users": None}, "validate": {"items": films, "users": None},
        "without": {"items": [1], "users": [1]}, "candidates": {"history": [1]}, "scale": {"name": "quick"},
        "record": {"name": "odd"}, "preset": {"name": "tiny"}, "history_codes": {"history": [500]},
        "recommend_many": {"users": [100]}, "with_events": {"interactions": films.assign(user_id=1, item_id=500)},
        "from_folder": {"name": "x"}, "M6Rec": {"preset": "tiny"}, "subset": {}, "stage": {"name": "x"},
    }  # fmt: skip
    idle = M6Rec(data, config=Config(width=16, vocabulary=300, pretrain_epochs=0, finetune_epochs=0))
    idle.pretrain()
    named = [M6Rec, m6rec.evaluate, m6rec.load, m6rec.record, m6rec.scale]
    for cls, one in {Config: Config(), Dataset: data, M6Rec: model}.items():
        public = [name for name in vars(cls) if name[0] != "_" and name not in ("push_to_hub", "update")]  # slow
        public = [name for name in public if isinstance(vars(cls)[name], FunctionType | classmethod | staticmethod)]
        named += [getattr(idle if name in ("pretrain", "fine_tune") else one, name) for name in public]
    for verb in named:
        name, parameters = verb.__name__, inspect.signature(verb).parameters
        usual = {**good, **own.get(name, {})}
        usual = {p: usual[p] for p, one in parameters.items() if p in usual and one.kind != one.VAR_KEYWORD}
        yield name, verb, usual


@pytest.mark.parametrize("field", [field.name for field in fields(Config)])
def test_a_setting_of_the_wrong_kind_is_refused_in_a_sentence(field):
    for value in ODD:
        try:
            kept = getattr(Config(**{field: value}), field)
        except InputError as error:
            assert field in str(error)
        else:
            assert type(kept) is type(getattr(Config(), field))


def test_numbers_of_numpy_are_pythons_and_a_flag_is_no_number():
    assert Config(width=np.int64(32), dropout=np.float32(0.5)) == Config(width=32, dropout=0.5)
    assert Config(weight_decay=0).fingerprint == Config(weight_decay=0.0).fingerprint
    assert conform("x", np.bool_(True), bool) is True
    for value, kind, due in ((True, int, "whole"), (1, bool, "True or False"), ("image", tuple[str, ...], "a list")):
        with pytest.raises(InputError, match=due):
            conform("x", value, kind)


@pytest.mark.filterwarnings("ignore::UserWarning")  # they say what is odd
def test_every_public_verb_answers_an_odd_argument_or_says_what_is_wrong(trained, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    raw = []
    for name, verb, usual in verbs(trained):
        for argument in inspect.signature(verb).parameters:
            for value in ODD:
                given = {**usual, argument: value}
                try:
                    verb(**given)
                except InputError as error:
                    assert "\n" not in str(error) or "\n" in repr(value)
                except Exception as error:
                    raw.append(f"{name}({argument}={value!r}): {type(error).__name__}: {error}"[:200])
    assert raw == []


def test_what_a_cell_shows_is_short_and_an_error_is_its_sentence(trained):
    assert repr(trained).startswith("M6Rec, ") and "pretrain: 2 epochs" in repr(trained)
    log = trained.stages["pretrain"]
    assert len(repr(log).splitlines()) == 1 + len(log) and "<td>" in log._repr_html_()
    assert "ndcg@10" in repr(found := m6rec.evaluate(trained, trained.data)) and "ndcg@10" in found._repr_html_()
    assert InputError("why.")._render_traceback_() == ["InputError: why."]


def test_a_model_travels_over_the_hub(trained, monkeypatch, tmp_path):
    """The Hub stands still in a folder; what is not there ends in a sentence."""
    import huggingface_hub as hub

    def up(repo_id: str, folder_path: str, token: str | None) -> Path:
        return shutil.copytree(folder_path, tmp_path / repo_id)

    def down(repo_id: str, revision: str | None) -> Path:
        if not (tmp_path / repo_id).exists():
            raise OSError("404\nmuch more")
        return tmp_path / repo_id

    monkeypatch.setattr(hub, "create_repo", lambda *_, **__: None)
    monkeypatch.setattr(hub, "upload_folder", up)
    monkeypatch.setattr(hub, "snapshot_download", down)
    trained.push_to_hub("me/films")
    again = M6Rec.from_pretrained("me/films", trained.data, revision="main")
    assert again.recommend(100, k=5).equals(trained.recommend(100, k=5))
    with pytest.raises(InputError, match=r"me/none.*404\.$"):
        M6Rec.from_pretrained("me/none", trained.data)


def test_an_interrupted_training_says_how_it_goes_on(tmp_path, caplog):
    def stop(_: object) -> None:
        raise KeyboardInterrupt

    model = small_model()
    with pytest.raises(KeyboardInterrupt):
        model.pretrain(folder=str(tmp_path / "run"), on_epoch=stop)
    assert "resume=True goes on from" in caplog.text


def test_generated_tables_and_requests_are_answered_or_refused(trained):
    counts, wrong = fuzz(300, model=trained)
    assert not wrong, "\n".join(wrong[:5])
    assert min(counts["answered"], counts["refused"]) > 30  # neither all good nor all odd


def test_an_error_is_one_bounded_line_whatever_it_quotes():
    said = str(InputError("title=\x1b[31m\n" + "x" * 50_000 + ": write it in full."))
    assert (
        len(said) < 1_000 and said.isprintable() and said.startswith("title= ") and said.endswith("write it in full.")
    )
    assert str(pickle.loads(pickle.dumps(InputError(said)))) == said
