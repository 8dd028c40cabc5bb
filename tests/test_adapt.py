"""Adapting a backbone: what moves, how much of it, what a class's score is, and what is known of an example."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from fixtures import small_data

import m6rec
from m6rec.baselines import din
from m6rec.config import Config, InputError
from m6rec.data import prompts
from m6rec.data.prompts import Ratings
from m6rec.data.text import EOS, SEP, Prompt, Tokenizer
from m6rec.model.attention import unilm_mask
from m6rec.model.network import TextTransformer
from m6rec.train import text as text_training
from m6rec.train.text import METHODS, Backbone, Classifier, Examples

CLASSES = ("disliked", "liked")
WIDTH = 32


@pytest.fixture(scope="module")
def made():
    torch.manual_seed(0)
    config = Config(width=WIDTH, heads=2, joint_layers=2, dropout=0.0, learning_rate=3e-3, device="cpu")
    tokenizer = Tokenizer.fit(["liked a good film", "disliked a bad film"] * 4, 300)
    return Backbone(TextTransformer(config, len(tokenizer)).eval(), tokenizer, config)


@pytest.fixture(scope="module")
def told(made):
    """Forty texts whose label is a word of the target, and sometimes of the history."""
    labels = np.arange(40) % 2
    texts = [Prompt(history=("liked a film",) * (i % 3), target=(("bad", "good")[y],)) for i, y in enumerate(labels)]
    return text_training.examples(made.tokenizer, texts, labels)


def weights(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("method", METHODS)
def test_backbone_given_never_moves_and_its_copy_moves_only_when_all_is_tuned(made, told, method):
    before = weights(made.network)
    adapted = text_training.adapt(made, method, told, CLASSES, least=3, batch=16)
    assert all(torch.equal(before[name], tensor) for name, tensor in made.network.state_dict().items())
    after = {name.replace(".linear.", "."): tensor for name, tensor in adapted.backbone.state_dict().items()}
    assert all(torch.equal(before[name], after[name]) for name in before) == (method != "full")


@pytest.mark.parametrize("method", METHODS)
def test_what_is_trained_moves_and_its_share_is_as_said(made, told, method):
    torch.manual_seed(0)
    starts = torch.randn(2, WIDTH)
    network, whole = Classifier(made.network, method, starts), sum(p.numel() for p in made.network.parameters())
    head, layers = 2 * WIDTH + 2, 2
    wanted = {
        "full": whole + head,
        "head": head,
        "prompt": text_training.PROMPTS * WIDTH,
        "option": 2 * WIDTH,
        "option_adapter": 2 * WIDTH + layers * (2 * WIDTH * text_training.RANK + text_training.RANK + WIDTH + 1),
        "lora": head + layers * text_training.LORA_RANK * (2 * WIDTH + 3 * WIDTH + 2 * WIDTH),
    }[method]
    assert network.trained() == wanted
    adapted = text_training.adapt(made, method, told, CLASSES, least=3, batch=16)
    assert adapted.trained() == wanted
    fresh = {name for name, p in network.named_parameters() if p.requires_grad}
    moved = {n for n, p in adapted.named_parameters() if p.requires_grad and p.detach().abs().sum() > 0}
    assert moved == fresh  # the maps that begin at zero have left it


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_a_word(made, told, method, monkeypatch):
    monkeypatch.setitem(METHODS, method, (1e-2, 1e-2))
    # A prompt's answers are read by the frozen output, which is untrained here.
    steps, wanted = (150, 0.8) if method == "prompt" else (60, 1.0)
    adapted = text_training.adapt(made, method, told, CLASSES, least=steps, batch=16)
    said = text_training.logits(adapted, told)
    assert (said.argmax(1) == told.labels.numpy()).mean() >= wanted  # guessing: .5


def whole_pass(network, some):
    """Hidden states (B, S + T, D) of all layers over all tokens, the soft prompts before them."""
    net, (source, target) = network.backbone, (some.source, some.target)
    soft = (network.prompts + net.segments.weight[0]).expand(len(source), -1, -1)
    x = torch.cat((soft, net.embed(source, 0), net.embed(target, 1)), 1)
    given = torch.cat((torch.ones(soft.shape[:2], dtype=torch.bool), source != 0), 1)
    positions = (torch.cat((given, target != 0), 1).long().cumsum(1) - 1).clamp(min=0)
    x = net.blocks(x, unilm_mask(given, target != 0), positions).states
    return net.norm(x)[:, soft.shape[1] :]


def test_a_logit_is_the_product_of_the_last_state_and_the_option_that_was_read(made, told):
    network = text_training.adapt(made, "option", told, CLASSES, least=3, batch=16)
    some = told.rows(np.arange(5))
    with torch.no_grad():
        hidden = whole_pass(network, some)
        last = some.source.shape[1] + (some.target != 0).sum(1) - 1
        h = hidden[torch.arange(5), last]  # (B, D) at the last token
        torch.testing.assert_close(network(some.source, some.target), (h[:, None] * network.prompts).sum(-1))
        without = network.backbone(some.source, some.target).hidden[torch.arange(5), last]
        assert (h - without).abs().max() > 1e-3  # the options are in the input too


def test_the_last_layer_for_one_token_alone_is_the_whole_pass_at_that_token(made, told):
    torch.manual_seed(0)
    network = Classifier(made.network, "option_adapter", torch.randn(2, WIDTH)).eval()
    for adapter in network.adapters:
        torch.nn.init.normal_(adapter.up.weight)
    some = told.rows(np.arange(6))
    with torch.no_grad():
        whole = whole_pass(network, some)
        last = some.source.shape[1] + (some.target != 0).sum(1) - 1
        torch.testing.assert_close(network.read(some.source, some.target), whole[torch.arange(6), last])


def test_what_is_frozen_drops_nothing_while_it_is_adapted(made):
    for method, drops in (("full", True), ("option_adapter", False), ("head", False)):
        network = Classifier(made.network, method, torch.randn(2, WIDTH)).train()
        assert network.training and network.backbone.blocks[0].dropout.training == drops


def test_logits_do_not_depend_on_order_or_padding(made, told):
    network = Classifier(made.network, "option_adapter", torch.randn(2, WIDTH)).eval()
    order = np.random.default_rng(0).permutation(40)
    said = text_training.logits(network, told, batch=7)
    np.testing.assert_allclose(text_training.logits(network, told.rows(order), batch=40), said[order], atol=1e-5)
    assert np.ptp(said) > 1e-2


def test_bad_input_is_named(made, told):
    with pytest.raises(InputError, match='method="magic" is unknown: take one of full'):
        text_training.adapt(made, "magic", told, CLASSES)
    for bad in (2, -1):
        with pytest.raises(InputError, match=f"label {bad} is outside the 2 classes"):
            text_training.adapt(made, "option", told._replace(labels=told.labels.clone().fill_(bad)), CLASSES)
    with pytest.raises(InputError, match="class 1 has no example"):
        text_training.adapt(made, "option", told._replace(labels=told.labels * 0), CLASSES)
    with pytest.raises(InputError, match="class 0 has no example"):
        text_training.adapt(made, "option", Examples(*(part[:0] for part in told)), CLASSES)


# --- what is known of an example, and the baselines


def ratings(changed: int | None = None) -> m6rec.Dataset:
    """The small data with genres; one event's rating turned round."""
    data = small_data()
    items = data.items.assign(genres=["drama" if i % 2 else "comedy war" for i in range(data.n_items)])
    events = pd.DataFrame(
        {
            "user_id": data.users["user_id"].to_numpy()[data.events["user"]],
            "item_id": data.items["item_id"].to_numpy()[data.events["item"]],
            "timestamp": data.events["timestamp"],
            "value": data.events["value"],
        }
    )
    if changed is not None:
        events.loc[changed, "value"] = 6 - events.loc[changed, "value"]
    return m6rec.Dataset.from_frames(items, data.users, events, name="circles")


