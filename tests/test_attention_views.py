"""Views of an attention record: what they draw is the record, and what is no record is refused in a sentence."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures import HOSTILE

from m6rec.config import InputError
from m6rec.explain.explainers import Record
from m6rec.view import figures
from m6rec.view.figures import drawable, plain

VIEWS = ("tokens", "target", "groups", "rollout")


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
        (lambda r: r._replace(labels=r.labels[1:]), "weights .layers, heads, "),
        (lambda r: r._replace(weights=r.weights[0]), "weights .layers, heads, "),
        (lambda r: r._replace(types=["film", *r.types[1:]]), "8 types of start, profile, .*"),
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
