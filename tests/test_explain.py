"""The attention record: its labels name the tokens that the weights belong to."""

from __future__ import annotations

import numpy as np
import torch

from m6rec.explain.capture import capture


def test_every_label_names_the_token_whose_weight_stands_under_it(trained):
    context = trained.extract_context(["Film 3", "Film 7", "Film 4"], {"hour": 21, "gap": 5}, user=105)
    look = capture(trained, context)
    assert look.labels[0] == "start" and look.labels[-2:] == ["hour 21", "gap < 20 s"]
    assert [label[:6] for label in look.labels[3:6]] == ["Film 3", "Film 7", "Film 4"]
    assert look.kinds == ["start"] + ["profile"] * 2 + ["history"] * 3 + ["request"] * 2
    np.testing.assert_allclose(look.weights.sum(-1), 1, rtol=1e-5)
    # Another film in the second place moves the first layer's weight of that token alone, but for the common divisor.
    other = context._replace(item=context.item.clone().index_fill_(1, torch.tensor([1]), 20))
    ratio = capture(trained, other).weights[0] / look.weights[0]
    moved = ~np.isclose(ratio, ratio[:, :1], rtol=1e-4)
    assert moved.any(0).nonzero()[0].tolist() == [look.labels.index("Film 7 (1957)")]


def test_a_field_that_is_absent_is_no_token(trained):
    with_hour = capture(trained, trained.extract_context(["Film 3"], {"hour": 21}))
    without = capture(trained, trained.extract_context(["Film 3"]))
    assert with_hour.kinds == ["start", "history", "request"]
    assert without.kinds == ["start", "history"]


def test_folding_the_earlier_events_keeps_all_of_their_attention(trained):
    context = trained.extract_context([f"Film {i}" for i in range(8)], {"hour": 21})
    whole, folded = capture(trained, context), capture(trained, context, recent=3)
    assert folded.labels[1] == "5 earlier events" and folded.labels[2:] == whole.labels[6:]
    np.testing.assert_allclose(folded.weights[..., 1], whole.weights[..., 1:6].sum(-1), rtol=1e-5)
    np.testing.assert_allclose(folded.weights.sum(-1), 1, rtol=1e-5)
    assert capture(trained, context, recent=8).labels == whole.labels


def test_each_row_of_a_batch_has_its_own_record(trained, data):
    context = trained.target_context(data.targets(data.split().test[:3]))
    for row in range(3):
        look = capture(trained, context, row=row)
        assert look.kinds.count("history") == int(context.position[row, -1])
        np.testing.assert_allclose(look.weights.sum(-1), 1, rtol=1e-5)
