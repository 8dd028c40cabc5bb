"""Views inside the layers: each equals what a person would work out by hand on the network itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fixtures import small_data

from m6rec.baselines import ESASRec, GRU4Rec, SASRec
from m6rec.config import Config, InputError
from m6rec.explain.explainers import capture, logits_of, one, prepared, tokens
from m6rec.explain.inside import (
    _run,
    attention_by_age,
    capture_sequential,
    difference,
    head_ablation,
    logit_lens,
    patching,
    value_weighted,
)  # fmt: skip
from m6rec.view.figures import attention_map, attention_rows
from m6rec.view.widgets import HeadsAndLayers

HISTORY = [503, 504, 505, 506, 507]


@pytest.fixture(scope="module")
def contexts(trained):
    return [trained.extract_context(HISTORY, {"hour": hour}) for hour in (9, 21)]


def log_prob(model, context, item):
    everything = np.ones((1, len(tokens(one(context))[0])), bool)
    return float(logits_of(model, context, everything).log_softmax(-1)[0, item])


def test_a_difference_is_the_second_minus_the_first_token_by_token(trained, contexts):
    before, after = (capture(trained, context) for context in contexts)
    both = difference(before, after)
    assert both.labels[-2:] == ["hour 9 → hour 21", "next item"] and "does not say" in both.note
    np.testing.assert_allclose(both.attended, after.attended - before.attended, atol=1e-6)
    assert both.weights[0, 0, 0, 0] == 0 and both.weights[0, 0, -2, -2] == 1  # the start is computed, the hour is not
    fewer = capture(trained, trained.extract_context(HISTORY[1:], {"hour": 21}))
    other = difference(after, fewer)
    gone = other.labels.index(after.labels[after.types.index("history")])
    np.testing.assert_allclose(other.attended[..., gone], -after.attended[..., after.types.index("history")], atol=1e-6)
    assert len(other.labels) == len(after.labels)
    picture = attention_map(both, "x", "target")
    assert picture.spec["signed"] and "rollout" not in dict(picture.spec["views"]) and both.note in picture.spec["note"]
    with pytest.raises(InputError, match="two of the same model"):
        difference(before, after._replace(weights=after.weights[:1]))


def test_the_lens_ends_in_the_models_own_log_probabilities(trained, contexts):
    lens = logit_lens(trained, contexts[0], [3, 9])
    assert lens.index.tolist() == ["before layer 1", "after layer 1", "after layer 2"]
    due = [np.exp(log_prob(trained, contexts[0], item)) for item in (3, 9)]
    np.testing.assert_allclose(lens.iloc[-1], due, rtol=1e-4)
    with pytest.raises(InputError, match="not in the catalogue"):
        logit_lens(trained, contexts[0], [99])
    assert attention_rows(lens, "Lens").spec["note"] == lens.attrs["note"]


def test_value_weights_are_attention_times_the_length_of_what_is_added(trained, contexts):
    look, raw = value_weighted(trained, contexts[0]), capture(trained, contexts[0])
    np.testing.assert_allclose(look.weights.sum(-1), 1, atol=1e-5)
    context, vectors = prepared(trained, contexts[0])
    x, block = _run(trained, context, vectors)[1][0][0], trained.network.fusion.joint[0]  # (W, D)
    size, columns = block.q.in_features // block.heads, tokens(context)[2]
    value = torch.zeros(len(x), x.shape[1])
    value[:, :size] = block.kv(block.norm(x))[:, x.shape[1] :][:, :size]  # of the first head
    due = raw.attended[0, 0] * block.out(value).norm(dim=1)[columns].detach().numpy()  # its bias is None
    np.testing.assert_allclose(look.attended[0, 0], due / due.sum(), rtol=1e-4)


def test_ablation_is_the_loss_without_a_heads_output_and_leaves_the_model_alone(trained, contexts):
    before = log_prob(trained, contexts[0], 9)
    lost = head_ablation(trained, contexts[0], [9])
    assert lost.shape == (2, 2) and log_prob(trained, contexts[0], 9) == before
    for wrong in ([30], [1, 2], [-1]):
        with pytest.raises(InputError, match="give 1 codes, one for each row, below 30"):
            head_ablation(trained, contexts[0], wrong)
    out = trained.network.fusion.joint[1].out
    kept, half = out.weight.data.clone(), out.in_features // 2
    out.weight.data[:, half:] = 0  # the second head says nothing
    without = log_prob(trained, contexts[0], 9)
    out.weight.data = kept
    assert lost.loc["layer 2", "head 2"] == pytest.approx(before - without, abs=1e-5)


def test_patching_carries_all_where_all_differs_and_nothing_where_nothing_does(trained, contexts):
    item = max(range(30), key=lambda i: abs(log_prob(trained, contexts[1], i) - log_prob(trained, contexts[0], i)))
    share = patching(trained, *contexts, item)
    assert share.columns[-2:].tolist() == ["hour 9 → hour 21", "next item"]
    assert np.abs(share[share.columns[:-2]].to_numpy()).max() < 1e-3  # the history is the same
    # Only the target and the hour differ: both at once, into the first layer, are the second request.
    (before, vectors), (after, _) = (prepared(trained, context) for context in contexts)
    entered = _run(trained, after, vectors)[1]
    patch = torch.zeros(1, 2, entered[0].shape[1], dtype=torch.bool)
    patch[:, :, -1 - before.request.shape[2] : -1] = True
    patch[:, 0, -1] = True
    state = _run(trained, before, vectors, patch, [x[0] for x in entered])[0]
    assert float(trained.network.score(state, vectors).log_softmax(-1)[0, item]) == pytest.approx(
        log_prob(trained, contexts[1], item), abs=1e-4
    )
    with pytest.raises(InputError, match="different tokens"):
        patching(trained, contexts[0], trained.extract_context(HISTORY[1:], {"hour": 9}), item)
    with pytest.raises(InputError, match="same score in both"):
        patching(trained, contexts[0], contexts[0], item)


def test_attention_by_age_is_the_mean_over_users_who_have_such_an_event(trained):
    contexts = trained.target_context(trained.data.targets(trained.split.valid))
    table = attention_by_age(trained, contexts)
    looks = [capture(trained, one(contexts, row)) for row in range(len(contexts.item))]
    for age in (1, 5):
        due = [r.attended[..., r.types.index("history") + r.types.count("history") - age] for r in looks
               if r.types.count("history") >= age]  # fmt: skip
        np.testing.assert_allclose(table.iloc[:, age - 1], np.mean(due, 0).ravel(), atol=1e-5)
    assert table.columns[0] == "last event" and len(attention_by_age(trained, contexts, most=3).columns) == 3


def test_an_esasrec_shows_its_attention_and_what_has_none_is_refused():
    data = small_data()
    config = Config(width=16, heads=2, joint_layers=2, history=8, pretrain_epochs=1, batch=16, validate_every=1)
    users = data.targets(data.split().test[3:])
    with pytest.raises(InputError, match="ESASRec has no attention to show"):
        capture_sequential(ESASRec(config), users)
    model = ESASRec(config).fit(data, data.split())
    look, past = capture_sequential(model, users), users.history(7)[0]
    assert look.labels == data.items["title"].iloc[past[past >= 0]].tolist()
    np.testing.assert_allclose(look.weights.sum(-1), 1, atol=1e-5)
    assert look.weights.shape[:2] == (2, 2) and not np.triu(look.weights[0, 0], 1).any()
    np.testing.assert_allclose(look.logits, model.scores(users)[0], atol=1e-5)
    assert HeadsAndLayers(look).data.shape == (len(look.labels),) * 2
    for other, said in ((GRU4Rec, "GRU4Rec has no attention"), (SASRec, "SASRec has no attention")):
        with pytest.raises(InputError, match=said):
            capture_sequential(other(config).fit(data, data.split()), users)
