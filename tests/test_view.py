"""The figures: what they draw is what they were given."""

from __future__ import annotations

import numpy as np
import pandas as pd

from m6rec.evaluate.statistics import Interval
from m6rec.record import Figure
from m6rec.view.figures import attention_rows, comparison, learning_curves, rank_moves, tradeoff


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


def test_a_tradeoff_keeps_its_numbers_and_a_dollar_starts_no_formula():
    ways = {"late": [("1", 2.0, 0.7), ("2 $x$", 1.0, 0.6)], "full": [("12", 9.0, 0.75)]}
    picture = tradeoff(ways, "Half the time for $5 and $6", wanted=0.65)
    assert list(picture.data["milliseconds"]) == [1.0, 2.0, 9.0] and list(picture.data["AUC"]) == [0.6, 0.7, 0.75]
    assert "late, full" in picture.alt
    assert "image/png" in picture._repr_mimebundle_()[0]


def test_learning_curves_draw_each_methods_mean_and_range_over_seeds():
    curves = {"$head$": {100: np.array([0.6, 0.7]), 1000: np.array([0.7, 0.8])}, "option": {100: np.array([0.75])}}
    picture = learning_curves(curves, "Options lead", levels={"the film's mean": 0.72})
    np.testing.assert_allclose(picture.data.loc[0, ["mean", "low", "high"]].astype(float), [0.65, 0.6, 0.7])
    lines = picture.figure.axes[0].lines
    np.testing.assert_allclose(lines[0].get_xydata(), [[100, 0.65], [1000, 0.75]])
    assert lines[-1].get_ydata()[0] == 0.72
    picture._repr_mimebundle_()  # a dollar in a name is no formula
