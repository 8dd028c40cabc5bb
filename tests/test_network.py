"""Nothing from the future, one pass equals many, and the network runs on a device that this machine does not have."""

from __future__ import annotations

import numpy as np
import torch
from fixtures import small_data, small_model

from m6rec.data.context import Context, target_context, training_batches

LENGTH = 8


def one_batch(model):
    """All windows of one epoch, as a single batch."""
    rng = np.random.default_rng(0)
    return next(training_batches(model.data, model.split, model.codes, length=LENGTH, batch=1000, rng=rng))


@torch.no_grad()
def logits(model, context: Context) -> torch.Tensor:
    items = model.item_vectors()
    return model.network.score(model.network.fusion(context, items).state, items)


def loud(model):
    """Large random weights everywhere: a connection that should not be there shows."""
    torch.manual_seed(1)
    for weight in model.network.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    model._items = None
    return model


def test_nothing_of_an_event_or_its_request_reaches_its_own_or_an_earlier_target():
    model = loud(small_model())
    context = one_batch(model)
    before = logits(model, context)
    t = 4
    changed = Context(*(part.clone() for part in context))
    changed.item[:, t] = (changed.item[:, t].clamp(min=0) + 7) % model.data.n_items
    changed.value[:, t], changed.gap[:, t] = 1, 1
    after = logits(model, changed)
    torch.testing.assert_close(after[:, : t + 1], before[:, : t + 1], rtol=0, atol=0)
    assert (after[:, t + 1] - before[:, t + 1]).abs().max() > 1e-3  # the change does reach the next one

    changed = context._replace(request=context.request.clone())
    changed.request[:, t] = 1 + changed.request[:, t] % 3
    after = logits(model, changed)
    others = [i for i in range(LENGTH) if i != t]
    torch.testing.assert_close(after[:, others], before[:, others], rtol=0, atol=0)
    assert (after[:, t] - before[:, t]).abs().max() > 1e-3


def test_one_pass_over_all_positions_equals_one_prefix_at_a_time():
    model = loud(small_model())
    split, data = model.split, model.data
    user = int(np.argmax(np.diff(data.offsets)))
    events = np.arange(data.offsets[user], data.offsets[user] + LENGTH)
    context = target_context(data, model.codes, events[-1:] + 1, LENGTH)
    assert split.train[events].all()
    whole = context._replace(
        request=torch.from_numpy(model.codes.request[events])[None], position=torch.arange(LENGTH)[None]
    )
    singly = logits(model, target_context(data, model.codes, events, LENGTH))[:, 0]
    torch.testing.assert_close(logits(model, whole)[0], singly, rtol=1e-4, atol=1e-4)


def test_a_read_history_answers_many_requests():
    model = loud(small_model())
    items, context = model.item_vectors(), target_context(model.data, model.codes, model.split.test[:5], LENGTH)
    with torch.no_grad():
        history = model.network.fusion.read(context, items)
        for hour in (1, 13):
            asked = context._replace(request=torch.tensor([hour, 0, 0]).expand(5, 1, 3))
            torch.testing.assert_close(
                model.network.fusion.answer(history, asked).state, model.network.fusion(asked, items).state
            )


def test_attention_maps_cover_what_the_target_sees_and_leave_the_state_alone():
    model = loud(small_model())
    context, items = one_batch(model), model.item_vectors()
    with torch.no_grad():
        plain = model.network.fusion(context, items)
        shown = model.network.fusion(context, items, weights=True)
    torch.testing.assert_close(shown.state, plain.state, rtol=1e-4, atol=1e-5)
    for weights in shown.weights:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
        c = 1 + len(model.fields.profile)
        for t in range(LENGTH):
            assert (weights[:, :, t, c + t : c + LENGTH] == 0).all()


def test_poisoned_test_and_validation_events_change_nothing_that_is_fitted():
    data = small_data()
    clean = small_model(data)
    poisoned = data.events.copy()
    held = np.concatenate((clean.split.valid, clean.split.test))
    poisoned.loc[held, "item"] = (poisoned.loc[held, "item"] + 11) % data.n_items
    poisoned.loc[held, "value"] = 99.0
    dirty_data = type(data)(data.name, data.timed, data.items, data.users, poisoned, data.offsets)
    dirty = small_model(dirty_data)
    assert clean.fields == dirty.fields
    assert clean.tokenizer.bpe.get_vocab() == dirty.tokenizer.bpe.get_vocab()
    rngs = [np.random.default_rng(3) for _ in range(2)]
    batches = [
        list(training_batches(m.data, m.split, m.codes, length=LENGTH, batch=16, rng=r))
        for m, r in zip((clean, dirty), rngs, strict=True)
    ]
    for a, b in zip(*batches, strict=True):
        for x, y in zip(a, b, strict=True):
            assert torch.equal(x, y)


def test_every_training_event_is_a_target_once_an_epoch():
    model = small_model()
    rng = np.random.default_rng(0)
    batches = training_batches(model.data, model.split, model.codes, length=LENGTH, batch=16, rng=rng)
    targets = np.concatenate([b.item[b.item >= 0].numpy() for b in batches])
    there = np.bincount(targets, minlength=model.data.n_items)
    all_of_them = np.bincount(model.data.events["item"][model.split.train], minlength=model.data.n_items)
    missing = all_of_them - there
    assert (missing >= 0).all()
    assert missing.sum() < model.data.n_users  # only windows of a single event are left out


def test_absent_fields_are_masked_not_zero_valued():
    model = loud(small_model())
    context = target_context(model.data, model.codes, model.split.test[:6], LENGTH)
    nobody = context._replace(request=torch.zeros_like(context.request), profile=torch.zeros_like(context.profile))
    with torch.no_grad():
        weights = model.network.fusion(nobody, model.item_vectors(), weights=True).weights
    c = 1 + len(model.fields.profile)
    for layer in weights:
        assert (layer[..., 1:c] == 0).all() and (layer[..., c + LENGTH :] == 0).all()


def test_forward_and_losses_run_on_the_meta_device():
    """Finds a tensor that was made on the CPU by hand, on a machine without a GPU."""
    from m6rec.train import losses

    model = small_model()
    batch = one_batch(model)
    network = model.network.to("meta")
    context = Context(*(part.to("meta") for part in batch))
    items = network.encode_items().vectors
    state = network.fusion(context, items).state
    assert state.device.type == "meta" and network.score(state, items).shape[-1] == model.data.n_items
    flat, target = state.flatten(0, 1), batch.item.flatten().clamp(min=0).to("meta")
    found = losses.FullPrediction(flat, items, target, network.codes >= 0)
    path, taught = losses.digits(network, flat, target, found.subtrees(network.digits.tree))
    assert found.cross_entropy().device.type == path.device.type == taught.device.type == "meta"
    taught = losses.item_content(network, model._training_content, model.config, np.random.default_rng(0))
    assert taught and all(loss.device.type == "meta" for loss in taught.values())


def test_text_alone_gives_an_unknown_item_a_vector_and_identity_changes_it():
    model = loud(small_model())
    content = model.network.content.take(torch.arange(3))
    with torch.no_grad():
        unknown = model.network.items(content).vectors + model.network.items.id_embedding(torch.full((3,), -1))
        known = model.network.items(content).vectors + model.network.items.id_embedding(torch.arange(3))
        bare = model.network.items(content).vectors
        empty = model.network.items(content.drop("text")).vectors
    torch.testing.assert_close(unknown, bare)
    assert (unknown - known).abs().min() > 0
    torch.testing.assert_close(empty, empty[:1].expand(3, -1))  # nothing to tell them apart
