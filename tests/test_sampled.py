"""Large catalogues: what is drawn stands for all, in the softmax, in what the dense head teaches, and in a training."""

from __future__ import annotations

import numpy as np
import torch
from fixtures import small_model

from m6rec import evaluate
from m6rec.data.context import training_batches
from m6rec.train import losses


def one_batch(model):
    batches = training_batches(model.data, model.split, model.codes, length=8, batch=16, rng=np.random.default_rng(0))
    return next(batches)


def test_a_step_sees_of_each_item_what_a_step_over_the_whole_catalogue_sees(trained):
    network, batch = trained.network, one_batch(trained)
    with torch.no_grad():
        torch.manual_seed(0)
        found = losses.predict(network, batch, small_model(negatives=6).config)
        items = network.encode_items().vectors
        state = network.fusion(batch, items).state[batch.item >= 0]
    torch.testing.assert_close(found.state, state)
    logits = network.score(state, items)
    torch.testing.assert_close(found.logits[:, 0], logits.gather(1, found.target[:, None])[:, 0])
    new = found.negatives != found.target[:, None]
    known = int((network.codes >= 0).sum())
    louder = logits[:, found.negatives] + ((known - 1) / new.sum(1, keepdim=True)).log()
    torch.testing.assert_close(found.logits[:, 1:][new], louder[new])
    assert torch.isinf(found.logits[:, 1:][~new]).all()


def test_some_items_are_encoded_as_among_all(trained):
    some = torch.tensor([2, 3, 11, 29])
    with torch.no_grad():
        torch.testing.assert_close(
            trained.network.encode_items(only=some).vectors, trained.network.encode_items().vectors[some]
        )


def test_where_every_item_is_drawn_the_teacher_is_the_whole_one(trained):
    network, tree = trained.network, trained.network.digits.tree
    state, target = torch.randn(7, 16), torch.arange(7) * 4
    items = trained.item_vectors()
    every = torch.arange(len(items))
    drawn = losses.sampled_logits(state, items, target, every, len(items))
    found = losses.SampledPrediction(state, drawn, target, every)
    every_one = losses.FullPrediction(state, items, target, network.codes >= 0)
    for few, all_of_them in zip(found.subtrees(tree), every_one.subtrees(tree), strict=True):
        torch.testing.assert_close(few, all_of_them)


def test_items_without_a_training_event_are_never_drawn(trained):
    codes = trained.network.codes
    trained.network.codes = torch.where(torch.arange(len(codes)) < 20, codes, -1)
    try:
        drawn = losses.predict(trained.network, one_batch(trained), small_model(negatives=500).config).negatives
    finally:
        trained.network.codes = codes
    assert set(drawn.tolist()) == set(range(20))


def test_catalogues_are_sampled_from_fifty_thousand_on_or_when_asked(trained, monkeypatch):
    network, config = trained.network, trained.config
    batch = one_batch(trained)
    assert isinstance(losses.predict(network, batch, config), losses.FullPrediction)
    assert len(losses.predict(network, batch, small_model(negatives=7).config).negatives) == 7
    monkeypatch.setattr(losses, "FULL_SOFTMAX_ITEMS", len(network.codes) - 1)
    assert len(losses.predict(network, batch, config).negatives) == losses.NEGATIVES


def test_a_training_that_draws_its_items_learns_and_generates():
    model = small_model(
        pretrain_epochs=20, finetune_epochs=12, validate_every=10, learning_rate=5e-3, dropout=0.0, negatives=8
    )
    model.pretrain()
    first, *_, last = model.fine_tune()
    assert last.losses["digits"] < first.losses["digits"] and last.losses["teacher"] < first.losses["teacher"]
    for method in ("dense", "generated"):
        ndcg = evaluate(model.scorer(method), model.data, mask_seen=False).metrics["ndcg@10"]
        assert ndcg > 0.35, method  # chance is .15
