"""The autoencoder's photographs are whole, and cross-entropy is no loss for them."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch
from torch.nn.functional import cross_entropy, mse_loss

from m6rec.data import image, photographs, sources
from m6rec.errors import InputError
from m6rec.view.figures import photograph_rows

GZIPS = sources.SOURCES["fashion-mnist"].routes[0].files


@pytest.fixture(scope="module")
def garments() -> torch.Tensor:
    """(320, 784): bazaar's held-out photographs, enough to learn something in a second."""
    return torch.from_numpy(photographs(part="test", source="bazaar").pixels)


def test_cross_entropy_costs_a_perfect_copy_more_than_a_wrong_drawing_and_cannot_see_brightness(garments):
    copy, glaring = cross_entropy(garments, garments), cross_entropy(4 * garments, garments)
    assert glaring < copy and mse_loss(4 * garments, garments) > 1
    torch.testing.assert_close(cross_entropy(garments + 0.5, garments), copy)


# ------------------------------------------------------------------------------------------------ the photographs


def test_bazaar_s_photographs_are_split_four_to_one_with_none_in_both_parts():
    train, test = photographs(source="bazaar"), photographs(part="test", source="bazaar")
    assert len(train.images) == 4 * len(test.images) and train.images.shape[1:] == (28, 28)
    assert {x.tobytes() for x in train.images}.isdisjoint({x.tobytes() for x in test.images})
    assert set(train.labels) == set(test.labels) == set(range(10))


def test_a_photograph_and_its_label_belong_to_one_item():
    part = photographs(source="bazaar")
    data = sources.load("bazaar")
    items, media = data.items.dropna(subset="image"), data.media
    found = {
        (image.decode(media.read(r.image)) * 255).round().astype(np.uint8).tobytes(): r for r in items.itertuples()
    }
    of = zip(part.images[:5], part.labels, strict=False)
    assert all(found[x.tobytes()].category == part.names[label] for x, label in of)
    assert part.pixels.dtype == np.float32 and part.pixels.max() == 1


@pytest.fixture
def small(tmp_path, monkeypatch) -> tuple[Path, dict[str, np.ndarray]]:
    """A tiny Fashion-MNIST in the original's format: a folder with its four files, and what is in them."""
    monkeypatch.setenv("M6REC_HOME", str(tmp_path / "home"))
    folder, rng, content = tmp_path / "fashion-mnist", np.random.default_rng(0), {}
    folder.mkdir()
    for part, count in (("train", 6), ("t10k", 3)):
        images, labels = rng.integers(0, 256, (count, 28, 28), np.uint8), rng.integers(0, 10, count, np.uint8)
        heads = struct.pack(">IIII", 2051, count, 28, 28), struct.pack(">II", 2049, count)
        for kind, head, array in zip(("images-idx3", "labels-idx1"), heads, (images, labels), strict=True):
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))
        content[part] = images, labels
    return folder, content


def test_fashion_mnist_is_read_from_its_four_files(small, monkeypatch):
    folder, content = small
    monkeypatch.setenv("M6REC_MIRROR", str(folder.parent))
    route = sources.Route("https://127.0.0.1:1/", {name: pooch.file_hash(folder / name) for name in GZIPS})
    monkeypatch.setitem(sources.SOURCES, "fashion-mnist", sources.Source("made up", (route,)))
    for part, name in (("train", "train"), ("test", "t10k")):
        got = photographs(part=part)
        assert np.array_equal(got.images, content[name][0]) and np.array_equal(got.labels, content[name][1])


def test_without_network_one_sentence_says_what_to_do(small, monkeypatch):
    monkeypatch.delenv("M6REC_MIRROR", raising=False)
    dead = sources.Route("http://127.0.0.1:1/", GZIPS)
    monkeypatch.setitem(sources.SOURCES, "fashion-mnist", sources.Source("made up", (dead,)))
    with pytest.raises(InputError, match=r"does not answer .*Put train-images-idx3-ubyte\.gz .*M6REC_MIRROR"):
        photographs()


@pytest.mark.parametrize(("options", "message"), [({"part": "valid"}, "part='valid'"), ({"source": "x"}, "source='x'")])
def test_an_unknown_part_or_source_lists_the_known_ones(options, message):
    with pytest.raises(InputError, match=f"{message} .*; use '"):
        photographs(**options)


def test_the_photographs_are_no_dataset_and_load_says_where_they_are():
    with pytest.raises(InputError, match=r"no events; use m6rec\.data\.photographs\(\)"):
        sources.load("fashion-mnist")


def test_rows_of_photographs_carry_their_errors(garments):
    squares = garments[:3].view(-1, 28, 28).numpy()
    picture = photograph_rows({"photograph": squares, "darker": squares / 2}, "half the light")
    np.testing.assert_allclose(picture.data.loc["photograph"], 0)
    np.testing.assert_allclose(picture.data.loc["darker"], ((squares / 2) ** 2).mean((1, 2)), rtol=1e-5)
    assert picture.alt == "half the light. Rows: photograph, darker; 3 photographs."
