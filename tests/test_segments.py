"""Late interaction: segments alone, together, and from the cache; what is learnt from what."""

from __future__ import annotations

import dataclasses
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from fixtures import DEPTH, SEGMENTS, requests, small_data

from m6rec.config import InputError
from m6rec.data.prompts import ClickWindows
from m6rec.data.text import PAD
from m6rec.generate import SegmentCache, score
from m6rec.model.network import TextTransformer
from m6rec.train import compress, losses
from m6rec.train.fit import version


def cached(network, local_layers, capacity=200):
    return SegmentCache(network, local_layers, capacity)


def test_a_window_holds_the_next_events_as_many_others_and_what_came_before(segmented):
    windows, data = segmented.requests(segmented.test), segmented.data
    assert segmented.popularity.sum() == len(segmented.train)
    for row, user in enumerate(np.unique(segmented.user[segmented.test])):
        start, end = data.offsets[user + 1] - 2, data.offsets[user + 1]  # the user's last two events
        before = data.events.iloc[max(data.offsets[user], start - 4) : start]
        wanted = [segmented.events[i, int(v) - 1] for i, v in zip(before["item"], before["value"], strict=True)]
        wanted = [np.zeros(6, np.int64)] * (4 - len(wanted)) + wanted
        assert (windows.source[row, 1:].numpy() == np.array(wanted)).all()
        shown = windows.item[row].tolist()
        assert (windows.candidates[row].numpy() == segmented.items[shown]).all()
        assert shown[:2] == segmented.item[start:end].tolist() and len(set(shown)) == 4
        assert not set(shown[2:]) & set(segmented.item[data.offsets[user] : end].tolist())
        assert windows.clicked[row].tolist() == [1, 1, 0, 0]


def test_training_windows_know_training_events_alone():
    data = small_data()

    def drawn(data):
        shop = ClickWindows(data, length=6, history=4, vocabulary=300, held=2, candidates=6)
        return list(shop.batches(np.random.default_rng(0), steps=5, size=4)), shop

    windows, shop = drawn(data)
    clicked = np.concatenate([some.item[some.clicked == 1].numpy() for some in windows])
    assert np.isin(clicked, shop.item[shop.train]).all()
    assert all((some.candidates[some.clicked < 0] == PAD).all() for some in windows)
    held = np.setdiff1d(np.arange(data.n_events), shop.train)
    events = data.events.copy()
    events.loc[held, "item"] = events.loc[held, "item"].to_numpy()[::-1]
    events.loc[held, "value"] = 6 - events.loc[held, "value"]
    for one, other in zip(windows, drawn(dataclasses.replace(data, events=events))[0], strict=True):
        assert all(map(torch.equal, one, other))


@pytest.mark.parametrize("local_layers", range(DEPTH))
def test_a_candidate_is_judged_alike_with_whatever_others_and_padding(segmented, network, local_layers):
    windows = requests(segmented)
    together = network.scores(windows, local_layers)
    for place in range(4):
        one = windows._replace(candidates=windows.candidates[:, [place]], clicked=windows.clicked[:, [place]])
        torch.testing.assert_close(network.scores(one, local_layers)[:, 0], together[:, place], atol=1e-5, rtol=0)
    wider = torch.nn.functional.pad(windows.candidates, (0, 3))
    source = torch.nn.functional.pad(windows.source, (0, 3))
    torch.testing.assert_close(
        network.scores(windows._replace(source=source, candidates=wider), local_layers), together
    )


def test_segments_do_not_meet_before_their_layers_alone_are_done(segmented, network):
    windows = requests(segmented)
    tokens = windows.source.flatten(0, 1)
    states = network.local(tokens, 2)
    changed = tokens.clone()
    changed[1] = tokens[-1]
    moved = (network.local(changed, 2) - states).abs().amax((1, 2)) > 1e-6
    assert moved.nonzero().tolist() == [[1]]
    other = windows._replace(source=changed.unflatten(0, windows.source.shape[:2]))
    assert (network.scores(other, 2) - network.scores(windows, 2)).abs().max() > 1e-4  # but after them they do


@pytest.mark.parametrize("local_layers", range(1, DEPTH))
def test_serving_equals_the_training_path_for_every_depth(segmented, network, local_layers):
    windows, cache = requests(segmented), cached(network, local_layers)
    plain = network.scores(windows, local_layers)
    served = [score(cache, s, c) for s, c in zip(windows.source, windows.candidates, strict=True)]
    assert (torch.stack(served) - plain).abs().max() <= 1e-5 < plain.std()
    assert cache.hits + cache.misses == 5 * 9 and cache.misses == len(cache)
    again = [score(cache, s, c) for s, c in zip(windows.source, windows.candidates, strict=True)]  # all of it found
    assert cache.misses == len(cache) and (torch.stack(again) - plain).abs().max() <= 1e-5


def test_a_new_event_costs_one_segment(segmented, network):
    cache, windows = cached(network, 2), requests(segmented, 1)
    score(cache, windows.source[0], windows.candidates[0])
    before = cache.misses
    source = windows.source[0].clone()
    source[1:-1], source[-1] = windows.source[0][2:], torch.from_numpy(segmented.events[3, 4])
    source[-1, -1] = len(segmented.tokenizer) - 1  # a text that nobody has
    score(cache, source, windows.candidates[0])
    assert cache.misses == before + 1


