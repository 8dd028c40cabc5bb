"""The losses of the first three training steps of every recipe, held to what they were: a change of code moves none.

`python tests/test_golden.py --write` writes golden.json anew: only with the reason in the commit.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from fixtures import CONFIG, SEGMENTS, TEXT, small_data
from tiger import Tiger

import m6rec
from m6rec.baselines import ESASRec, GRU4Rec, SASRec, din
from m6rec.config import FUSIONS, Config
from m6rec.data.prompts import SCALES, ClickWindows, Domain, Ratings, domain
from m6rec.data.text import Tokenizer
from m6rec.train import text as text_training
from m6rec.train.compress import Variants

FILE = Path(__file__).with_name("golden.json")
STEPS = 3
DEVICE = os.environ.get("M6REC_DEVICE", "cpu")  # test_device.py runs the same recipes on another one
SMALL = {"width": 16, "heads": 2, "joint_layers": 2, "device": DEVICE}
CLASSES = ("disliked", "liked")


class Enough(Exception):
    """So many steps as are compared."""


def losses(train: Callable[[], object]) -> list[float]:
    """The total loss of the first steps of whatever `train` trains: what `backward` is called on."""
    seen: list[float] = []
    backward = torch.Tensor.backward

    def watched(self: torch.Tensor, *args: object, **options: object) -> None:
        seen.append(float(self.detach()))
        backward(self, *args, **options)
        if len(seen) == STEPS:
            raise Enough

    torch.Tensor.backward = watched
    try:
        train()
    except Enough:
        pass
    finally:
        torch.Tensor.backward = backward
    return seen


@cache
def bazaar() -> m6rec.Dataset:
    return m6rec.load("bazaar").subset(20)


@cache
def rated() -> m6rec.Dataset:
    """The made-up data with genres."""
    data = small_data()
    items = data.items[["item_id", "title", "text"]].assign(
        genres=np.resize(["drama", "comedy war", "war"], len(data.items))
    )
    events = data.events.assign(
        user_id=data.users["user_id"].to_numpy()[data.events["user"]],
        item_id=data.items["item_id"].to_numpy()[data.events["item"]],
    )[["user_id", "item_id", "timestamp", "value"]]
    return m6rec.Dataset.from_frames(items, data.users, events, name="circles")


@cache
def opinions() -> Ratings:
    return Ratings(rated(), held=0.2)


def unrated() -> Domain:
    return opinions().unrated().only(opinions().is_train)


def model(data: m6rec.Dataset, **changes: object) -> m6rec.M6Rec:
    start = {"spectral": 0.0, "recency": 0.0, "smoothing": 0.2}  # most recipes are older than the presets' own
    sizes = {"pretrain_epochs": 1, "finetune_epochs": 1, "device": DEVICE}
    return m6rec.M6Rec(data, "small", **{**CONFIG, **start, **sizes, **changes})


def pretraining(data: m6rec.Dataset, **changes: object) -> list[float]:
    return losses(model(data, **changes).pretrain)


def digits(**changes: object) -> list[float]:
    one = model(small_data(), **changes)
    one.pretrain()
    return losses(one.fine_tune)


CONTENT = {"infill_weight": 0.2, "patch_weight": 0.2, "align_weight": 0.1}


def items() -> list[float]:
    """Infilling, patches and alignment, before any event."""
    return pretraining(bazaar(), item_epochs=1, local_layers=2, **CONTENT)


def jointly() -> list[float]:
    """Contents and prompts beside the events."""
    return pretraining(bazaar(), identity=False, text_weight=0.2, **CONTENT)


def events_and_content(fusion: str) -> list[float]:
    return pretraining(bazaar(), fusion=fusion, **CONTENT)


def text_config() -> Config:
    return text_training.config(**TEXT, device=DEVICE)


def noise(_: object, tokenizer: Tokenizer, width: int, seed: int, **__: object) -> torch.Tensor:
    """In place of singular vectors, which follow the processor where singular values are nearly equal."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((len(tokenizer), width)) / width**0.5).float()


evenly = patch.multiple("m6rec.train.text", cooccurrence_init=noise)
evenly_too = patch.multiple("m6rec.train.compress", cooccurrence_init=noise)


@evenly
def text(of: Callable[[], Domain] = lambda: domain(bazaar()), **options: object) -> list[float]:
    return losses(lambda: text_training.pretrain([of()], text_config(), **options))


@cache
@evenly
def backbone() -> text_training.Backbone:
    config = text_training.config(**{**TEXT, "vocabulary": 400}, device=DEVICE)
    return text_training.add_words(text_training.pretrain([unrated()], config), SCALES)


def fine_tuning(whole: bool) -> list[float]:
    known = domain(rated())
    made, texts = backbone(), list(known.windows(np.random.default_rng(0)))
    return losses(lambda: text_training.fine_tune(made, texts, items=list(known.items) if whole else None))


