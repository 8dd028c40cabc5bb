"""Pictures of items: what they draw is what they were given."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

import m6rec
from m6rec.data import image
from m6rec.explain.explainers import Reconstruction
from m6rec.view import figures
from m6rec.view.figures import Picture


def drawn(picture: Picture, place: int) -> np.ndarray:
    """What stands in one of a picture's axes."""
    return np.ma.filled(picture.figure.axes[place].images[0].get_array().astype(float), np.nan)


def test_a_sheet_shows_each_photograph_over_its_own_title():
    data = m6rec.load("bazaar")
    codes = [3, 1600, 7]
    picture = figures.sheet(data, codes, "Garments")
    for place, code in enumerate(codes):
        row = data.items.iloc[code]
        np.testing.assert_allclose(drawn(picture, place), image.decode(data.media.read(row["image"])))
        assert picture.figure.axes[place].get_xlabel().split()[0] == row["title"].split()[0]


def test_rows_of_images_are_drawn_as_they_are_however_many_they_hold():
    pixels, mel = np.random.default_rng(0).random((1, 28, 28)), np.random.default_rng(1).random((2, 32, 4))
    picture = figures.image_rows({"photo": ("image", pixels), "sound": ("sound", mel)}, "A $ bell", below=["$", "bell"])
    np.testing.assert_array_equal(drawn(picture, 0), pixels[0])
    np.testing.assert_array_equal([drawn(picture, 2), drawn(picture, 3)], mel)
    np.testing.assert_allclose(picture.data.loc["sound"], mel.mean((1, 2)))
    assert picture.alt == "A $ bell. Rows: photo, sound; 2 columns."
    assert picture._repr_mimebundle_()[0]["image/png"]  # one dollar would otherwise begin a formula


def test_weights_of_patches_lie_over_the_lines_that_have_them():
    pixels, grid = np.zeros((2, 28, 28)), np.random.default_rng(0).random((2, 4, 4))
    picture = figures.image_rows({"photo": ("image", pixels), "plain": ("image", pixels)}, "", over={"photo": grid})
    over = [ax.images[1].get_array() for ax in picture.figure.axes[:2]]
    np.testing.assert_array_equal(over, grid)
    first, second = picture.figure.axes[0].images
    assert first.get_extent() == second.get_extent() and second.norm.vmax == grid.max()
    assert len(picture.figure.axes[2].images) == 1


def test_a_view_of_patches_has_each_columns_weights_and_the_picture_as_it_is_drawn():
    rng = np.random.default_rng(0)
    photo, mel, grid, frames = rng.random((28, 28)), rng.random((32, 32)), rng.random((2, 4, 4)), rng.random((2, 1, 8))
    rows = {"photo": ("image", [photo] * 2), "sound": ("sound", [mel] * 2)}
    over = {"sound": frames, "photo": grid}
    spec = figures.image_rows(rows, "Words", below=["<b>", "$x$"], over=over).spec
    code = np.frombuffer(base64.b64decode(spec["q"]), np.uint8).astype(float)
    found = spec["top"] * (code / 254) ** 2
    np.testing.assert_allclose(found.reshape(2, 24), np.hstack([grid.reshape(2, 16), frames[:, 0]]), atol=0.01)
    assert spec["tokens"] == ["<b>", "$x$"] and [part["grid"] for part in spec["pictures"]] == [(4, 4), (1, 8)]
    held = [base64.b64decode(part["png"]) for part in spec["pictures"]]
    shown, heard = (np.asarray(Image.open(io.BytesIO(one)).convert("RGB")) / 255 for one in held)
    np.testing.assert_allclose(shown[..., 0], photo, atol=0.01)
    assert np.corrcoef(heard.sum(2).ravel(), mel[::-1].ravel())[0, 1] > 0.9  # low bands at the foot
    assert figures.image_rows(rows, "Alone", below=["a", "b"]).spec is None


def test_restored_patches_stand_in_the_gaps_and_nowhere_else():
    rng = np.random.default_rng(0)
    true, new = (image.patches(rng.random((2, 28, 28))) for _ in range(2))
    hidden = np.zeros((2, 16), bool)
    hidden[:, :5] = True
    picture = figures.reconstructions({"image": Reconstruction(true, new, hidden)}, "Restored")
    seen, filled, whole = (image.patches(drawn(picture, place)[None])[0] for place in (0, 2, 4))
    assert np.isnan(seen[:5]).all() and not np.isnan(seen[5:]).any()
    np.testing.assert_allclose(filled, np.concatenate([new[0, :5], true[0, 5:]]))
    np.testing.assert_allclose(whole, true[0])
    assert [ax.get_ylabel() for ax in picture.figure.axes[::2]] == [
        f"image, {name}" for name in ("visible", "reconstructed", "true")
    ]


def test_masks_are_drawn_as_they_are():
    maps = {"joint": np.ones((2, 2), bool), "gated": np.eye(2, dtype=bool)}
    picture = figures.mask_map(maps, ["text", "image"], "Masks")
    np.testing.assert_array_equal(drawn(picture, 1), np.eye(2))
    assert picture.data["gated"].to_numpy().tolist() == [[True, False], [False, True]]
    assert picture.alt.endswith("joint 100%, gated 50%.")
    assert "yellow: may attend, dark blue: masked" in picture.figure.get_supxlabel()
    alone = figures.mask_map({"": np.eye(2, 3, dtype=bool)}, ["a", "b"], "One mask", keys=["x", "y", "z"])
    assert alone.data.loc["b"].tolist() == [False, True, False] and "33%" in alone.alt