def test_a_stale_state_is_never_used(segmented, network):
    cache, windows = cached(network, 2), requests(segmented)
    first, old = score(cache, windows.source[0], windows.candidates[0]), cache.version
    optimizer = torch.optim.AdamW(network.parameters(), 1e-1)
    network.scores(windows, 2).square().mean().backward()
    optimizer.step()
    served = score(cache, windows.source[0], windows.candidates[0])
    torch.testing.assert_close(served, network.scores(windows, 2)[0], atol=1e-5, rtol=0)
    assert cache.version != old and (served - first).abs().max() > 1e-3
    other = TextTransformer(SEGMENTS, len(segmented.tokenizer), scores=True)
    for change in (
        lambda: network.load_state_dict(other.state_dict()),
        lambda: network.load_state_dict(
            TextTransformer(SEGMENTS, len(segmented.tokenizer), scores=True).state_dict(), assign=True
        ),
        lambda: network.blocks.__setitem__(0, TextTransformer(SEGMENTS, 300, scores=True).eval().blocks[0]),
    ):
        change()
        served, stale = score(cache, windows.source[0], windows.candidates[0]), served
        torch.testing.assert_close(served, network.scores(windows, 2)[0], atol=1e-5, rtol=0)
        assert (served - stale).abs().max() > 1e-3
    weight, average = network.tokens.weight, torch.randn_like(network.tokens.weight)
    for taken in (average, weight.data, average):  # averaged weights take turns with these, and move meanwhile
        weight.data = taken
        served = score(cache, windows.source[0], windows.candidates[0])
        torch.testing.assert_close(served, network.scores(windows, 2)[0], atol=1e-5, rtol=0)
        average.mul_(2)


def test_the_memory_is_bounded_whatever_comes(segmented, network):
    cache, rng = cached(network, 2, capacity=12), np.random.default_rng(0)
    for _ in range(200):
        tokens = torch.from_numpy(rng.integers(1, 70, (7, 6)))
        torch.testing.assert_close(cache.states(tokens), network.local(tokens, 2), atol=1e-5, rtol=0)
    assert len(cache) == 12 and cache.misses > 12
    assert sum(state.untyped_storage().nbytes() for state in cache._states.values()) == 12 * 6 * 16 * 4


def test_the_least_recently_used_makes_room(network):
    cache = cached(network, 1, capacity=2)
    a, b, c = torch.arange(8, 26).view(3, 1, 6)
    for tokens in (a, b, a, c, a):
        cache.states(tokens)
    assert (cache.hits, cache.misses) == (2, 3)
    cache.states(b)  # b went, not a
    assert cache.misses == 4


def test_bad_requests_are_named(segmented, network):
    with pytest.raises(InputError, match="take 0 to 3"):
        cached(network, DEPTH).states(torch.ones(1, 6, dtype=torch.long))
    with pytest.raises(InputError, match="local layers"):
        network.local(torch.ones(1, 6, dtype=torch.long), DEPTH)
    with pytest.raises(InputError, match="no score heads"):
        TextTransformer(SEGMENTS, 70).scores(requests(segmented))
    with pytest.raises(InputError, match="needs scores=True"):
        TextTransformer(SEGMENTS, 70, embedding_size=4)
    with pytest.raises(InputError, match="one request has 3 segments"):
        cached(network, 1, capacity=2).states(torch.arange(8, 26).view(3, 6))
    with pytest.raises(InputError, match=r"network\.eval"):
        cached(network.train(), 1).states(torch.ones(1, 6, dtype=torch.long))
    untold = small_data()
    untold.events["value"] = 1.0
    with pytest.raises(InputError, match="has none"):
        ClickWindows(untold)


def test_labels_teach_and_the_same_training_ends_with_the_same_weights(segmented, tmp_path, monkeypatch):
    monkeypatch.setenv("M6REC_HOME", str(tmp_path))
    made = []
    late = partial(losses.exit_losses, local_layers=1)
    for kept in (False, True, False):
        if not kept:
            shutil.rmtree(tmp_path / "models", ignore_errors=True)
        torch.manual_seed(0)
        net = TextTransformer(SEGMENTS, len(segmented.tokenizer), scores=True)
        windows = next(segmented.batches(np.random.default_rng(0), steps=1, size=30))
        before = late(net.eval(), windows)["exits"].item()
        compress.Variants(segmented, SEGMENTS, steps=50, tune=50).train("late-1", net, late)
        made.append((version(net), before - late(net, windows)["exits"].item()))
    assert made[0] == made[1] == made[2] and made[0][1] > 0.02


def test_exits_weigh_as_two_k_over_l_times_l_plus_one(segmented, network):
    windows = requests(segmented)
    steps = [
        torch.nn.functional.binary_cross_entropy_with_logits(logits, windows.clicked)
        for logits in network.exits(windows)
    ]
    by_hand = sum(2 * k / (DEPTH * (DEPTH + 1)) * loss for k, loss in enumerate(steps, 1))
    torch.testing.assert_close(losses.exit_losses(network, windows)["exits"], by_hand)
