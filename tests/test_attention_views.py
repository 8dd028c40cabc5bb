"""Views of an attention record: what they draw is the record, and what is no record is refused in a sentence."""

from __future__ import annotations

import base64

import numpy as np
import pytest
import torch
from fixtures import HOSTILE

from m6rec.config import InputError
from m6rec.explain.explainers import Record
from m6rec.view import figures, page
from m6rec.view.figures import drawable, plain
from m6rec.view.widgets import HeadsAndLayers

VIEWS = tuple(figures.VIEWS)


def record(layers: int = 3, heads: int = 2, events: int = 4, titles: tuple[str, ...] = ()) -> Record:
    """Another model's: its own number of layers, tokens that see what came before them, a last layer that asks only."""
    labels = ["start", "age 30", *(titles or [f"Film {i}" for i in range(events)]), "hour 21", "next item"]
    kinds = ["start", "profile", *["history"] * (len(labels) - 4), "request", "target"]
    n = len(labels)
    weights = np.tril(np.random.default_rng(0).random((layers, heads, n, n)))
    weights[:, :, -1, -1] = 0
    weights /= weights.sum(-1, keepdims=True)
    weights[-1, :, :-1] = np.eye(n)[:-1]
    return Record(labels, kinds, np.arange(n), weights, np.zeros(9))


def test_a_layer_and_head_are_shown_as_recorded_and_rows_that_no_layer_computes_are_left_out_of_means():
    look = record()
    np.testing.assert_allclose(figures.attention_map(look, "x", layer=1, head=2).data, look.weights[0, 1])
    last = figures.attention_map(look, "x", layer=3, head=1).data.to_numpy()
    assert np.isnan(last[:-1]).all() and not np.isnan(last[-1]).any()
    assert figures.attention_map(look, "x", layer=1).data.iloc[0].tolist() == [1] + [0] * 7
    mean = figures.attention_map(look, "x").data.to_numpy()
    np.testing.assert_allclose(mean[3], look.weights[:2, :, 3].mean((0, 1)))  # of the two layers that compute the row
    np.testing.assert_allclose(mean[-1], look.weights[:, :, -1].mean((0, 1)))


def test_groups_hold_all_of_the_targets_attention():
    look = record()
    whole = figures.attention_map(look, "x", "groups").data
    np.testing.assert_allclose(whole.to_numpy().sum(1), 1)
    np.testing.assert_allclose(whole["history"], look.weights[:, :, -1, 2:6].sum(-1).ravel())


def test_rollout_follows_two_layers_as_a_person_would():
    weights = np.zeros((2, 1, 3, 3))
    weights[0, 0] = [[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0]]
    weights[1, 0] = [[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0]]
    look = Record(["start", "Fargo", "next item"], ["start", "history", "target"], np.arange(3), weights, np.zeros(2))
    # Layer 2: a quarter to each token, half stays. Layer 1: Fargo is ¾ itself and ¼ start; the target is ½ Fargo.
    np.testing.assert_allclose(
        figures.attention_map(look, "x", "rollout").data.to_numpy(), [[0, 1], [0.3125 / 0.75, 0.4375 / 0.75]]
    )


def test_every_attention_view_says_that_it_shows_where_and_not_why():
    look = record()
    for view in VIEWS:
        picture = figures.attention_map(look, "A finding", view)
        assert "where the model attended, which is not yet why" in picture.alt
        assert "which is not yet why" in picture.figure.axes[0].get_title(loc="left")


def test_folded_and_long_records_are_drawn_without_names_that_cannot_be_read():
    long = record(layers=1, heads=1, events=90)
    assert not figures.attention_map(long, "x").figure.axes[0].get_yticks().size
    assert len(figures.attention_map(long.fold(5), "x").data) == 10


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda r: r._replace(labels=r.labels[1:]), "7 tokens need a type each and weights of .layers, heads, 7, 7"),
        (lambda r: r._replace(weights=r.weights[0]), "weights of .layers, heads, "),
        (lambda r: r._replace(types=r.types[1:]), "a type each"),
        (lambda r: r._replace(weights=r.weights * 2), "whose rows sum to 1"),
        (lambda r: r._replace(weights=r.weights * np.nan), "whose rows sum to 1"),
    ],
)
def test_what_is_no_record_is_refused(wrong, said):
    for view in VIEWS:
        with pytest.raises(InputError, match=said):
            figures.attention_map(wrong(record()), "x", view)


def test_a_layer_or_head_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(InputError, match='layer="4" is unknown: take one of 0, 1, 2, 3'):
        figures.attention_map(record(), "x", layer=4)
    with pytest.raises(InputError, match='head="7" is unknown: take one of 0, 1, 2'):
        figures.attention_map(record(), "x", head=7)
    with pytest.raises(InputError, match='layer="-1" is unknown'):
        figures.attention_map(record(), "x", "target", layer=-1)


def test_hostile_titles_are_drawn_in_every_view_without_a_warning():
    look = record(titles=HOSTILE)
    for view in VIEWS:
        assert figures.attention_map(look, HOSTILE[0] + HOSTILE[6], view).png().startswith(b"\x89PNG")
    for title in HOSTILE:
        assert figures.contributions(np.ones(len(HOSTILE)), HOSTILE, title).png()
        assert len(drawable(title, 30).replace(r"\$", "$")) <= 30
    assert plain("\x1b[31m\u202eevil\n") == " [31m evil "
    assert drawable("\U00013000 $5") == r"□ \$5"  # neither font has hieroglyphs


