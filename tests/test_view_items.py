"""Pictures of items: what they draw is what they were given."""

from __future__ import annotations

import numpy as np
import pandas as pd

import m6rec
from m6rec.data import image, sound
from m6rec.data.features import Features
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
    assert picture.data["title"].tolist() == data.items["title"].iloc[codes].tolist()


def test_a_title_with_markup_stays_a_title_beside_a_player():
    page = figures.Player(b"abc", '<script>"bell" & drum')._repr_html_()
    assert "<script>" not in page and "&lt;script&gt;&quot;bell&quot; &amp; drum" in page
    assert "data:audio/flac;base64,YWJj" in page


def test_patches_show_the_whole_photograph_and_count_the_tokens():
    rng = np.random.default_rng(0)
    pixels, mel = rng.random((1, 28, 28), np.float32), rng.random((1, 32, 32), np.float32)
    parts = Features(np.ones((1, 4), int), image.patches(pixels), sound.patches(mel), np.ones((1, 3), bool))
    picture = figures.patches(parts, ["$", "bell"], "A bell")
    np.testing.assert_array_equal(drawn(picture, 0), pixels[0])
    np.testing.assert_array_equal(drawn(picture, 1), mel[0])
    assert picture.data["tokens"].to_dict() == {"text": 2, "image": 16, "sound": 8}
    assert picture._repr_mimebundle_()[0]["image/png"]  # one dollar would otherwise begin a formula


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
    np.testing.assert_allclose(picture.data["image"], ((new - true) ** 2)[:, :5].mean((1, 2)))


def test_each_column_of_numbers_has_colours_of_its_own_unless_they_share_an_end():
    table = pd.DataFrame({"warm": [0.2, 0.1], "cold": [0.02, 0.01]}, index=["all", "text"])
    np.testing.assert_allclose(drawn(figures.number_map(table, "Worth"), 0), [[1, 1], [0.5, 0.5]])
    np.testing.assert_allclose(drawn(figures.number_map(table, "Worth", top=1.0), 0), table.to_numpy())
    shown = {text.get_text() for text in figures.number_map(table, "Worth").figure.axes[0].texts}
    assert shown == {"0.200", "0.100", "0.020", "0.010"}


def test_masks_are_drawn_as_they_are():
    maps = {"joint": np.ones((2, 2), bool), "gated": np.eye(2, dtype=bool)}
    picture = figures.mask_map(maps, ["text", "image"], "Masks")
    np.testing.assert_array_equal(drawn(picture, 1), np.eye(2))
    assert picture.data["gated"].to_numpy().tolist() == [[True, False], [False, True]]
    assert picture.alt.endswith("joint 100%, gated 50%.")
    legend = [text.get_text() for text in picture.figure.legends[0].get_texts()]
    assert legend == ["may attend", "masked"]
    alone = figures.mask_map(np.eye(2, 3, dtype=bool), ["a", "b"], "One mask", keys=["x", "y", "z"])
    assert alone.data.loc["b"].tolist() == [False, True, False] and "33%" in alone.alt


def test_shares_found_are_averaged_where_the_truth_is_alike():
    true = np.array([[0.9, 0.1], [0.95, 0.05], [0.3, 0.7]])
    found = np.array([[0.8, 0.2], [0.6, 0.4], [0.4, 0.6]])
    data = figures.shares_found(true, found, ["text", "image"], "Shares").data
    np.testing.assert_allclose([data["text"].iloc[-1], data["image"].iloc[0]], [0.7, 0.3])  # the two who go by the text
    assert data["text"].notna().sum() == 2