def adaptation(method: str) -> list[float]:
    known, made = opinions(), backbone()
    rows = np.random.default_rng(0).permutation(known.train)[:40]
    examples = text_training.examples(made.tokenizer, known.texts(rows), known.liked[rows])
    return losses(lambda: text_training.adapt(made, method, examples, CLASSES, batch=16))


@cache
def segmented() -> ClickWindows:
    return ClickWindows(rated(), length=6, history=4, vocabulary=300, held=2, candidates=4)


def variants() -> Variants:
    return Variants(segmented(), Config(**{**SEGMENTS.to_dict(), "device": DEVICE}), steps=10, tune=10)


@evenly_too
def segments(network: Callable[[Variants], object], before: Callable[[Variants], object] | None = None) -> list[float]:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as home:
        patch.setenv("M6REC_HOME", home)  # nothing comes from a cache
        one = variants()
        if before:
            before(one)
        return losses(lambda: network(one))


@cache
def trained() -> tempfile.TemporaryDirectory:
    """A cache with the network of full depth, from which others are made."""
    home = tempfile.TemporaryDirectory()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("M6REC_HOME", home.name)
        variants().full()
        variants()._base(2, 32, shared=True, embedding_size=6)  # the student's
    return home


@evenly_too
def from_full(network: Callable[[Variants], object]) -> list[float]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("M6REC_HOME", trained().name)
        return losses(lambda: network(variants()))


def sequential(kind: type, **options: object) -> list[float]:
    config = Config(**SMALL, history=8, pretrain_epochs=1, validate_every=1, batch=16)
    data = small_data()
    return losses(lambda: kind(config, **options).fit(data, data.split()))


@patch("tiger.semantic_ids", lambda vectors, *_: np.arange(len(vectors))[:, None] // [16, 4, 1] % 4)
def tiger() -> list[float]:
    """With digits that do not follow the processor, as those of equal singular vectors do."""
    return sequential(Tiger, codes=4)


def likes() -> list[float]:
    known = opinions()
    return losses(lambda: din(known, known.test))


RECIPES: dict[str, Callable[[], list[float]]] = {
    "items": items,
    **{f"events and content, {way}": lambda way=way: events_and_content(way) for way in FUSIONS},
    "jointly": jointly,
    "events": lambda: pretraining(small_data()),
    "events, from the count": lambda: pretraining(small_data(), spectral=0.1, recency=0.8, infill_weight=0.0),
    "events, derived features": lambda: pretraining(bazaar(), derived_features=("season", "session", "pace", "tastes")),
    "events, sampled": lambda: pretraining(small_data(), negatives=8),
    "digits": digits,
    "digits, smoothed": lambda: digits(smoothing=0.2, infill_weight=0.0),
    "digits, sampled": lambda: digits(negatives=8),
    "text": text,
    "text, whole catalogue": lambda: text(whole=True),
    "text, unrated": lambda: text(unrated),
    "text, fine-tuned": lambda: fine_tuning(False),
    "text, fine-tuned, whole catalogue": lambda: fine_tuning(True),
    **{f"likes, {method}": lambda method=method: adaptation(method) for method in text_training.METHODS},
    "segments": lambda: segments(lambda variants: variants.full()),
    "segments, tuned": lambda: segments(lambda variants: variants.full(), lambda variants: variants.late(2)),
    "segments, late": lambda: from_full(lambda variants: variants.late(2)),
    "segments, shallow": lambda: segments(lambda variants: variants.shallow(2)),
    "segments, student": lambda: from_full(lambda variants: variants.edge(2)),
    "segments, pruned": lambda: from_full(lambda variants: variants.pruned()),
    "likes, DIN": likes,
    "SASRec": lambda: sequential(SASRec),
    "GRU4Rec": lambda: sequential(GRU4Rec),
    "eSASRec": lambda: sequential(ESASRec, negatives=8),
    "TIGER": tiger,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Sums in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("recipe", RECIPES)
def test_first_losses_are_what_they_were(recipe):
    found, expected = RECIPES[recipe](), json.loads(FILE.read_text())[recipe]
    assert len(found) == STEPS
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_every_loss_could_be_told_from_none():
    golden = json.loads(FILE.read_text())
    assert set(golden) == set(RECIPES)
    for recipe, values in golden.items():
        assert min(map(abs, values)) > 0.01 and len(set(values)) == STEPS, recipe


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("python tests/test_golden.py --write")
    torch.set_num_threads(1)
    os.environ["M6REC_HOME"] = os.environ.get("M6REC_HOME", tempfile.mkdtemp())
    FILE.write_text(
        json.dumps({name: [round(loss, 6) for loss in recipe()] for name, recipe in RECIPES.items()}, indent=1) + "\n"
    )