def test_contributions_are_in_order_of_size_and_signed():
    data = figures.contributions(np.array([0.1, -2.0, 1.0]), ["a", "b", "c"], "x").data
    assert data["token"].tolist() == ["b", "c", "a"] and data["contribution"].tolist() == [-2.0, 1.0, 0.1]


def test_any_models_attention_is_a_record_and_hugging_face_gives_its_tuple():
    rng = torch.Generator().manual_seed(0)
    layers = tuple(torch.rand(2, 3, 4, 4, generator=rng).softmax(-1) for _ in range(5))  # of a batch of two
    look = Record.from_tensors(["a", "b", "c", 7], layers, row=1)
    np.testing.assert_allclose(look.weights, torch.stack(layers)[:, 1], atol=1e-6)
    assert look.labels == ["a", "b", "c", "7"] and set(look.types) == {"token"}
    half = Record.from_tensors("abcd", tuple(layer.bfloat16() for layer in layers))
    np.testing.assert_allclose(half.weights.sum(-1), 1, atol=1e-6)
    assert Record.from_tensors("abcd", layers[0][0, 0]).weights.shape == (1, 1, 4, 4)
    assert Record.from_tensors("abcd", layers[0][0].numpy()).weights.shape == (1, 3, 4, 4)
    for view in VIEWS:
        assert figures.attention_map(look, "x", view, layer=1).spec["shape"] == [5, 3, 4]


@pytest.mark.parametrize(
    ("tokens", "weights", "said"),
    [
        ("abc", torch.full((1, 4, 4), 0.25), "3 tokens need"),
        ("abcd", torch.rand(2, 4, 4), "after the softmax"),
        ("abcd", torch.full((4, 4), float("nan")), "without NaN"),
        ("abcd", [torch.full((4, 4), 0.25), torch.full((1, 4, 4), 0.25)], "no attention of one pass"),
        ("abcd", ((torch.rand(1, 2, 4, 4),),), "tuple of one forward pass"),  # of generate(): a tuple a step
        ("abcd", [None], "no attention of one pass"),
        ("abcd", 7, "no attention of one pass"),
        ("a", torch.ones(1, 1), "1 tokens need"),
    ],
)
def test_what_is_no_attention_is_refused_in_a_sentence(tokens, weights, said):
    with pytest.raises(InputError, match=said):
        Record.from_tensors(tokens, weights)
    with pytest.raises(InputError, match="a row that it has"):
        Record.from_tensors("abcd", (torch.full((2, 3, 4, 4), 0.25),), row=2)


def test_five_thousand_tokens_are_folded_or_refused_and_ten_thousand_characters_cut():
    events = record(layers=1, heads=1, events=300)
    assert len(HeadsAndLayers(events).widget.spec["tokens"]) == 21
    with pytest.raises(InputError, match=r"at most 256 .*record\.fold"):
        HeadsAndLayers(events, recent=300)
    with pytest.raises(InputError, match="5000 tokens"):
        HeadsAndLayers(Record.from_tensors(range(5000), torch.full((1, 1, 1, 1), 1 / 5000).expand(1, 1, 5000, 5000)))
    long = record(titles=("x" * 10_000, "مرحبا بالعالم", "日本語 🎬", "<b>$x$</b>"))
    assert max(map(len, HeadsAndLayers(long).widget.spec["tokens"])) == 80


def test_eight_bits_keep_two_digits_of_small_weights_signs_and_gaps():
    values = np.array([[0.002, 0.015, 0.3, 0.683], [np.nan, 0, 1, 0]])
    for signed in (False, True):
        given = values * [1, -1, 1, 1] if signed else values
        code = page.encode(given, signed)
        q = np.frombuffer(base64.b64decode(code["q"]), np.uint8).astype(float)
        back = np.sign(q - 127) * code["top"] * ((q - 127) / 127) ** 2 if signed else code["top"] * (q / 254) ** 2
        np.testing.assert_allclose(np.where(q == 255, np.nan, back).reshape(2, 4), given, rtol=0.1, atol=0.0005)
    assert page.encode(np.zeros(3))["top"] == 1 and page.encode(np.full(2, np.nan))["top"] == 1


def test_a_view_is_saved_as_a_page_a_vector_figure_or_refused(tmp_path):
    panel = HeadsAndLayers(record(), "A view").goto(view="target", layer=2)
    assert panel.data.index.tolist() == ["layer 2, head 1", "layer 2, head 2"]
    assert panel.goto(head=2).data.index.tolist() == ["layer 2, head 2"]
    text = panel.save(tmp_path / "a.html").read_text(encoding="utf-8")
    assert text.count('class="m6rec-view" data-view=') == 1 and "default-src 'none'" in text
    assert b"<text" in panel.save(tmp_path / "a.svg").read_bytes(), "texts stay texts"
    again = HeadsAndLayers(record(), "A view").goto(view="target", layer=2, head=2).save(tmp_path / "b.svg")
    assert again.read_bytes() == (tmp_path / "a.svg").read_bytes()
    assert panel.save(tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(InputError, match=r'suffix=".gif" is unknown: take one of .svg, .pdf, .png, .html'):
        panel.save(tmp_path / "a.gif")
