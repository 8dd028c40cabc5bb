"""Explainers do what they say: what is left out is really gone, what should add up adds up, and proofs can fail."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import m6rec
from m6rec.explain import explainers
from m6rec.explain.explainers import (
    EXPLAINERS,
    agreement,
    attention,
    capture,
    faithfulness,
    integrate,
    keep_tokens,
    leave_one_out,
    logits_of,
    one,
    randomise_parameters,
    rollout,
    smallest_removal,
    target_log_prob,
    top_item,
    uniform_attention,
)

FILMS = ["Film 3", "Film 7", "Film 4", "Film 5"]


@pytest.fixture(scope="module")
def context(trained):
    return trained.extract_context(FILMS, {"hour": 21, "weekday": "Friday"}, user=105)


def score(model, context, item):
    return float(target_log_prob(torch.from_numpy(capture(model, context).logits), item))


def test_a_token_that_is_left_out_is_really_gone_and_the_history_closes_up(trained, context):
    record, effects = capture(trained, context), leave_one_out(trained, context, 9)
    less = {
        "Film 7": trained.extract_context(["Film 3", "Film 4", "Film 5"], {"hour": 21, "weekday": "Friday"}, user=105),
        "Film 5": trained.extract_context(FILMS[:3], {"hour": 21, "weekday": "Friday"}, user=105),
        "hour 21": trained.extract_context(FILMS, {"weekday": "Friday"}, user=105),
        "age": context._replace(profile=context.profile * torch.tensor([0, 1])),
    }
    for name, shorter in less.items():
        token = next(i for i, label in enumerate(record.labels) if label.startswith(name))
        lost = score(trained, context, 9) - score(trained, shorter, 9)
        assert abs(lost) > 1e-4 and effects[token] == pytest.approx(lost, abs=2e-5), name
    assert effects[0] == 0 and len(effects) == len(record.labels) - 1


def test_many_tokens_go_at_once_whatever_the_padding(trained, data):
    """A row of a batch, whose history is shorter than the batch's longest."""
    batch = trained.target_context(data.targets(data.split().test[:6]))
    row = int(batch.position[:, 0].argmin())
    context = one(batch, row)
    kept = np.ones((2, len(capture(trained, context).labels) - 1), bool)
    kept[1, [1, 4, 5]] = False
    whole, less = keep_tokens(context, kept)[0][0], keep_tokens(context, kept)
    assert whole.tolist() == context.item[0].tolist()
    assert less.item[1].tolist() == [*np.delete(context.item[0].tolist(), [1, 2]), -1, -1]
    assert less.position[:, 0].tolist() == [len(context.item[0]), len(context.item[0]) - 2]
    assert less.profile[1].tolist() == [0, int(context.profile[0, 1])]


def test_long_histories_are_taken_in_pieces_that_change_nothing(trained, context, monkeypatch):
    kept = np.random.default_rng(0).random((40, 9)) < 0.5
    at_once = logits_of(trained, context, kept)
    monkeypatch.setattr(explainers, "MAX_PAIRS", 200)
    torch.testing.assert_close(logits_of(trained, context, kept), at_once)
    assert at_once.std(0).min() > 1e-3


def test_integrated_gradients_add_up_to_what_the_tokens_do_together(trained, context):
    coarse, fine = (integrate(trained, context, 9, steps=steps) for steps in (4, 64))
    (effects, gap), (_, coarse_gap) = fine, coarse
    assert gap < 0.01 * abs(effects.sum()) and gap < coarse_gap
    assert len(effects) == len(capture(trained, context).labels) - 1 and effects[0] == 0
    # An average token in the place of the second film: its own effect is what the slope says, to first order.
    assert np.corrcoef(effects, integrate(trained, context, 9, steps=8)[0])[0, 1] > 0.99


def test_against_a_foil_explains_the_difference(trained, context):
    for name in ("leave_one_out", "integrated"):
        explain = EXPLAINERS[name]
        apart = explain(trained, context, 9) - explain(trained, context, 4)
        np.testing.assert_allclose(explain(trained, context, 9, against=4), apart, atol=2e-5)
        assert np.abs(apart).max() > 1e-3
    with pytest.raises(m6rec.InputError, match="item code 30"):
        leave_one_out(trained, context, 9, against=30)


