"""The attention record says what it seems to say: labels name the tokens that the weights belong to."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import m6rec
from m6rec.explain.explainers import capture, distinctive, one, target_log_prob
from m6rec.model import attention


def test_every_label_names_the_token_whose_weight_stands_under_it(trained, monkeypatch):
    monkeypatch.setattr(trained.network.fusion, "recency", 0.0)  # the target begins with the last event alone
    context = trained.extract_context(["Film 3", "Film 7", "Film 4"], {"hour": 21, "gap": 5}, user=105)
    record = capture(trained, context)
    assert record.labels[0] == "start" and record.labels[-3:] == ["hour 21", "gap < 20 s", "next item"]
    assert [label[:6] for label in record.labels[3:6]] == ["Film 3", "Film 7", "Film 4"]
    assert record.types == ["start"] + ["profile"] * 2 + ["history"] * 3 + ["request"] * 2 + ["target"]
    assert record.positions.tolist() == [-1, 0, 1, 0, 1, 2, 0, 2, -1]
    # Another film in the second place moves, of what the third attends to in the first layer, the weight of that token
    # alone, but for the common divisor.
    other = context._replace(item=context.item.clone().index_fill_(1, torch.tensor([1]), 20))
    ratio = capture(trained, other).weights[0, :, 5, :6] / record.weights[0, :, 5, :6]
    moved = ~np.isclose(ratio, ratio[:, :1], rtol=1e-4)
    assert moved.any(0).nonzero()[0].tolist() == [record.labels.index("Film 7 (1957)")]


def test_rows_sum_to_one_and_nobody_looks_at_what_it_may_not_see(trained):
    record = capture(trained, trained.extract_context(["Film 3", "Film 7", "Film 4"], {"hour": 21}, user=105))
    np.testing.assert_allclose(record.weights.sum(-1), 1, rtol=1e-5)
    kind = np.array(record.types)
    first, last = record.weights[0], record.weights[-1]
    assert (np.triu(first[:, kind == "history"][:, :, kind == "history"], 1) == 0).all(), "events see the past"
    assert (first[:, kind == "history"][:, :, kind == "profile"] > 0).all()
    assert (first[:, kind == "profile"][:, :, kind == "history"] == 0).all(), "the profile sees itself alone"
    assert (record.weights[..., :-1, -1] == 0).all() and (record.attended > 0).all()
    alike = np.broadcast_to(np.eye(len(kind)), record.weights.shape)
    np.testing.assert_array_equal(last[:, :-1], alike[-1][:, :-1])  # the last layer reads no history
    request = kind == "request"
    np.testing.assert_array_equal(record.weights[:, :, request], alike[:, :, request])


def test_the_record_has_the_logits_of_the_plain_path(trained, data):
    users = data.targets(data.split().test[:3])
    plain = trained.scores(users)
    for row in range(3):
        record = capture(trained, one(trained.target_context(users), row), item=4)
        gap = torch.from_numpy(record.logits) - record.logits[0] - (plain[row] - plain[row, 0])
        assert gap.abs().max() < 1e-5 and plain[row].std() > 1e-3


def test_gradients_say_how_the_item_moves_with_each_weight(trained, monkeypatch):
    """Change one weight in the middle of the computation, and compare."""
    context = trained.extract_context(["Film 3", "Film 7", "Film 4"], {"hour": 21}, user=105)
    record, base, attend = capture(trained, context, item=1), capture(trained, context), attention.attend

    def moved(call: int, row: int, column: int) -> float:
        calls = iter(range(9))

        def nudged(*args, weights):
            seen = attend(*args, weights=True)
            if next(calls) == call:
                seen.weights[0, 1, row, column] += 1e-1  # enough to stand above the rounding
            return seen._replace(out=seen.weights @ args[2])

        monkeypatch.setattr(attention, "attend", nudged)
        logits = torch.from_numpy(np.stack([capture(trained, context).logits, base.logits]))
        return float(target_log_prob(logits, 1).diff().neg() / 1e-1)

    # The history's first layer, then the target's two: event 3 looks at event 2, the target at it and at the start.
    for call, layer, (row, column), place in ((0, 0, (5, 4), (5, 4)), (1, 0, (0, 4), (-1, 4)), (2, 1, (0, 0), (-1, 0))):
        slope = record.gradients[layer, 1][place]
        assert abs(slope) > 1e-4 and moved(call, row, column) == pytest.approx(slope, rel=0.1)


def test_a_field_that_is_absent_is_no_token(trained):
    with_hour = capture(trained, trained.extract_context(["Film 3"], {"hour": 21}))
    without = capture(trained, trained.extract_context(["Film 3"]))
    assert with_hour.types == ["start", "history", "request", "target"]
    assert without.types == ["start", "history", "target"]
    assert capture(trained, trained.extract_context([])).types == ["start", "target"]


def test_folding_the_earlier_events_keeps_all_of_their_attention(trained):
    context = trained.extract_context([f"Film {i}" for i in range(8)], {"hour": 21})
    whole, folded = capture(trained, context), capture(trained, context).fold(3)
    assert folded.labels[1] == "5 earlier events" and folded.labels[2:] == whole.labels[6:]
    np.testing.assert_allclose(folded.attended[..., 1], whole.attended[..., 1:6].sum(-1), rtol=1e-5)
    np.testing.assert_allclose(folded.weights.sum(-1), 1, rtol=1e-5)
    assert folded.weights.shape[-2:] == (len(folded.labels),) * 2 and len(folded.positions) == len(folded.labels)
    assert whole.fold(8).labels == whole.labels


def test_each_row_of_a_batch_has_its_own_record(trained, data):
    context = trained.target_context(data.targets(data.split().test[:3]))
    for row in range(3):
        record = capture(trained, one(context, row))
        assert record.types.count("history") == int(context.position[row, -1])
        np.testing.assert_allclose(record.weights.sum(-1), 1, rtol=1e-5)


def test_what_is_not_there_is_refused_in_a_sentence(trained):
    context = trained.extract_context(["Film 3"])
    with pytest.raises(m6rec.InputError, match="row 1 is not in this context"):
        one(context, row=1)
    with pytest.raises(m6rec.InputError, match="item code 30 is not in the catalogue"):
        capture(trained, context, item=30)


def test_the_distinctive_words_of_a_group_are_those_that_others_lack():
    texts = ["red silk dress"] * 8 + ["red wool coat"] * 8 + ["rare"]
    found = distinctive(texts, np.repeat([0, 1, 2], (8, 8, 1)), show=2)
    assert [set(found[group].split(", ")) for group in (0, 1)] == [{"dress", "silk"}, {"coat", "wool"}]