def known(data):
    return Ratings(data, held=0.2)


def test_an_example_does_not_know_its_own_rating_or_a_held_out_one():
    one = known(ratings())
    value = one.value
    held = np.flatnonzero(~one.is_train & (value != 3))[0]
    trained = np.flatnonzero(one.is_train & (value != 3))[5]
    for row in (held, trained):
        other = known(ratings(changed=int(row)))
        assert other.liked[row] != one.liked[row]
        assert str(other.texts(np.array([row]))[0].history) == str(one.texts(np.array([row]))[0].history)
        mine = ["user", "others", "count"]
        np.testing.assert_allclose(other.numbers.loc[row, mine], one.numbers.loc[row, mine])
        same = np.isclose(other.numbers, one.numbers).all()
        assert same == (row == held)  # others may know a training event's rating, nobody a held-out one's
    tenth = one.user % 10 == one.user[trained] % 10
    of_film = (one.item == one.item[trained]) & tenth
    np.testing.assert_allclose(other.numbers["others"][of_film], one.numbers["others"][of_film])


def test_unrated_events_do_not_know_a_rating():
    one, changed = known(ratings()), known(ratings(changed=3))
    read = one.unrated()
    assert (read.item == one.item).all() and np.isnan(read.values).all() and not read.requests.any()
    written = [str(text) for text in read.windows(np.random.default_rng(0))]
    assert written == [str(text) for text in changed.unrated().windows(np.random.default_rng(0))]
    assert not any(word in text for text in written for word in ("user-", "others-", "loved", "hated"))