def test_attention_and_rollout_are_the_records_and_know_no_item(trained, context):
    weights = capture(trained, context).weights.mean(1)
    path = (weights[1] / 2 + np.eye(10) / 2) @ (weights[0] / 2 + np.eye(10) / 2)
    np.testing.assert_allclose(rollout(trained, context, 9), path[-1, :-1], rtol=1e-5)
    np.testing.assert_allclose(attention(trained, context, 9), weights[:, -1, :-1].mean(0), rtol=1e-5)
    for explain in (rollout, attention):
        np.testing.assert_array_equal(explain(trained, context, 9), explain(trained, context, 4))
    moved = explainers.gradient_weighted(trained, context, 9) - explainers.gradient_weighted(trained, context, 4)
    assert np.abs(moved).max() > 1e-4


def test_everyone_has_an_explanation_even_who_has_no_history(trained):
    for history, request in (([], {}), ([], {"hour": 3}), (["Film 3"], {}), (["Film 3"] * 50, {"hour": 3})):
        context = trained.extract_context(history, request)
        n = 1 + min(len(history), trained.config.history) + len(request)
        for name, explain in EXPLAINERS.items():
            effects = explain(trained, context, 9)
            assert effects.shape == (n,) and np.isfinite(effects).all(), name
        assert set(smallest_removal(trained, context)[0]) <= set(range(1, n))


def test_the_smallest_removal_dethrones_the_leader_with_its_last_token(trained, context):
    gone, after = smallest_removal(trained, context)
    kept = np.ones((2, 9), bool)
    kept[:, gone] = False
    kept[1, gone[-1]] = True  # one too few
    logits = logits_of(trained, context, kept).numpy()
    logits[:, context.item[0].numpy()] = -np.inf
    assert logits.argmax(1).tolist() == [after, top_item(trained, context)]
    assert smallest_removal(trained, context, most=0)[1] is None


def test_what_really_matters_goes_first_and_the_reverse_of_it_last(trained, data):
    def reverse(*args):
        return -leave_one_out(*args)

    contexts = trained.target_context(data.targets(data.split().test[:12]))
    judged = faithfulness(trained, contexts, {"right": leave_one_out, "wrong": reverse})
    right, wrong = judged.table.loc["right"], judged.table.loc["wrong"]
    assert right["deletion"] < wrong["deletion"] - 0.05 and right["insertion"] > wrong["insertion"] + 0.05
    assert 0 < right["milliseconds"] < 10_000
    for name in ("right", "wrong"):
        np.testing.assert_allclose(judged.deletion[name][:, 0], 1, rtol=1e-5)
        np.testing.assert_allclose(judged.insertion[name][:, -1], 1, rtol=1e-5)
        np.testing.assert_allclose(judged.deletion[name][:, -1], judged.insertion[name][:, 0], rtol=1e-4)
        areas = np.trapezoid(judged.deletion[name], dx=1 / 20)
        assert areas.shape == (12,) and areas.mean() == pytest.approx(judged.table.loc[name, "deletion"])
    assert judged.table.index.tolist() == ["right", "wrong"]


def test_random_outputs_change_what_explains_them_and_leave_attention_as_it_was(trained, data):
    contexts = trained.target_context(data.targets(data.split().test[:12]))
    before = capture(trained, contexts)
    kinds = {name: EXPLAINERS[name] for name in ("leave_one_out", "attention", "rollout")}
    found = {
        name: values.mean()
        for name, values in agreement(trained, randomise_parameters(trained), contexts, kinds).items()
    }
    assert found["attention"] == found["rollout"] == 1 and found["leave_one_out"] < 0.5
    assert agreement(trained, trained, contexts, {"x": leave_one_out})["x"].mean() == pytest.approx(1)
    np.testing.assert_array_equal(capture(trained, contexts).logits, before.logits)  # the model itself is untouched


def test_even_attention_has_no_preference(trained, context):
    attended = capture(uniform_attention(trained), context).attended
    np.testing.assert_allclose(attended, 1 / attended.shape[-1], rtol=1e-5)
    assert np.abs(capture(trained, context).attended - attended).max() > 1e-3
