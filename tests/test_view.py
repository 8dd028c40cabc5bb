"""The figures: what they draw is what they were given."""

from __future__ import annotations

import numpy as np
import pandas as pd

from m6rec.evaluate import Interval
from m6rec.record import Figure
from m6rec.view.figures import attention_rows, comparison, curves, rank_moves


def test_two_films_of_one_title_stand_where_the_title_is_met_first():
    picture = rank_moves(["Chasing Amy", "Fargo", "Chasing Amy"], ["Fargo", "Alien"], ("morning", "evening"), "Moves")
    assert picture.data["morning"].dropna().to_dict() == {"Chasing Amy": 1, "Fargo": 2}
    assert picture.data["evening"].dropna().to_dict() == {"Fargo": 1, "Alien": 2}


def test_an_attention_map_keeps_its_weights_under_the_names_of_rows_and_tokens():
    weights = np.array([[0.75, 0.25], [0.5, 0.5], [0.0, 1.0]])
    table = pd.DataFrame(weights, ["21 h", "9 h", "difference"], ["Fargo", "hour 21"])
    picture = attention_rows(table, "Attention")
    assert picture.data.loc["difference", "hour 21"] == 1
    ticks = picture.figure.axes[0].get_yticklabels()
    assert [tick.get_text() for tick in ticks] == ["21 h", "9 h", "difference"]
    assert "Fargo" not in picture.alt  # titles come from trained models' lists, and alternative texts are compared


def test_one_token_that_stands_for_many_does_not_dim_the_others():
    weights = np.array([[0.9, 0.06, 0.04]])
    ends = [
        attention_rows(pd.DataFrame(weights, ["head 1"], [first, "Fargo", "hour 21"]), "Attention")
        .figure.axes[0]
        .images[0]
        for first in ("start", "31 earlier events")
    ]
    assert [image.get_clim() for image in ends] == [(0, 0.9), (0, 0.06)]


def test_methods_are_named_in_words_and_figures_keep_their_keys():
    picture = comparison({"m6rec_no_prior": Interval(0.12, 0.11, 0.13, 9, 1)}, "Leads")
    assert [tick.get_text() for tick in picture.figure.axes[0].get_yticklabels()] == ["m6rec no prior"]
    assert picture.data.index.tolist() == ["m6rec_no_prior"]
    recorded = comparison({"m6rec_no_prior": Figure("a.name", 0.12, 0.11, 0.13, 9, 1)}, "Leads")
    assert recorded.data.equals(picture.data), "what is recorded is shown as it is"


def test_curves_keep_their_numbers_and_notes_and_a_dollar_starts_no_formula():
    ways = {"late": ([1.0, 2.0], [0.6, 0.7]), "full": ([9.0], [0.75])}
    picture = curves(ways, "Half the time for $5 and $6", ("milliseconds", "AUC"), notes={"late": ["1", "2 $x$"]})
    assert list(picture.data["milliseconds"]) == [1.0, 2.0, 9.0] and list(picture.data["AUC"]) == [0.6, 0.7, 0.75]
    assert [text.get_text() for text in picture.figure.axes[0].texts] == ["1", r"2 \$x\$"]
    assert picture.alt.endswith("AUC against milliseconds of late, full.")
    assert "image/png" in picture._repr_mimebundle_()[0]


def test_curves_draw_each_methods_mean_and_range_over_seeds_or_the_band_that_is_given():
    learnt = {"$head$": ([100, 1000], [[0.6, 0.7], [0.7, 0.8]]), "option": ([100], [0.75], [0.6], [0.9])}
    picture = curves(learnt, "Options lead", ("labels", "AUC"), levels={"the film's mean": 0.72}, xscale="log")
    np.testing.assert_allclose(picture.data.loc[0, ["AUC", "low", "high"]].astype(float), [0.65, 0.6, 0.7])
    np.testing.assert_allclose(picture.data.loc[2, ["AUC", "low", "high"]].astype(float), [0.75, 0.6, 0.9])
    ax = picture.figure.axes[0]
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[100, 0.65], [1000, 0.75]])
    assert ax.lines[-1].get_ydata()[0] == 0.72 and ax.get_xscale() == "log"
    np.testing.assert_allclose(ax.collections[1].get_paths()[0].get_extents().intervaly, [0.6, 0.9])
    picture._repr_mimebundle_()  # a dollar in a name is no formula


def test_dots_stand_beside_the_line_where_both_are_equal():
    picture = curves({"item": ([-3.0, -1.0], [-2.0, -1.5])}, "Both agree", ("dense", "generated"), dots=True)
    item, equal = picture.figure.axes[0].lines
    assert item.get_linestyle() == "None" and item.get_xydata().tolist() == [[-3, -2], [-1, -1.5]]
    assert equal.get_slope() == 1 and equal.get_xy1()[0] == equal.get_xy1()[1]