def test_new_words_are_one_token_each_and_lie_on_a_line_in_order(made):
    more = text_training.add_words(made, prompts.SCALES)
    old, new = made.network.tokens.weight, more.network.tokens.weight
    assert torch.equal(new[: len(old)], old) and len(more.tokenizer) == len(new)
    ids = more.tokenizer.ids("user-4 others-40 good film")
    assert ids[2:] == made.tokenizer.ids("good film") and min(ids[:2]) >= len(old)
    row = new[[more.tokenizer.ids(word)[0] for word in prompts.SCALES[0]]]
    steps = row.diff(dim=0)
    torch.testing.assert_close(steps, steps[:1].expand_as(steps), atol=1e-5, rtol=0)
    assert steps.norm() > 0 and text_training.add_words(made, ()).network.tokens.weight.shape == old.shape


def test_a_word_that_is_a_token_already_keeps_its_embedding_and_moves_no_other(made):
    old, piece = made.network.tokens.weight, made.tokenizer.bpe.token_to_id("liked")
    more, without = (text_training.add_words(made, [["low", word, "high"]]) for word in ("liked", "middle"))
    assert piece and len(more.tokenizer) == len(more.network.tokens.weight) == len(old) + 2
    assert torch.equal(more.network.tokens.weight[: len(old)], old)
    for word in ("low", "high"):
        rows = (one.network.tokens.weight[one.tokenizer.ids(word)[0]] for one in (more, without))
        torch.testing.assert_close(*rows)


def test_an_example_ends_before_its_opinion_and_knows_training_events_alone(made):
    one = known(ratings())
    row = one.test[-1:]
    text = one.texts(row, events=100)[0]
    assert len(text.history) == (one.is_train & (one.user == one.user[row])).sum()
    assert len(text.target) == 2 and text.target[1].startswith("user-") and "film number" in text.target[0]
    tokens = text_training.examples(made.tokenizer, [text], [1])
    assert tokens.target[0][tokens.target[0] > 0][-1] == SEP and not (tokens.target == EOS).any()


def test_din_ranks_what_is_known():
    one = known(ratings())
    rows = one.test
    assert not np.isin(rows, one.train).any()
    said = din(one, rows, epochs=1)
    assert said.shape == rows.shape and np.isfinite(said).all() and said.std() > 0
